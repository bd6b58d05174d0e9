"""`student-trainer report` over folders as runs leave them."""

import json
from pathlib import Path

import pytest

from student_trainer.cli import main
from student_trainer.report_config import ReportConfig
from student_trainer.runs_report import run_names, runs_report
from tests.parsed_page import parse


def make_run(
    folder: Path, name: str = "vgs", steps: int = 12, accuracy: float | None = 0.5
) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(f'seed = 0\n\n[objective]\nname = "{name}"\ngamma = 2.0\n')
    lines: list[dict[str, float]] = []
    if accuracy is not None:
        lines.append({"step": 0, "eval/accuracy": 0.25})
    for step in range(1, steps + 1):
        line = {"step": step, "loss/standard": 1 / step, "loss/lang_top": 0.1, "vds/mean": 0.3}
        line |= {"time/step_s": 1.0, "time/sampler_wait_s": 0.6, "time/update_s": 0.3}
        lines.append(line | {"time/teacher_wait_s": 0.1, "eta/value": 0.4, "steering/gamma": 2.0})
    if accuracy is not None:
        lines[6]["eval/accuracy"] = accuracy + 0.25
        lines[-1]["eval/accuracy"] = accuracy
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_run_reports_into_its_own_folder(tmp_path: Path, capsys):
    run = make_run(tmp_path / "vgs-0")
    assert main(["report", str(run)]) == 0
    assert f"report: {run / 'report.html'}" in capsys.readouterr().out
    page = parse((run / "report.html").read_text())
    for said in (
        "A run of 12 steps with the objective vgs. Accuracy on the validation questions came to 50.0%",
        "25.0%", "Validation accuracy at its best", "75.0", "vgs-0 by its sampler", "All settings",
        "Language where it is preserved",
    ):  # fmt: skip
        assert said in page.text, said
    assert "None" not in page.text


def test_runs_are_compared_in_the_folder_that_they_share(tmp_path: Path, capsys):
    runs = [make_run(tmp_path / name / "run", name) for name in ("vgs", "standard")]
    assert main(["report", *map(str, runs)]) == 0
    html = (tmp_path / "report.html").read_text()
    page = parse(html)
    assert "2 runs compared" in page.text
    assert "vgs/run" in page.text
    assert '<th scope="row">objective.name</th><td>vgs</td><td>standard</td>' in html


def test_the_file_may_be_named_and_a_run_be_under_way(tmp_path: Path):
    run = make_run(tmp_path / "run", accuracy=None)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    (run / "config.toml").unlink()  # of a folder that was copied in part
    out = runs_report(ReportConfig(runs=(run, run), out=tmp_path / "page.html"))
    assert out == tmp_path / "page.html"
    assert "A run of 12 steps with the objective unknown." in parse(out.read_text()).text


def test_a_dozen_runs_are_all_there(tmp_path: Path):
    runs = [make_run(tmp_path / f"run-{i}", steps=12 + i) for i in range(12)]
    html = runs_report(ReportConfig(runs=tuple(runs))).read_text()
    page = parse(html)
    assert "12 runs of 12 to 23 steps." in page.text
    assert all(f"run-{i}" in page.text for i in range(12))
    assert 'class="c1 d2"' in html


def test_geometry_is_taken_from_the_folder(tmp_path: Path):
    run = make_run(tmp_path / "run")
    angles = {name: [90.0] * 10 for name in ("lang_vis", "std_vis", "std_lang")}
    whole = {"angles": dict.fromkeys(angles, 90.0)}
    found = {"step": 12, "tokens": 99, "angles": angles, "top_30": whole, "low_70": whole}
    (run / "geometry.json").write_text(json.dumps(found))
    assert "Geometry of the gradients" in runs_report(ReportConfig(runs=(run,))).read_text()


def test_names_grow_until_they_tell_the_runs_apart():
    paths = [Path(p) for p in ("/x/a/run", "/x/b/run", "/y/b/run", "/x/other")]
    assert run_names(paths) == ["a/run", "x/b/run", "y/b/run", "other"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda run: (run / "metrics.jsonl").unlink(), "has no metrics.jsonl"),
        (lambda run: (run / "metrics.jsonl").write_text(""), "not finished a step"),
        (lambda run: (run / "metrics.jsonl").write_text('{"st\n{"step": 2}\n'), "damaged"),
        (lambda run: (run / "config.toml").write_text("seed = "), "config.toml is no TOML"),
        (lambda run: (run / "geometry.json").write_text("{"), "geometry.json is no JSON"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path: Path, capsys, damage, says):
    run = make_run(tmp_path / "run")
    damage(run)
    assert main(["report", str(run)]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert str(run) in said


def test_wrong_arguments_end_with_2(tmp_path: Path, capsys):
    assert main(["report"]) == 2
    assert "say which runs" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "nowhere")]) == 2
    assert "is no folder" in capsys.readouterr().err
    run = make_run(tmp_path / "run")
    assert main(["report", str(run), "--out", str(tmp_path / "no" / "page.html")]) == 2
    assert "page.html" in capsys.readouterr().err
