import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.digits.questions import KINDS, answer, response
from student_trainer.reward_functions import answer_reward, format_reward, load_reward

GOOD = r"<reason> 4 + 7 = 11 </reason> \boxed{ 11 }"


def test_the_toys_own_responses_earn_everything():
    for kind in KINDS:
        text, expected = response(kind, 4, 7), answer(kind, 4, 7)
        assert answer_reward(text, expected) == 1.0
        assert format_reward(text, expected) == 1.0


def test_the_answer_is_judged_apart_from_the_format():
    assert answer_reward(r"\boxed{11.0}", "11") == 1.0
    assert answer_reward(GOOD, "12") == 0.0
    assert answer_reward("11", "11") == 0.0


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "\n" + GOOD + "\n",
        "<reason>a\nb</reason>\nThe answer is \\boxed{\\frac{1}{2}}.",
        r"<reason>first \boxed{3}, no</reason>\boxed{4}",
    ],
)
def test_reasoning_and_then_a_box(text: str):
    assert format_reward(text, "anything") == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "11",
        r"\boxed{11}",
        r"<reason> 4 </reason> 11",
        r"<reason> </reason> \boxed{11}",
        r"<reason> 4 </reason> \boxed{}",
        r"<reason> 4 </reason> \boxed{ }",
        r"<reason> 4 </reason> \boxed{11",
        r"<reason> 4 </reason> \boxed{11} or \boxed{12}",
        r"<reason> 4 </reason> \boxed{\boxed{11}}",
        r"<reason> 4 \boxed{11} </reason>",
        r"<reason> 4 \boxed{11}",
        r"4 </reason> \boxed{11}",
        r"well <reason> 4 </reason> \boxed{11}",
        r"</reason> 4 <reason> \boxed{11}",
        r"<reason> 4 </reason> <reason> 5 </reason> \boxed{11}",
        r"<reason> <reason> 4 </reason> \boxed{11}",
        r"<reason> 4 </reason> \boxed{11} </reason>",
        r"<Reason> 4 </Reason> \boxed{11}",
    ],
)
def test_any_other_form_earns_nothing(text: str):
    assert format_reward(text, "11") == 0.0


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "own_rewards.py").write_text(
        "LIMIT = 3\ndef brief(response, expected):\n    return 1 / len(response)\n"
    )
    (tmp_path / "broken_rewards.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_rewards"
    sys.modules.pop("own_rewards", None)


def test_a_reward_is_found_by_name(own: str):
    assert load_reward("answer") is answer_reward
    assert load_reward("format") is format_reward
    assert load_reward(f"{own}:brief")("abcd", "") == 0.25


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("accuracy", 'give "answer", "format", or your own as "package.module:function"'),
        ("own_rewards.brief", "is not known"),
        (":brief", "is not known"),
        ("own_rewards:", "is not known"),
        (
            "no_such_module:brief",
            "ModuleNotFoundError: No module named 'no_such_module'.*PYTHONPATH",
        ),
        ("own_rewards:short", "AttributeError"),
        ("broken_rewards:brief", "ZeroDivisionError"),
        ("own_rewards:LIMIT", "is a int; name a function"),
    ],
)
def test_what_is_no_reward_is_named_with_the_mend(own: str, name: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        load_reward(name)
    assert repr(name) in str(caught.value)
