"""The demo, two steps of it, on the shipped toy and in its real processes."""

import json
import tomllib
from pathlib import Path

from student_trainer.demo import demo
from student_trainer.demo_config import DemoConfig

KEYS = {
    "accuracy_before",
    "accuracy_after",
    "steps",
    "seconds",
    "teacher_wait_share",
    "wire_bytes_per_token",
    "mean_vds",
}


def test_two_steps_of_the_demo(tmp_path: Path, capsys):
    values = tomllib.loads(Path("examples/digits/demo.toml").read_text())
    values |= {"run_dir": str(tmp_path), "heldout_limit": 8, "examples": 2}
    values["train"] |= {"steps": 2, "eval": {"every": 2, "limit": 4}}
    (tmp_path / "precious.txt").write_text("not the demo's")
    for _ in range(2):  # a second demo replaces the first, and nothing else
        demo(DemoConfig.model_validate(values))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary["objectives"]) == {"standard", "vgs-lp"}
    for figures in summary["objectives"].values():
        assert set(figures) >= KEYS
        assert figures["steps"] == 2
        assert 0 <= figures["accuracy_before"] <= 1
        assert 0 < figures["teacher_wait_share"] < 1
        assert figures["wire_bytes_per_token"] > 16
        assert figures["mean_vds"] > 0
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "precious.txt").exists()
    assert "vgs-lp" in capsys.readouterr().out
