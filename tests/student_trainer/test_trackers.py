"""Each tracker for real, as far as its package is installed; none needs a network."""

import json
import math
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from student_trainer.metrics import MetricsLog
from student_trainer.trackers import open_trackers, refuse_absent

SETTINGS = {"seed": 0, "objective": {"name": "vgs-lp"}}


def write_steps(tracker: str, folder: Path, first: int, last: int, value: float) -> None:
    opened = open_trackers([tracker], folder, first - 1, SETTINGS)
    with closing(MetricsLog(folder, first - 1, opened)) as metrics:
        for step in range(first, last + 1):
            metrics.write(step, {"loss/total": value, "loss/lang_top": math.nan})


def scalars(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("loss/total")]


def test_tensorboard_goes_on_where_a_run_was_resumed(tmp_path: Path) -> None:
    write_steps("tensorboard", tmp_path, 1, 3, 0.25)
    write_steps("tensorboard", tmp_path, 3, 4, 0.5)
    assert scalars(tmp_path) == [(1, 0.25), (2, 0.25), (3, 0.5), (4, 0.5)]


def test_tensorboard_forgets_a_run_that_begins_anew(tmp_path: Path) -> None:
    for value in (0.25, 0.5):
        (tracker,) = open_trackers(["tensorboard"], tmp_path, 0, SETTINGS)
        with closing(tracker):
            tracker.write(0, {"loss/total": value})
    assert scalars(tmp_path) == [(0, 0.5)]


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_an_absent_package_is_named_with_its_command(name, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(ValueError, match=rf"trackers names {name}.*pip install .*{name}"):
        refuse_absent([name])


def test_names_do_no_more_than_they_say() -> None:
    assert open_trackers([], Path("nowhere"), 0, SETTINGS) == []
    assert not {"wandb", "trackio"} & set(sys.modules)


@pytest.fixture
def trackio_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("trackio", reason="trackio is not installed")
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)  # it reads the variable as it is imported
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path / "trackio"


@pytest.mark.filterwarnings("ignore")  # of packages below trackio
def test_trackio_goes_on_in_the_same_run(tmp_path: Path, trackio_dir: Path) -> None:
    write_steps("trackio", tmp_path / "run", 1, 3, 0.25)
    name = (tmp_path / "run" / "trackio_name").read_text().strip()
    write_steps("trackio", tmp_path / "run", 4, 5, 0.5)
    (path,) = trackio_dir.glob("*.db")
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute(
            "SELECT run_name, step, metrics FROM metrics ORDER BY step"
        ).fetchall()
    assert {run for run, _, _ in rows} == {name}
    found = [(step, json.loads(metrics)["loss/total"]) for _, step, metrics in rows]
    assert found == [(1, 0.25), (2, 0.25), (3, 0.25), (4, 0.5), (5, 0.5)]


@pytest.fixture
def wandb_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    for name, value in (("MODE", "offline"), ("SILENT", "true"), ("ERROR_REPORTING", "false")):
        monkeypatch.setenv(f"WANDB_{name}", value)


@pytest.mark.filterwarnings("ignore")  # of packages below wandb
@pytest.mark.usefixtures("wandb_offline")
def test_wandb_offline_goes_on_under_the_same_id(tmp_path: Path) -> None:
    write_steps("wandb", tmp_path / "run", 1, 2, 0.25)
    time.sleep(1.1)  # wandb names its folders by the second
    write_steps("wandb", tmp_path / "run", 3, 3, 0.5)
    kept = (tmp_path / "run" / "wandb_id").read_text().strip()
    files = list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert {path.name for path in files} == {f"run-{kept}.wandb"}
    assert len(files) == 2
    assert all(b"loss/total" in path.read_bytes() for path in files)
