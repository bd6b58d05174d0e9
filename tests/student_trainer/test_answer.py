import pytest

from student_trainer.answer import final_answer, is_correct


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        (r"so it is \boxed{12}.", "12"),
        (r"<reason> 4 + 7 </reason> \boxed{ 11 }", "11"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, \{2\}\}} done", r"\{1, \{2\}\}"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{1}, which contains {braces} after", "1"),
        ("\\boxed{  two\t\n words }", "two words"),
        (r"\boxed{}", ""),
        (r"\boxed{\boxed{3}}", "3"),
    ],
)
def test_the_last_box_is_the_answer(response: str, answer: str) -> None:
    assert final_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    ["", "the answer is 12", "boxed{12}", r"\boxed 12", r"\boxed{12", r"\boxed{\frac{1}{2}"],
)
def test_without_a_closed_box_there_is_no_answer(response: str) -> None:
    assert final_answer(response) is None


def test_a_last_box_that_was_cut_hides_the_earlier_ones() -> None:
    assert final_answer(r"first \boxed{1}, then \boxed{2") is None


@pytest.mark.parametrize(
    ("response", "expected", "right"),
    [
        (r"\boxed{12}", "12", True),
        (r"\boxed{ 1  2 }", "1 2", True),
        (r"\boxed{12}", " 12\n", True),
        (r"\boxed{12}", "1 2", False),
        (r"\boxed{A}", "a", False),
        ("12", "12", False),
        ("", "", False),
        (r"\boxed{ }", "", True),
    ],
)
def test_answers_are_compared_up_to_blanks(response: str, expected: str, right: bool) -> None:
    assert is_correct(response, expected) is right
