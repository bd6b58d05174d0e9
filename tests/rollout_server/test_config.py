import pytest
from pydantic import ValidationError

from rollout_server.config import ServeConfig


def test_an_open_port_needs_to_be_asked_for():
    with pytest.raises(ValidationError, match=r"reachable by others.*--server.insecure"):
        ServeConfig.model_validate({"server": {"host": "0.0.0.0"}})
    ServeConfig.model_validate({"server": {"host": "0.0.0.0", "insecure": True}})
    ServeConfig.model_validate({"server": {"host": "::1"}})


def test_limits_are_published():
    config = ServeConfig.model_validate({"limits": {"max_request_bytes": 5_000_000}})
    limits = config.limits.published()
    assert limits.max_message_bytes == 10_000_000
    assert limits.max_chunk_bytes <= limits.max_message_bytes


@pytest.mark.parametrize(
    "values", [{"engin": {}}, {"engine": {"dtype": "int8"}}, {"limits": {"max_request_bytes": 9}}]
)
def test_what_is_no_setting_is_refused(values):
    with pytest.raises(ValidationError):
        ServeConfig.model_validate(values)
