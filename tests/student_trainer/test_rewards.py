from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from student_trainer.grpo_config import GrpoConfig, RewardConfig
from student_trainer.rewards import Rewards

RESPONSES = [
    r"<reason> 4 + 7 = 11 </reason> \boxed{ 11 }",
    r"\boxed{11.0}",
    r"<reason> 4 </reason> \boxed{ 4 }",
    "eleven",
]


def test_the_default_counts_an_answer_ten_times_its_format():
    total, values = Rewards(GrpoConfig().rewards)(RESPONSES, ["11"] * 4)
    assert total.dtype == np.float64
    assert total.tolist() == [1.1, 1.0, 0.1, 0.0]
    assert {name: list(v) for name, v in values.items()} == {
        "answer": [1, 1, 0, 0],
        "format": [1, 0, 1, 0],
    }


def test_no_responses_no_rewards():
    total, values = Rewards(GrpoConfig().rewards)([], [])
    assert total.shape == values["answer"].shape == (0,)


def test_every_response_needs_its_expected_answer():
    with pytest.raises(ValueError, match="shorter"):
        Rewards(GrpoConfig().rewards)(RESPONSES, ["11"])


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rewards_of_my_own.py").write_text(
        "def length(response, expected): return -len(response)\n"
        "def fails(response, expected): return {'a': 1.0}[response]\n"
        "def nothing(response, expected): return None\n"
        "def infinite(response, expected): return float('inf')\n"
        "def undefined(response, expected): return float('nan')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def of(**weights: float) -> Rewards:
    named = {f"rewards_of_my_own:{name}": weight for name, weight in weights.items()}
    return Rewards([RewardConfig(name=name, weight=weight) for name, weight in named.items()])


@pytest.mark.usefixtures("own")
def test_a_function_of_ones_own_may_be_a_penalty():
    rewards = Rewards(
        [
            RewardConfig(name="answer", weight=2.0),
            RewardConfig(name="rewards_of_my_own:length", weight=0.5),
        ]
    )
    total, values = rewards([r"\boxed{1}", r"\boxed{22}"], ["1", "1"])
    assert total.tolist() == [2 - 9 / 2, -10 / 2]
    assert values["rewards_of_my_own:length"].tolist() == [-9, -10]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "failed on response 1, 'b': KeyError: 'b'"),
        ("nothing", "failed on response 0, 'a': TypeError"),
        ("infinite", "is inf for response 0, 'a'; return a finite number"),
        ("undefined", "is nan for response 0, 'a'"),
    ],
)
def test_a_function_that_fails_is_never_a_zero(name: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        of(**{name: 1.0})(["a", "b"], ["", ""])
    assert f"'rewards_of_my_own:{name}'" in str(caught.value)


def test_a_name_counts_once():
    twice = (RewardConfig(name="answer"), RewardConfig(name="answer", weight=0.1))
    with pytest.raises(ValidationError, match="answer more than once"):
        GrpoConfig(rewards=twice)
    with pytest.raises(ValueError, match="give each name once"):
        Rewards(twice)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.1},
        {"alpha": -0.1},
        {"clip_low": 0.0},
        {"clip_low": 1.0},
        {"clip_high": 0.0},
        {"rewards": ()},
        {"rewards": ({"name": "answer", "weight": float("nan")},)},
        {"beta": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object]):
    with pytest.raises(ValidationError):
        GrpoConfig.model_validate(settings)
