"""kill -9 at random moments, over and over, against a real server: what comes out is what an undisturbed run gives."""

import random
import subprocess
import sys
from pathlib import Path

from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.shard import shards_in
from tests.faults.teacher_process import teachers
from tests.teacher_server.scoring.digits import as_parquet, digit_rows
from tests.teacher_server.scoring.rows import scored_rows

ROWS = 2000
KILLS = 10
STARTUP_S = 1.5
"""Of a run, before its first row."""
LONGEST_S = 5.0
"""That a run may work before it is killed."""
LIMIT_S = 400.0
SOME_FAILED = 3


def command(data: Path, out: Path, address: str) -> list[str]:
    words = [sys.executable, "-m", "teacher_server", "score", data, "--out", out]
    return [*map(str, words), "--teacher", address, "--shard-rows", "150", "--id-column", "id"]


def killed_after(seconds: float, words: list[str]) -> bool:
    """Whether it was still at work."""
    with subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
        try:
            assert run.wait(seconds) == SOME_FAILED, "it failed by itself"
        except subprocess.TimeoutExpired:
            run.kill()
            run.wait()
            return True
    return False


def test_ten_kills_change_nothing(qwen, tmp_path):
    rows = [row | {"response": row["response"][:30]} for row in digit_rows(ROWS)]
    rows[1234]["response"] = ""
    data = as_parquet(tmp_path / "data.parquet", rows)
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    chance = random.Random(0)
    with (
        teachers(qwen, tmp_path, 2) as (mine, other),
        # It asks a teacher of its own, which gives the same bits.
        subprocess.Popen(command(data, whole, other.address)) as undisturbed,
    ):
        words = command(data, torn, mine.address)
        for kills in range(KILLS):
            done = shards_in(torn)[-1].end_row if list(torn.glob("part-*")) else 0
            early = done / ROWS < (kills + 1) / (KILLS + 2)
            wait_s = STARTUP_S + chance.uniform(0, LONGEST_S if early else 0.5)
            assert killed_after(wait_s, words), f"it had ended after {kills} kills"
            if torn.exists():
                words = [*command(data, torn, mine.address), "--resume"]
        assert subprocess.run(words, timeout=LIMIT_S).returncode == SOME_FAILED
        assert undisturbed.wait(LIMIT_S) == SOME_FAILED
    assert scored_rows(torn) == scored_rows(whole)
    assert [row["row"] for row in scored_rows(torn)] == list(range(ROWS))
    one, two = Manifest.read(whole), Manifest.read(torn)
    assert (one.counts, one.vds) == (two.counts, two.vds)
    assert one.finished
    assert two.finished
    left = {path.name for path in torn.iterdir()}
    assert left == {path.name for path in whole.iterdir()}, "nothing is left lying about"
