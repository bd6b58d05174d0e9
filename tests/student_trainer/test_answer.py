import subprocess
import sys
import threading

import pytest

from student_trainer import math_equality
from student_trainer.answer import MAX_CHARACTERS, final_answer, is_correct


def judged(answer: str, expected: str) -> bool:
    return is_correct(f"<reason> so </reason> \\boxed{{{answer}}}", expected)


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
    assert not is_correct(response, "12")


def test_a_last_box_that_was_cut_hides_the_earlier_ones() -> None:
    assert final_answer(r"first \boxed{1}, then \boxed{2") is None


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("12", "12", True),
        (" 1  2 ", "1 2", True),
        ("12", " 12\n", True),
        ("12", "1 2", False),
        ("A", "a", False),
        ("", "", False),
        (" ", "", False),
        ("", "12", False),
        ("12", "", False),
        ("Yes", "yes", True),
        (r"\text{red}", "Red.", True),
        (r"$\text{red car}$", "red car", True),
        ("blue", "red", False),
        ("god", "dog", False),
        ("two words", "words two", False),
        ("x", "X", False),
    ],
)
def test_words_are_compared_as_text(answer: str, expected: str, right: bool) -> None:
    assert judged(answer, expected) is right


@pytest.mark.parametrize(
    "expected", ["B", "(B)", "B.", "B)", "(b)", "B. the second", "(B) the second"]
)
def test_the_letter_of_an_option_decides(expected: str) -> None:
    for right in [
        "B",
        "b",
        "(B)",
        "(b)",
        "B)",
        "B.",
        "B: the second",
        r"\text{B}",
        r"\mathrm{(B)}",
    ]:
        assert judged(right, expected), right
    for wrong in ["C", "(c)", "AB", "A, B", "the first", "Beta", "2", r"\text{C}", "both"]:
        assert not judged(wrong, expected), wrong
    assert judged("the second", expected) is ("second" in expected)
    assert judged("The second.", expected) is ("second" in expected)


def test_an_options_own_text_is_compared_as_any_answer() -> None:
    assert judged("1/2", "C. 0.5")
    assert not judged("1/3", "C. 0.5")
    assert not judged("A", "a")
    assert judged("noon", "noon.")


NUMBERS = [
    ("11", "11.0", True),
    ("11", "012", False),
    ("007", "7", True),
    ("+5", "5", True),
    ("- 5", "-5", True),
    ("\N{MINUS SIGN}5", "-5", True),
    ("-5", "5", False),
    ("1,000", "1000", True),
    (r"1\,000", "1000", True),
    ("1,234.5", "1234.50", True),
    ("1,23", "123", False),
    ("5.", "5", True),
    ("$5", "5", True),
    (r"\$5", "5", True),
    (".5", "0.5", True),
    ("0.3", "0.30000001", False),
]


@pytest.mark.parametrize(("answer", "expected", "right"), NUMBERS)
def test_numbers_are_compared_by_value(answer: str, expected: str, right: bool) -> None:
    assert judged(answer, expected) is right
    assert judged(expected, answer) is right


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("0.5", "1/2", True),
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac12", "1/2", True),
        ("50%", "0.5", True),
        (r"50\%", "1/2", True),
        ("50%", "50", True),
        ("1/3", "0.333333", True),
        ("0.33", "1/3", False),
        (r"3\frac{1}{2}", "7/2", True),
        ("12 cm", "12", True),
        (r"12\text{ cm}", "12 cm", True),
        ("30°", "30", True),
        (r"30^\circ", "30°", True),
        (r"1.2 \times 10^3", "1200", True),
        ("1.2*10^{3}", "1,200", True),
        ("1.2 \N{MULTIPLICATION SIGN} 10^3", "1200", True),
        ("2\N{GREEK SMALL LETTER PI}", r"2\pi", True),
        ("x = 5", "5", True),
        (r"2\sqrt{3}", r"\sqrt{12}", True),
        ("x+y", "y + x", True),
        ("(x-1)(x+1)", "x^2-1", True),
        (r"\{2, 1\}", r"\{1, 2\}", True),
        (r"\{2, 1\}", r"\{1, 3\}", False),
        ("2, 1", "1, 2", True),
        ("(2, 1)", "(1, 2)", False),
        (r"(3, \infty)", "x > 3", True),
        ("1e", "2e", False),
    ],
)
def test_mathematics_is_math_verifys(answer: str, expected: str, right: bool) -> None:
    assert judged(answer, expected) is right


@pytest.mark.parametrize(
    "answer",
    [
        "4 + 7",
        "18 - 7",
        r"1 \times 11",
        "11*1",
        r"33 \div 3",
        "{4}+{7}",
        "(4)+(7)",
        "20+(-9)",
        "4+7=11",
        "11!",
        "5_6",
        "4 7",
        r"4\ 7",
        r"4\quad 7",
        r"4\,7",
        r"4\;7",
        "4~7",
        "{4}{7}",
        "4 {7}",
        r"4\text{ 7}",
        r"\text{4} 7",
        "10 or 11",
        "10, 11",
        r"11\text{ or 12}",
        r"11 \approx 12",
        r"11 \pm 1",
        "11; 12",
        r"10 \neq 11",
        "20 \N{DIVISION SIGN} 9",
        "2 \N{PLUS-MINUS SIGN} 9",
        "eleven",
        "left 4",
        "the sum",
        "?",
        r"\text{}",
        "{",
        "$",
        r"\frac{}{}",
        "11 12 13",
    ],
)
def test_nothing_but_a_finished_number_is_a_number(answer: str) -> None:
    assert not judged(answer, "11")


@pytest.mark.parametrize(
    "answer",
    [
        "47",
        "7 4",
        "11",
        "28",
        "4, 7",
        "4 + 7",
        r"\{4, 7\}",
        "{4}{7}",
        "4 7 0",
        "4 70",
        "4.7",
        "4 - 7",
        "74",
        "4",
    ],
)
def test_two_digits_read_are_that_text_alone(answer: str) -> None:
    assert judged("4  7", "4 7")
    assert not judged(answer, "4 7")
    assert not judged("4 7", answer)


@pytest.mark.parametrize(
    "answer",
    [
        "9^{9^{9^9}}",
        "9^9^9^9",
        r"\sum_{k=1}^{10^{10}} \frac{1}{k^2}",
        "(1+x+y+z)^{999}(1-x)^{999}",
        "(" * 90,
        r"\sqrt{" * 25 + "2" + "}" * 25,
    ],
)
def test_what_has_no_end_ends(answer: str) -> None:
    assert len(answer) <= MAX_CHARACTERS
    assert not judged(answer, "x + 12")
    assert judged(r"\frac{1}{2}", "0.5"), "and the next is judged"


def test_long_texts_are_only_text() -> None:
    long = "1+" * MAX_CHARACTERS + "1"
    assert judged(long, long)
    assert not judged(long, str(MAX_CHARACTERS + 1))
    assert not judged("9" * 100_000, "9" * 99_999)


def test_a_worker_that_was_ended_is_replaced() -> None:
    assert judged(r"\frac{1}{9}", "2/18")
    process = math_equality._worker._process
    assert process is not None
    process.kill()
    process.wait()
    assert judged(r"\frac{1}{9}", "3/27")


def test_threads_judge_at_once() -> None:
    verdicts: dict[int, bool] = {}

    def judge(i: int) -> None:
        verdicts[i] = judged(rf"\frac{{{i}}}{{7}}", f"{i + i % 2}/7")

    threads = [threading.Thread(target=judge, args=(i,)) for i in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {i: i % 2 == 0 for i in range(1, 21)}


def test_plain_answers_need_no_mathematics() -> None:
    code = """
import subprocess, sys
def refuse(*arguments, **settings): raise AssertionError("a process was started")
subprocess.Popen = refuse
from student_trainer.answer import is_correct
for a, e in [("11", "12"), ("4 7", "4 8"), ("11", "11.0"), ("left", "11"), ("B", "(c)"), ("", "1"), ("4 + 7", "11")]:
    is_correct("\\\\boxed{" + a + "}", e)
print("sympy" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_math_verify_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_equality.importlib.util, "find_spec", lambda name: None)
    math_equality._worker.close()
    with pytest.raises(ImportError, match=r"pip install 'vgs-opd\[student\]'"):
        judged(r"\frac{3}{8}", "0.376")
