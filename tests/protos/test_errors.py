import grpc
import pytest

from protos import errors
from protos.error_codec import error_from_proto, error_to_proto
from protos.errors import CODES, ErrorDetail, InternalFault, TeacherError, error_from_code
from protos.v1 import teacher_pb2 as pb

STDLIB = {
    "InvalidItem": ValueError,
    "PreconditionFailed": ValueError,
    "DuplicateId": ValueError,
    "LimitExceeded": RuntimeError,
    "DeadlineExceeded": TimeoutError,
    "Cancelled": RuntimeError,
    "Unauthenticated": PermissionError,
    "NotAllowed": PermissionError,
    "Unimplemented": NotImplementedError,
    "Unavailable": ConnectionError,
    "InternalFault": RuntimeError,
    "EchoMismatch": RuntimeError,
}
DETAIL = ErrorDetail("response_ids", "7", "5", 250, "e-1")


def test_the_table_names_every_error_once_and_no_code_twice() -> None:
    defined = {
        one
        for one in vars(errors).values()
        if isinstance(one, type) and issubclass(one, TeacherError) and one is not TeacherError
    }
    assert set(CODES) == defined
    assert len(set(CODES.values())) == len(CODES)
    assert grpc.StatusCode.OK not in CODES.values()


@pytest.mark.parametrize("error", list(CODES))
def test_every_error_refines_the_stdlib_type(error: type[TeacherError]) -> None:
    assert issubclass(error, STDLIB[error.__name__])


@pytest.mark.parametrize("error", list(CODES))
@pytest.mark.parametrize("ids", [{"request_id": 4}, {"prompt_id": 5}], ids=["request", "prompt"])
def test_every_error_crosses_the_wire_with_its_detail(
    error: type[TeacherError], ids: dict[str, int]
) -> None:
    sent = error_to_proto(error("it is 7, the limit is 5; send less", DETAIL), **ids)
    message = pb.ItemError.FromString(sent.SerializeToString())
    assert message.code == CODES[error].value[0]
    assert message.WhichOneof("item") == next(iter(ids))
    got = error_from_proto(message)
    assert type(got) is error
    assert str(got) == got.message == "it is 7, the limit is 5; send less"
    assert got.detail == DETAIL


def test_an_error_without_detail_has_an_empty_one() -> None:
    assert (
        error_from_proto(error_to_proto(InternalFault("oh"), request_id=1)).detail == ErrorDetail()
    )


@pytest.mark.parametrize("code", [0, 2, 11, 99])
def test_a_code_outside_the_table_is_named(code: int) -> None:
    got = error_from_code(code, "what?", DETAIL)
    assert type(got) is InternalFault
    assert str(got) == f"unexpected status code {code}: what?"
    assert got.detail == DETAIL
