import io
import re

from rich.console import Console

from teacher_server.scoring import progress as module
from teacher_server.scoring.progress import BarProgress, LineProgress


def test_lines_for_a_log():
    lines: list[str] = []
    with LineProgress(lines.append, every_s=0) as progress:
        progress.begin(10, 100)
        progress.row_done(7, 100)
        progress.note("row 10: no_image")
        progress.row_done(7, None)
    told = r"rows=11 of=100 share=11\.0% tokens_per_s=\d+ left_s=\d+"
    assert re.fullmatch(told, lines[0])
    assert lines[1] == "row 10: no_image"
    assert re.fullmatch(r"rows=12 tokens_per_s=\d+", lines[2]), "who knows how many there are"


def test_a_run_that_did_nothing_says_nothing():
    lines: list[str] = []
    with LineProgress(lines.append) as progress:
        progress.begin(10, 10)
    assert lines == []


def test_a_total_that_was_guessed_too_low_grows():
    lines: list[str] = []
    with LineProgress(lines.append, every_s=0) as progress:
        progress.begin(0, 1)
        for _ in range(3):
            progress.row_done(1, 2)
    assert "rows=3 of=3 " in lines[-1]


def test_a_bar_for_a_terminal(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        module, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=120)
    )
    with BarProgress() as progress:
        progress.begin(3, 20)
        progress.row_done(5, 20)
        progress.note("row 4 [id a]: no_image")
    shown = screen.getvalue()
    assert "4/20" in shown
    assert "tokens/s" in shown
    assert "row 4 [id a]: no_image" in shown
