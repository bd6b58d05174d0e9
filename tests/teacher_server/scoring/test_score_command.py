"""`teacher-server score` and `select` as a person types them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from student_trainer.data import DataSet
from student_trainer.data_config import DataConfig
from teacher_server import cli
from teacher_server.scoring.manifest import Manifest
from tests.faults.teacher_process import free_port
from tests.teacher_server.scoring.digits import as_jsonl, as_parquet, digit_rows
from tests.teacher_server.scoring.rows import scored_rows

IMAGE = {"type": "image"}
EXTRAS = ("torch", "transformers", "fastapi", "vllm", "datasets")


def score(*arguments: object) -> int:
    return cli.main(["score", *map(str, arguments)])


@pytest.fixture
def bad_rows(tmp_path) -> Path:
    """Rows of a dialogue each, most of them wrong in their own way."""
    good = digit_rows(8)

    def row(number, image="given", content=None, response=None):
        question = {"type": "text", "text": good[number]["question"]}
        asked = {"role": "user", "content": content or [IMAGE, question]}
        said = good[number]["response"] if response is None else response
        return {
            "image": good[number]["image"] if image == "given" else image,
            "messages": json.dumps([asked, {"role": "assistant", "content": said}]),
        }

    whole = [{"type": "text", "text": "What is the sum of the two digits?"}]
    rows = [
        row(0),
        row(1, image=None),
        row(2, content=[IMAGE, IMAGE, *whole]),
        row(3, response=""),
        row(4, image=b"this is no picture at all"),
        row(5, response="1 " * 30_000),
        row(6, content=[{"type": "image"}, {"type": "image"}]),
        row(7),
    ]
    return as_parquet(tmp_path / "bad.parquet", rows)


def test_bad_rows_are_told_and_the_run_goes_on(digits_teacher, bad_rows, tmp_path, capfd):
    out = tmp_path / "out"
    flags = ["--teacher", digits_teacher, "--out", out, "--messages-column", "messages"]
    assert score(bad_rows, *flags) == 3
    found = scored_rows(out)
    assert [row["error_code"] for row in found] == [
        None,
        "no_image",
        "image_count",
        "empty_response",
        "invalid_argument",
        "invalid_argument",
        "image_count",
        None,
    ]
    for row in found:
        failed = row["error_code"] is not None
        assert (
            (row["vds"] is None) == failed == (row["vds_mean"] is None) == (row["tokens"] is None)
        )
    assert "is no image of an allowed format" in found[4]["error"]
    assert "the response has 30000 tokens, the limit is" in found[5]["error"]
    printed = capfd.readouterr()
    for number in range(1, 7):
        assert f"row {number} (id {number}): {found[number]['error_code']}: " in printed.err
    assert "8 rows: 2 scored, 6 failed" in printed.out
    assert "2 invalid_argument" in printed.out
    assert Manifest.read(out).counts.errors == {
        "no_image": 1, "image_count": 2, "empty_response": 1, "invalid_argument": 2
    }  # fmt: skip
    assert score(bad_rows, *flags, "--resume") == 3, "they stay failed"


def test_many_bad_rows_do_not_flood(digits_teacher, tmp_path, capfd):
    rows = [row | {"response": ""} for row in digit_rows(30)] + digit_rows(1)
    data = as_parquet(tmp_path / "a.parquet", rows)
    assert score(data, "--teacher", digits_teacher, "--out", tmp_path / "out") == 3
    err = capfd.readouterr().err
    assert len(re.findall(r"row \d+ \(id", err)) == 10
    assert "more rows failed" in err


def test_a_broken_line_is_a_row_of_its_own(digits_teacher, tmp_path):
    data = as_jsonl(tmp_path / "a.jsonl", digit_rows(3))
    lines = data.read_text().splitlines()
    data.write_text("\n".join([lines[0], "{broken", lines[2]]))
    out = tmp_path / "out"
    assert score(data, "--teacher", digits_teacher, "--out", out, "--id-column", "id") == 3
    assert [row["error_code"] for row in scored_rows(out)] == [None, "unreadable_row", None]


def test_all_is_well(digits_teacher, tmp_path, capfd):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(5))
    assert score(data, "--teacher", digits_teacher, "--out", tmp_path / "out") == 0
    printed = capfd.readouterr()
    assert "5 rows: 5 scored, 0 failed" in printed.out
    assert "VDS in nats: mean" in printed.out
    assert re.search(r"rows=5 of=5 share=100\.0% tokens_per_s=\d+ left_s=0", printed.err)


def test_a_look_first(digits_teacher, bad_rows, tmp_path, capfd):
    rows = digit_rows(50)
    data = as_parquet(tmp_path / "a.parquet", rows)
    flags = ["--dry-run", "--system-prompt", "Be brief.", "--id-column", "id"]
    assert score(data, "--teacher", digits_teacher, *flags) == 0
    out = capfd.readouterr().out
    assert "about 50" in out
    assert "response  <- response" in out
    assert f"{digits_teacher}: 'digits-teacher'" in out or digits_teacher in out
    assert f"row 2 (id {rows[2]['id']})" in out
    assert "row 3" not in out
    assert "system     'Be brief.' (9 characters)" in out
    size = len(rows[0]["image"])
    assert f"user       [32 x 16 PNG, {size} bytes] {chr(10) + rows[0]['question']!r}" in out
    assert f"response   {rows[0]['response']!r} ({len(rows[0]['response'])} characters)" in out
    assert score(bad_rows, "--dry-run", "--messages-column", "messages") == 3
    out = capfd.readouterr().out
    assert "row 1: no_image: " in out
    assert "messages  <- messages" in out
    assert "teacher   127.0.0.1:50051: " in out, "a teacher need not be there"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere.jsonl", "--out", "o"], "no data at nowhere.jsonl"),
        (["DATA"], "--out"),
        (["DATA", "--out", "o", "--response-column", "answer"], "no column 'answer'"),
        (["DATA", "--out", "o", "--limit", "0"], "greater than or equal to 1"),
        (["DATA", "--out", "o", "--token-file", "/nowhere"], "/nowhere"),
        (["DATA", "--out", "o", "--text-context", "gray"], "gray"),
    ],
)
def test_wrong_input_ends_with_2_and_says_what_to_do(arguments, says, tmp_path, monkeypatch, capfd):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(1))
    monkeypatch.chdir(tmp_path)
    try:
        status = score(*(data if word == "DATA" else word for word in arguments))
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    printed = capfd.readouterr()
    assert says in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert not (tmp_path / "o").exists()


def test_no_teacher_there_ends_with_75(tmp_path, capfd):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(1))
    address = f"127.0.0.1:{free_port()}"
    flags = ["--teacher", address, "--out", tmp_path / "out", "--connect-timeout-s", "0.5"]
    assert score(data, *flags) == 75
    assert address in capfd.readouterr().err


def test_nothing_heavy_is_needed(digits_teacher, tmp_path):
    """Where torch, transformers and the server's parts are not installed."""
    data = as_parquet(tmp_path / "a.parquet", digit_rows(2))
    barred = f"""import sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRAS}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Barred())
from teacher_server import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", barred]
    flags = ["--teacher", digits_teacher, "--out", str(tmp_path / "out")]
    subprocess.run([*command, "score", str(data), *flags], check=True)
    flags = ["--keep-top", "0.5", "--out", str(tmp_path / "kept.parquet")]
    subprocess.run([*command, "select", str(tmp_path / "out"), *flags], check=True)
    assert pq.read_metadata(tmp_path / "kept.parquet").num_rows == 1


@pytest.mark.parametrize("name", ["score", "select"])
def test_help_imports_nothing_heavy(name):
    code = f"""import sys
from teacher_server import cli
try:
    cli.main(["{name}", "--help"])
except SystemExit:
    pass
assert not {{"pyarrow", "PIL", "torch", "datasets"}} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--out" in done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(number, digits_teacher, tmp_path):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(1500))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "teacher_server", "score", str(data), "--out", str(out)]
    command += ["--teacher", digits_teacher, "--shard-rows", "50"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as run:
        ends_s = time.monotonic() + 60
        while not (out / "part-00000.parquet").exists() and time.monotonic() < ends_s:
            time.sleep(0.02)
        run.send_signal(number)
        _, err = run.communicate(timeout=30)
    assert run.returncode == 130, err
    assert "--resume goes on" in err
    assert "Traceback" not in err
    manifest = Manifest.read(out)
    assert not manifest.finished
    assert manifest.counts.scored == len(scored_rows(out))


def test_select_keeps_the_most_visual_rows_for_training(digits_teacher, tmp_path, capfd):
    rows = digit_rows(11)
    rows[4]["response"] = ""
    data = as_jsonl(tmp_path / "a.jsonl", rows)
    out, kept = tmp_path / "out", tmp_path / "kept.parquet"
    score(data, "--teacher", digits_teacher, "--out", out)
    flags = ["--keep-top", "0.5", "--by", "gain", "--out", str(kept)]
    assert cli.main(["select", str(out), *flags]) == 0
    assert "kept 5 of 10 scored rows (1 more failed)" in capfd.readouterr().out
    for png in tmp_path.glob("*.png"):
        png.unlink()  # the file stands alone
    dataset = DataSet(kept, DataConfig(train=str(kept), answer_column="response"))
    assert len(dataset) == 5
    given = {row["response"] + row["question"]: row for row in rows}
    for i in range(5):
        sample = dataset[i]
        assert sample.images == (given[sample.answer + sample.question]["image"],)
    gains = {row["row"]: row["sequence_gain"] for row in scored_rows(out) if row["tokens"]}
    best = sorted(sorted(gains, key=lambda row: -gains[row])[:5])
    found = pq.read_table(kept).to_pylist()
    assert [row["vds_gain"] for row in found] == [gains[row] for row in best]
    assert [row["id"] for row in found] == [rows[row]["id"] for row in best]


def test_select_refuses_what_is_unfinished(tmp_path, capfd):
    assert cli.main(["select", str(tmp_path), "--keep-top", "0.5", "--out", "x"]) == 2
    assert "holds no scores" in capfd.readouterr().err
