"""Services of docker-compose.yml as processes, for a module's tests."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from deploy.smoke.compose_file import read_environment, read_services
from deploy.smoke.processes import ROOT, Stack, stack

Started = Callable[..., AbstractContextManager[Stack]]


@pytest.fixture
def compose(tmp_path: Path) -> Started:
    """`with compose("multi", TOY_STEPS="3") as local`: nothing runs before its `up()`, and nothing stays after it."""
    runs = tmp_path / "runs"
    runs.mkdir()

    def start(profile: str, **settings: str) -> AbstractContextManager[Stack]:
        environment = read_environment(ROOT / ".env") | {"RUNS": str(runs)} | settings
        services = read_services(ROOT / "docker-compose.yml", environment, {profile})
        return stack(services, tmp_path)

    return start
