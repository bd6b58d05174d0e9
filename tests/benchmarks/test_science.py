"""The science table, from results as they are kept."""

import json
import math

import pytest

from benchmarks.science.__main__ import choose
from benchmarks.science.findings import T_975, comparisons, findings
from benchmarks.science.page import page
from benchmarks.science.setting import candidates
from benchmarks.science.table import table
from benchmarks.science.toy import BATCH, Run, config
from tests.parsed_page import parse


@pytest.mark.parametrize("task", ["base", "chatty"])
@pytest.mark.parametrize("name", candidates())
def test_every_setting_is_a_configuration(name, task, tmp_path):
    for setting in candidates()[name]:
        made = config(Run(task, 0, 100, setting, tmp_path, False), "127.0.0.1:1", tmp_path)
        assert made.batch.prompts * made.batch.responses_per_prompt == BATCH
        assert made.objective.name == setting.objective
        assert (made.objective.gamma, made.objective.lambda_) == (setting.gamma, setting.lambda_)
        assert (made.grpo is not None) == (setting.alpha is not None)


def test_all_choose_from_equally_many_different_settings():
    found = candidates()
    assert {len(settings) for settings in found.values()} == {4}
    assert all(len({setting.key for setting in settings}) == 4 for settings in found.values())


def test_the_best_on_validation_is_chosen(tmp_path):
    grid = {"vgs": candidates()["vgs"]}
    accuracies = [0.3, 0.7, 0.7, 0.1]
    tried = {
        Run("base", 0, 100, setting, tmp_path, False): {"validation_accuracy": accuracy}
        for setting, accuracy in zip(grid["vgs"], accuracies, strict=True)
    }
    assert choose(grid, tried) == {"vgs": grid["vgs"][1]}


def figures(name: str, seed: int, accuracy: float, **more: float) -> dict:
    found = {"task": "base", "seed": seed, "greedy_accuracy": accuracy, "sampled_accuracy": 0.5}
    return found | ({} if name == "initial" else {"name": name, "gamma": 2.0}) | more


def test_the_table():
    ends = {"loss/lang_top_first": 0.5, "loss/lang_top_last": 0.2}
    results = {
        "initial": [figures("initial", seed, 0.3) for seed in range(3)],
        "standard": [figures("standard", i, a) for i, a in enumerate((0.70, 0.60, 0.65))],
        "vgs-lp": [figures("vgs-lp", i, a, **ends) for i, a in enumerate((0.75, 0.66, 0.69))],
        "auto": [figures("auto", i, a) for i, a in enumerate((0.74, 0.66, 0.70))],
    }
    validation = {"base": {"standard_lr0.0005_gamma0.0_lambda0.0": 0.7}}
    flat = table({"base": results}, validation, {"base": {"lang_vis": [60.0] * 9 + [92.04]}}, 100)
    assert flat["seeds"] == 3
    assert flat["tasks.base.objectives.standard.greedy_mean"] == pytest.approx(0.65)
    assert flat["tasks.base.objectives.standard.greedy_std"] == pytest.approx(0.05)
    assert flat["tasks.base.objectives.vgs-lp.gamma"] == 2.0
    assert "tasks.base.objectives.initial.gamma" not in flat
    assert flat["tasks.base.validation.standard_lr0.0005_gamma0.0_lambda0.0"] == 0.7
    assert flat["angles.lang_vis"][9] == 92.0
    assert flat["comparisons"] == 1
    held = {entry["claim"]: entry["holds"] for entry in flat["findings"]}
    assert held["base: VGS-LP is better than standard distillation (46.10 against 43.74)"] == "yes"
    assert held["base: with it, it falls"] == "yes"
    assert (
        held["base: language and visual gradients: 60 degrees in decile 0, 92 in decile 9"] == "yes"
    )
    (auto,) = (holds for claim, holds in held.items() if "choose themselves" in claim)
    assert auto == "yes"
    json.dumps(flat)


@pytest.mark.parametrize(
    ("gains", "holds"),
    [
        ([5, 6, 7], "yes"),
        ([-5, -6, -7], "no"),
        ([-5, 6, 1], "unclear"),
        ([5], "unclear"),
        ([3, 6, 9], "unclear"),  # 3.5 standard errors, where three runs ask for 4.3
        ([2, 10] * 15, "yes"),
    ],
)
def test_a_claim_is_judged_by_paired_differences(gains, holds):
    standard = [0.5] * len(gains)
    steered = [0.5 + gain / 100 for gain in gains]
    (entry,) = findings({"base": {"standard": standard, "vgs-lp": steered}}, {}, {})
    assert entry["holds"] == holds


@pytest.mark.parametrize(("runs", "quantile"), T_975.items())
def test_the_quantiles_are_students(runs, quantile):
    """Its density, integrated from 0 by the midpoint rule."""
    freedom, steps = runs - 1, 4000
    width = quantile / steps
    area = sum(
        (1 + ((i + 0.5) * width) ** 2 / freedom) ** (-(freedom + 1) / 2) for i in range(steps)
    )
    scale = math.gamma((freedom + 1) / 2) / math.gamma(freedom / 2) / math.sqrt(freedom * math.pi)
    assert 0.5 + area * width * scale == pytest.approx(0.975, abs=4e-5)  # as T_975 is rounded


def test_comparisons_are_of_pairs_with_several_runs():
    base = {"standard": [0.5, 0.6], "vgs": [0.6, 0.7], "vgs-lp": [0.7, 0.8], "grpo": [0.4, 0.4]}
    assert comparisons({"base": base, "chatty": {"standard": [0.5], "vgs-lp": [0.6]}}) == 2


@pytest.mark.parametrize(
    ("pair", "first", "last", "holds"),
    [
        ("lang_vis", 46.0, 106.0, "yes"),
        ("lang_vis", 79.0, 89.0, "no"),
        ("lang_vis", 60.0, 110.0, "no"),
        ("lang_vis", None, 92.0, "unclear"),
        ("std_vis", None, 50.0, "yes"),
        ("std_vis", 42.0, 3.0, "no"),
        ("std_vis", 42.0, None, "unclear"),
        ("std_lang", 90.0, 36.0, "yes"),
        ("std_lang", 50.0, 88.0, "no"),
    ],
)
def test_an_angle_must_be_near_the_papers(pair, first, last, holds):
    (entry,) = findings({}, {}, {"base": {pair: [first, *[70.0] * 8, last]}})
    assert entry["holds"] == holds
    shown = "no angle" if last is None else f"{last:.0f}"
    assert entry["seen"].endswith(f"{shown} in decile 9")


def test_the_page():
    measured = {"step": 20, "tokens": 900, "angles": {"lang_vis": [None, *[60.0] * 8, 92.0]}}
    results = {
        "initial": [figures("initial", seed, 0.3) for seed in range(2)],
        "standard": [figures("standard", seed, 0.6) for seed in range(2)],
        "vgs-lp": [figures("vgs-lp", seed, 0.75 + seed / 10) for seed in range(2)],
    }
    found = page(
        {"base": results},
        table({"base": results}, {}, {"base": measured["angles"]}, 100),
        {"base": measured},
    )
    assert "Language to visual" in parse(found).text
    assert "Comparisons of two objectives: 1." in parse(found).text
    assert "vgs-lp, greedy, seed 1: 85.0%" in found
    assert '<th scope="row">vgs-lp</th><td>80.0 ± 7.1</td><td>50.0 ± 0.0</td>' in found
    assert "$" not in found
