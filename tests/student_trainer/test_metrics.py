import json
import math
from contextlib import closing
from pathlib import Path

import pytest

from student_trainer.metrics import MetricsLog, read_metrics


def steps(folder: Path) -> list[float]:
    return [line["step"] for line in read_metrics(folder / "metrics.jsonl")]


def write_steps(folder: Path, first: int, last: int, value: float = 0.0) -> None:
    with closing(MetricsLog(folder, first - 1)) as metrics:
        for step in range(first, last + 1):
            metrics.write(step, {"loss/total": value})


def test_a_line_has_its_step_its_time_and_its_values(tmp_path: Path) -> None:
    with closing(MetricsLog(tmp_path / "run", 0)) as metrics:
        metrics.write(1, {"loss/total": 0.5, "vds/mean": 2.0})
        # Readable while the run goes on.
        (line,) = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert line.pop("unix_time_s") > 1e9
    assert line == {"step": 1, "loss/total": 0.5, "vds/mean": 2.0}


def test_what_is_not_finite_is_null(tmp_path: Path) -> None:
    values = {"loss/lang_top": math.nan, "grad/norm": math.inf, "loss/total": 0.5}
    with closing(MetricsLog(tmp_path, 0)) as metrics:
        metrics.write(1, values)

    def refuse(name: str) -> float:
        raise AssertionError(f"{name} is no JSON")

    for _ in range(2):
        text = (tmp_path / "metrics.jsonl").read_text()
        line = json.loads(text, parse_constant=refuse)
        assert (line["loss/lang_top"], line["grad/norm"], line["loss/total"]) == (None, None, 0.5)
        (read,) = read_metrics(tmp_path / "metrics.jsonl")
        assert math.isnan(read["loss/lang_top"])
        MetricsLog(tmp_path, 1).close()  # a resumed run writes the line again


def test_a_resumed_run_drops_the_lines_that_it_will_do_again(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 5, value=1.0)
    write_steps(tmp_path, 4, 6, value=2.0)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss/total"]) for line in lines] == [
        (1, 1.0),
        (2, 1.0),
        (3, 1.0),
        (4, 2.0),
        (5, 2.0),
        (6, 2.0),
    ]


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss/tot')
    assert steps(tmp_path) == [1, 2]
    write_steps(tmp_path, 3, 3)
    assert steps(tmp_path) == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st\n{"step": 3}\n')
    with pytest.raises(json.JSONDecodeError):
        read_metrics(tmp_path / "metrics.jsonl")


def test_without_a_file_there_are_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_run_that_begins_anew_keeps_nothing(tmp_path: Path) -> None:
    """It ended before its first checkpoint; even the evaluation before the first step is done again."""
    write_steps(tmp_path, 1, 2)
    with closing(MetricsLog(tmp_path, 0)) as metrics:
        metrics.write(0, {"eval/accuracy": 0.25})
    assert steps(tmp_path) == [0]


def test_trackers_hear_the_same_and_are_closed(tmp_path: Path) -> None:
    heard: list[object] = []

    class Listener:
        def write(self, step, values):
            heard.append((step, dict(values)))

        def close(self):
            heard.append("closed")

    with closing(MetricsLog(tmp_path, 0, [Listener()])) as metrics:
        metrics.write(1, {"loss/total": 0.5})
    assert heard == [(1, {"loss/total": 0.5}), "closed"]
