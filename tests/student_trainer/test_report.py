import math
import re
from itertools import pairwise

import pytest

from student_trainer.report import render_report
from student_trainer.report_chart import DEGREES, Mark, Series, colour, line_figure
from student_trainer.report_example import AnswerExample
from student_trainer.report_ticks import compact, nice_ticks, tick_label
from tests.parsed_page import parse

EVIL = '<script>alert("1")</script>'
PNG_32_BY_16 = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (32).to_bytes(4, "big") + (16).to_bytes(4, "big")
)


def curve(steps: int, **values: float) -> list[dict[str, float]]:
    lines = [
        {"step": float(s), **{k: v / s for k, v in values.items()}} for s in range(1, steps + 1)
    ]
    for line in lines[::5]:
        line["eval/accuracy"] = 0.5
    return lines


METRICS = {
    "loss/standard": 1.0,
    "vds/mean": 0.4,
    "time/sampler_wait_s": 0.2,
    "time/teacher_wait_s": 0.1,
    "time/update_s": 0.3,
    "time/step_s": 0.7,
}


@pytest.fixture
def summary():
    figures = {"accuracy_before": 0.332, "accuracy_after": 0.694, "steps": 200, "eta": 1.0}
    return {
        "title": "A demo",
        "date": "2026-11-22",
        "versions": {"torch": "2.9.1"},
        "teacher": {"model_id": "the/teacher", "engine": "transformers"},
        "heldout_questions": 500,
        "objectives": {"standard": figures, "vgs-lp": figures | {"accuracy_after": 0.758}},
    }


@pytest.fixture
def curves():
    steered = METRICS | {"loss/vis": 2.0, "loss/lang": 1.0, "loss/lp": 0.5}
    return {"standard": curve(40, **METRICS), "vgs-lp": curve(40, **steered)}


def example(**changes) -> AnswerExample:
    values = {
        "images": (PNG_32_BY_16,),
        "question": "What is the sum?",
        "expected": "11",
        "responses": {"initial": "", "standard": "\\boxed{11}", "vgs-lp": "x" * 5000},
        "correct": {"initial": False, "standard": True},
    }
    return AnswerExample(**(values | changes))


def test_page_is_balanced_and_says_what_happened(summary, curves):
    page = parse(render_report(summary, curves, [example()]))
    assert page.tags[0] == ("html", {"lang": "en"})
    for said in ("A demo", "33.2% to 69.4% with standard and 75.8% with vgs-lp", "the/teacher"):
        assert said in page.text
    assert "vgs-lp ended 6.4 points above standard, more than the 5.5 points" in page.text
    titles = re.findall(r"<h3>(.*? term)</h3>", render_report(summary, curves, []))
    assert titles == ["Standard term", "Visual term", "Language term", "Preservation term"]


def test_charts_have_roles_and_labels_that_tell_the_finding(summary, curves):
    page = parse(render_report(summary, curves, []))
    labels = [attrs["aria-label"] for tag, attrs in page.tags if attrs.get("role") == "img"]
    assert len(labels) == 7  # accuracy, four losses, VDS, times
    assert "Validation accuracy: standard 50.0 → 50.0%; vgs-lp 50.0 → 50.0%" in labels
    assert any("standard sampler" in label and "other" in label for label in labels)


def test_what_bounds_a_run_is_said(summary, curves):
    curves["vgs-lp"] = curve(9, **METRICS | {"time/sampler_wait_s": 0.5})
    page = parse(render_report(summary, curves, []))
    assert "standard by its learner, vgs-lp by its sampler" in page.text


def geometry(*angles: float | None) -> dict:
    rising = [50.0 + 5 * d for d in range(9)]
    named = ("lang_vis", "std_vis", "std_lang")
    whole = {"angles": dict(zip(named, angles, strict=True))}
    by_decile = {name: [*rising, last] for name, last in zip(named, angles, strict=True)}
    return {"step": 60, "tokens": 1000, "angles": by_decile, "top_30": whole, "low_70": whole}


def test_angles_by_decile_stand_beside_the_papers(summary, curves):
    measured = {"vgs-lp": geometry(91.0, 42.5, None)}
    html = render_report(summary, curves, [], measured)
    page = parse(html)
    assert "vgs-lp after 60 steps, on 1,000 tokens" in page.text
    assert "Language to visual: vgs-lp 50 → 91°" in html
    assert "<title>paper, VDS decile 9: 92.0°</title>" in html
    assert html.count("<title>paper, ") == 4
    assert "<td>91.0°</td><td>42.5°</td><td>–</td>" in html  # noqa: RUF001
    assert len(re.findall(r"<title>vgs-lp, VDS decile \d", html)) == 29, "no point without a value"
    assert "Geometry of the gradients" not in render_report(summary, curves, [], {"vgs-lp": None})


def test_geometry_is_shown_over_the_steps(summary, curves):
    for line in curves["vgs-lp"][::10]:
        line |= {"geometry/norm_vis": 2.0, "geometry/lang_vis_degrees": 60.0, "geometry/eta": 0.4}
    html = render_report(summary, curves, [])
    parse(html)
    assert "Language to visual: vgs-lp 60 → 60°" in html
    assert "vgs-lp 0.4 → 0.4" in html


def test_strengths_are_shown_where_they_change(summary, curves):
    for step, line in enumerate(curves["vgs-lp"]):
        line |= {"steering/gamma": 2.0, "steering/lambda": 0.1 * step}
    html = render_report(summary, curves, [])
    assert "Weight of preservation, &lambda;</h3>" in html
    assert "Weight of the visual term, &gamma;</h3>" not in html


def test_rewards_have_a_figure_each(summary, curves):
    for line in curves["standard"]:
        line |= {"reward/mean": 0.5, "reward/<format>": 0.25}
    html = render_report(summary, curves, [])
    parse(html)
    assert "<h3>Reward: mean</h3>" in html
    assert "<h3>Reward: &lt;format&gt;</h3>" in html


def test_settings_that_differ_stand_in_a_table(summary, curves):
    common = {"seed": 0, "model": EVIL, "run_dir": "a"}
    settings = {
        "standard": common | {"objective": {"name": "standard"}},
        "vgs-lp": common | {"run_dir": "b", "objective": {"name": "vgs-lp", "gamma": 2.0}},
    }
    html = render_report(summary, curves, [], settings=settings)
    page = parse(html)
    assert '<th scope="row">objective.name</th><td>standard</td><td>vgs-lp</td>' in html
    assert '<th scope="row">objective.gamma</th><td>–</td><td>2.0</td>' in html  # noqa: RUF001
    assert "2 settings that all runs share" in page.text
    assert "<script" not in html
    assert "run_dir" not in html


def test_table_has_scopes_and_a_caption(summary, curves):
    page = parse(render_report(summary, curves, []))
    assert any(tag == "caption" for tag, _ in page.tags)
    assert {attrs.get("scope") for tag, attrs in page.tags if tag == "th"} == {"col", "row"}


def test_text_from_data_is_escaped(summary, curves):
    summary["title"] = summary["machine"] = summary["teacher"]["model_id"] = EVIL
    summary["versions"] = {EVIL: EVIL}
    summary["objectives"][EVIL] = summary["objectives"].pop("vgs-lp")
    curves[EVIL] = curves.pop("vgs-lp")
    evil = example(
        question=EVIL, expected=EVIL, responses={EVIL: EVIL, "b": EVIL * 99}, correct={EVIL: True}
    )
    html = render_report(summary, curves, [evil])
    page = parse(html)
    assert "<script" not in html.lower()
    assert not any(tag == "script" for tag, _ in page.tags)
    assert EVIL in page.text
    assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs)


def test_dollar_signs_in_data_stay(summary, curves):
    summary["title"] = "$lede costs $5"
    assert "<h1>$lede costs $5</h1>" in render_report(summary, curves, [])


def test_page_reaches_for_nothing_outside_itself(summary, curves):
    html = render_report(summary, curves, [example()])
    page = parse(html)
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert "url(" not in html
    sources = [a[n] for _, a in page.tags for n in ("src", "href", "srcset") if n in a]
    assert sources
    assert all(source.startswith("data:") for source in sources)


def test_missing_and_nonfinite_numbers_are_dashes(summary, curves):
    summary["objectives"]["standard"] = {"accuracy_after": math.nan, "seconds": math.inf}
    summary["objectives"]["vgs-lp"]["gamma"] = None
    summary.pop("heldout_questions")
    curves["standard"][3]["loss/standard"] = math.nan
    curves["vgs-lp"].append({"step": 41.0, "loss/standard": math.inf})
    html = render_report(summary, curves, [])
    parse(html)
    assert "<td>–</td>" in html  # noqa: RUF001
    assert not re.search(r"\b(nan|inf|None)\b", html)


def test_empty_report_is_a_page():
    html = render_report({}, {}, [])
    parse(html)
    assert "Held-out answers" not in html
    assert "<h2>Losses" not in html


def test_single_point_curves(summary):
    line = {"step": 1, "loss/standard": 0.0, "eval/accuracy": 1.0, "vds/mean": 0.3}
    html = render_report(summary, {"standard": [line], "vgs-lp": []}, [])
    parse(html)
    assert html.count('class="marker"') == 3


def test_no_examples_leave_no_heading(summary, curves):
    assert "Held-out answers" not in render_report(summary, curves, [])


def test_answers_are_marked_in_words_and_signs(summary, curves):
    page = parse(render_report(summary, curves, [example()]))
    assert "✗ wrong" in page.text
    assert "✓ right" in page.text
    assert (
        sum("mark" in (attrs.get("class") or "") for tag, attrs in page.tags if tag == "span") == 2
    )


def test_tiny_pictures_grow_and_unknown_ones_are_named(summary, curves):
    pictures = (PNG_32_BY_16, b"\xff\xd8\xff\xe0", b"RIFF0000WEBPVP8 ", b"<svg onload=alert(1)>")
    page = parse(render_report(summary, curves, [example(images=pictures)]))
    images = [attrs for tag, attrs in page.tags if tag == "img"]
    assert [image["src"].split(";")[0] for image in images] == [
        "data:image/png", "data:image/jpeg", "data:image/webp",
    ]  # fmt: skip
    assert (images[0]["width"], images[0]["height"]) == ("256", "128")
    assert "unknown format" in page.text


@pytest.mark.parametrize(
    ("low", "high"),
    [
        *((0, 0), (3, 3), (-2, -2), (7, 2), (-3, 5), (0.1, 0.3), (0, 0.7), (999_999, 1_000_001)),
        *((0, 1e-12), (5e-324, 1e-310), (1e16, 1e16 + 2), (0, 1.7e308), (-1.7e308, 1.7e308)),
    ],
)
def test_ticks_enclose_and_rise(low, high):
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(math.isfinite(tick) and a < tick for a, tick in pairwise(ticks))
    clipped = [min(max(end, -1e300), 1e300) for end in sorted((low, high))]
    assert ticks[0] <= clipped[0] + 1e-300
    assert ticks[-1] >= clipped[1] - 1e-300
    labels = [tick_label(tick, ticks[1] - ticks[0]) for tick in ticks]
    assert len(set(labels)) == len(labels)


def test_ticks_are_round():
    assert nice_ticks(0, 0.7) == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert nice_ticks(0.1, 0.3) == [0.1, 0.15, 0.2, 0.25, 0.3]
    assert nice_ticks(0, 0) == [0.0, 0.5, 1.0]


def test_labels():
    assert [tick_label(v, 0.05) for v in (0.0, 0.15, -0.1)] == ["0", "0.15", "\N{MINUS SIGN}0.10"]
    assert tick_label(2_000_000, 1_000_000) == "2e6"
    assert tick_label(20_000, 10_000) == "20,000"
    assert compact(5e-7) == "5e\N{MINUS SIGN}7"
    assert compact(0.4123) == "0.412"


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1.0, 1e9, 1e308])
def test_charts_hold_any_magnitude(scale):
    points = tuple((float(step), scale * (-1) ** step) for step in range(1, 100))
    html = line_figure([Series("a", points, 0), Series("b" * 60, points, 9)], "T", "")
    parse(html)
    assert not re.search(r"\b(nan|inf)\b", html)


def test_runs_of_one_colour_have_other_dashes():
    found = [colour(i) for i in range(15)]
    assert len(set(found)) == 15
    assert found[:6] == ["c0", "c1", "c2", "c3", "c4", "c0 d1"]


def test_many_runs_are_named_in_the_legend_alone():
    lines = [Series(f"run{i}", ((1.0, 0.0), (2.0, 0.1 * i)), i) for i in range(12)]
    html = line_figure(lines, "T", "")
    assert 'class="name"' not in html
    assert all(f"run{i} 0 →" in html for i in range(12))


def test_marks_are_within_the_axes():
    line = Series("run", ((0.0, 10.0), (9.0, 20.0)), 0)
    html = line_figure([line], "T", "", DEGREES, across="decile", marks=[Mark(9, 170.0, "paper")])
    parse(html)
    assert ">200°</text>" in html
    assert ">decile</text>" in html
    assert "paper</li>" in html


def test_end_labels_keep_their_distance():
    lines = [Series(f"run{i}", ((1.0, 0.0), (2.0, 0.001 * i)), i) for i in range(5)]
    html = line_figure([*lines, Series("high", ((1.0, 0.0), (2.0, 9.0)), 5)], "T", "")
    heights = sorted(float(y) for y in re.findall(r'class="name" x="[\d.]+" y="([\d.]+)"', html))
    assert len(heights) == 6
    assert min(b - a for a, b in pairwise(heights)) >= 15
    assert heights[-1] < 250
