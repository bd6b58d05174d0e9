"""The report on runs, opened from disk."""

import json
import math
from pathlib import Path

import pytest
from playwright.sync_api import expect

from student_trainer.report_config import ReportConfig
from student_trainer.runs_report import runs_report
from tests.browser.conftest import Opened

pytestmark = pytest.mark.browser
OBJECTIVES = (
    "standard",
    "standard-lp",
    "vgs",
    "vgs-lp",
    "adaptive-vgs",
    "language-steering",
    "vgs-lp-auto",
)
ANGLES = ("lang_vis", "std_vis", "std_lang")


def make_run(folder: Path, place: int) -> Path:
    """As training and measuring leave it; later runs have other numbers."""
    folder.mkdir(parents=True)
    settings = f'seed = {place}\nmodel = "Qwen/Qwen3-VL-2B-Instruct"\n\n[objective]\nname = "{folder.name}"\n'
    (folder / "config.toml").write_text(settings)
    lines = []
    for step in range(121):
        line = {"step": step}
        if step % 20 == 0:
            line["eval/accuracy"] = 0.3 + 0.004 * step * (1 - 0.1 * place)
        if step:
            fall = math.exp(-step / 40) * (1 + 0.1 * math.sin(step * (place + 2)))
            line |= dict.fromkeys(
                ("loss/standard", "loss/lang"), (0.1 + 0.05 * place) * fall + 0.05
            )
            line |= {
                "loss/vis": fall,
                "loss/lp": 0.3 * fall,
                "loss/lang_top": 0.2 + 0.001 * step * place,
            }
            line |= {"vds/mean": 0.3, "time/step_s": 2.0 + place, "time/sampler_wait_s": 1.0}
            line |= {"time/teacher_wait_s": 0.2, "time/update_s": 0.6 + place, "rollout/lag": 0.0}
            line |= {"eta/value": 0.4, "steering/gamma": 2.0, "steering/lambda": 0.01 * (1 + step)}
        if step % 10 == 1:
            line |= {
                "geometry/norm_standard": 4.0,
                "geometry/norm_vis": 3.0 + place,
                "geometry/norm_lang": 0.5,
            }
            line |= {
                f"geometry/{n}_degrees": 50.0 + 3 * place for n in ("lang_vis", "standard_vis")
            }
            line |= {"geometry/standard_lang_degrees": 45.0, "geometry/eta": 0.41}
        lines.append(json.dumps(line) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    angles = {name: [55.0 + place + 4 * d for d in range(10)] for name in ANGLES}
    whole = {"angles": dict.fromkeys(ANGLES, 80.0 + place)}
    found = {"step": 120, "tokens": 54_321, "angles": angles, "top_30": whole, "low_70": whole}
    if place < 3:
        (folder / "geometry.json").write_text(json.dumps(found))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [make_run(folder / name, place) for place, name in enumerate(OBJECTIVES)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("count", [1, 7])
def test_the_page_opens_from_disk(
    opened: Opened, runs: list[Path], screenshots: Path, tmp_path: Path, count, width, scheme
):
    page_file = runs_report(ReportConfig(runs=tuple(runs[-count:]), out=tmp_path / "page.html"))
    watched = opened(page_file.as_uri(), width, scheme)
    page = watched.page
    title = OBJECTIVES[-1] if count == 1 else "7 runs compared"
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    assert watched.overflow() == 0
    assert page.locator(".results li").count() == count
    watched.screenshot(screenshots / f"runs-report-{count}-{width}-{scheme}.png")


def test_runs_of_one_colour_are_told_apart(opened: Opened, runs: list[Path], tmp_path: Path):
    page_file = runs_report(ReportConfig(runs=tuple(runs), out=tmp_path / "page.html"))
    page = opened(page_file.as_uri()).page
    lines = page.locator("svg.chart").nth(1).locator("g > .line")
    drawn = lines.evaluate_all(
        "lines => lines.map(getComputedStyle).map((s) => [s.stroke, s.strokeDasharray].join())"
    )
    assert len(drawn) == len(set(drawn)) == len(OBJECTIVES)
