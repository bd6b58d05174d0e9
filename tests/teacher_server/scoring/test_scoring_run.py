"""Whole runs against the toy's teacher."""

import asyncio
import json
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from protos.client import TeacherClient
from protos.errors import InternalFault, LimitExceeded, Unauthenticated, Unimplemented
from protos.replica_set import TeacherAway
from teacher_server.scoring import dataset_scorer, score_dataset, scoring_run
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.rescan import scanned_samples
from teacher_server.scoring.score_folder import ScoreFolder
from tests.loopback import serving
from tests.teacher_server.scoring.digits import TEACHER, as_jsonl, as_parquet, digit_rows
from tests.teacher_server.scoring.rows import scored_rows


def test_a_folder_of_scores(digits_teacher, tmp_path):
    rows = digit_rows(23)
    data = as_parquet(tmp_path / "data.parquet", rows)
    out = tmp_path / "out"
    manifest = score_dataset(
        data, teacher=digits_teacher, out=out, id_column="id", shard_rows=10, limit=21
    )
    assert [path.name for path in sorted(out.glob("*.parquet"))] == [
        f"part-0000{i}.parquet" for i in range(3)
    ]
    assert not (out / ".answers").exists()
    found = scored_rows(out)
    assert [row["row"] for row in found] == list(range(21))
    assert [row["id"] for row in found] == [row["id"] for row in rows[:21]]
    for row, given in zip(found, rows, strict=False):
        assert " ".join(t.strip() for t in row["token_texts"]) == given["response"]
        assert row["tokens"] == len(row["vds"]) == len(row["token_ids"])
        assert row["error_code"] is None
        assert 0 <= row["vds_share_above_q70"] <= 1
    vds = np.concatenate([np.float32(row["vds"]) for row in found]).astype(np.float64)
    assert manifest == Manifest.read(out)
    assert manifest.finished
    assert manifest.counts.rows == manifest.counts.scored == 21
    assert manifest.counts.tokens == len(vds)
    assert manifest.vds is not None
    assert manifest.vds["mean"] == pytest.approx(vds.mean())
    q70 = manifest.vds["quantiles"]["0.7"]
    assert q70 == np.quantile(vds, 0.7)
    for row in found:
        above = np.mean(np.float64(row["vds"]) > q70)
        assert row["vds_share_above_q70"] == above
    assert manifest.teacher["model_fingerprint"]
    values = json.loads((out / "manifest.json").read_text())
    assert values["format"] == "vgs.scores.1"
    assert values["shards"] == [
        {"file": f"part-0000{i}.parquet", "first_row": 10 * i, "rows": n}
        for i, n in enumerate((10, 10, 1))
    ]


def test_jsonl_with_files_gives_what_parquet_with_bytes_gives(digits_teacher, tmp_path):
    rows = digit_rows(9)
    folders = []
    for data in (as_parquet(tmp_path / "a.parquet", rows), as_jsonl(tmp_path / "a.jsonl", rows)):
        folders.append(tmp_path / f"out-{data.suffix}")
        score_dataset(data, teacher=digits_teacher, out=folders[-1], id_column="id")
    assert scored_rows(folders[0]) == scored_rows(folders[1])
    again = list(scanned_samples(folders[1], [7, 2]))
    assert [sample.row for sample in again] == [2, 7]
    assert again[1].images[0].read() == rows[7]["image"]
    assert again[1].response == rows[7]["response"]


def test_dialogues_and_the_grey_context(digits_teacher, tmp_path):
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which digit is the larger one?"}]},
        {"role": "assistant", "content": "<reason> left 4 right 7"},
        {"role": "user", "content": "What is the sum of the two digits?"},
        {"role": "assistant", "content": "4 + 7 = 11"},
    ]  # fmt: skip
    rows = [{"image": digit_rows(1)[0]["image"], "messages": json.dumps(turns)}]
    data = as_parquet(tmp_path / "a.parquet", rows)
    found = {}
    for context in ("drop", "grey"):
        out = tmp_path / context
        score_dataset(
            data, teacher=digits_teacher, out=out, messages_column="messages", text_context=context
        )
        (found[context],) = scored_rows(out)
    said = "<reason> left 4 right 7 4 + 7 = 11"
    for row in found.values():
        assert " ".join(text.strip() for text in row["token_texts"]) == said
    assert found["drop"]["mm_logprobs"] == found["grey"]["mm_logprobs"]
    assert found["drop"]["text_logprobs"] != found["grey"]["text_logprobs"]


def test_a_folder_in_use_or_with_scores_is_refused(digits_teacher, tmp_path):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(3))
    out = tmp_path / "out"
    manifest = score_dataset(data, teacher=digits_teacher, out=out)
    with pytest.raises(ValueError, match="holds scores already; say --resume"):
        score_dataset(data, teacher=digits_teacher, out=out)
    with (
        ScoreFolder(out, manifest, resume=True),
        pytest.raises(BlockingIOError, match="another process writes scores"),
    ):
        score_dataset(data, teacher=digits_teacher, out=out, resume=True)
    before = scored_rows(out)
    again = score_dataset(data, teacher=digits_teacher, out=out, resume=True)
    assert scored_rows(out) == before
    assert again.counts == manifest.counts
    assert again.started == manifest.started


def test_resume_refuses_other_settings_and_names_them(digits_teacher, qwen_server, tmp_path):
    rows = digit_rows(3)
    data = as_parquet(tmp_path / "a.parquet", rows)
    out = tmp_path / "out"
    score_dataset(data, teacher=digits_teacher, out=out, system_prompt="system")
    same = {"teacher": digits_teacher, "out": out, "resume": True, "system_prompt": "system"}
    other = as_parquet(tmp_path / "b.parquet", rows)
    for path, changes, says in (
        (data, {"system_prompt": "the"}, "mapping: system_prompt was 'system', is 'the'"),
        (data, {"system_prompt": None}, "mapping: system_prompt was 'system', is None"),
        (data, {"id_column": "id"}, "mapping: id_column was None, is 'id'"),
        (data, {"text_context": "grey"}, "text_context was drop, is grey"),
        (data, {"teacher": qwen_server}, "teacher: model_fingerprint was"),
        (other, {}, "data: path was"),
    ):
        with pytest.raises(ValueError, match="was begun otherwise") as caught:
            score_dataset(path, **same | changes)
        assert says in str(caught.value)
    as_parquet(data, rows[:2])
    with pytest.raises(ValueError, match=r"data: bytes was .*modified_ns was"):
        score_dataset(data, **same)


def test_more_rows_may_follow(digits_teacher, tmp_path):
    rows = digit_rows(12)
    data = as_parquet(tmp_path / "a.parquet", rows)
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    score_dataset(data, teacher=digits_teacher, out=whole, shard_rows=4)
    for limit in (5, 7, None):
        score_dataset(
            data, teacher=digits_teacher, out=grown, shard_rows=4, limit=limit, resume=limit != 5
        )
    assert scored_rows(grown) == scored_rows(whole)


class Interruption(Exception):
    """Of a run, from within."""


async def test_what_was_answered_is_not_asked_again(digits_teacher, tmp_path, monkeypatch):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(60))
    asked: list[str] = []
    answered = 0
    honest = TeacherClient.score

    async def counting(self, prompt, item):
        nonlocal answered
        if answered >= stop:
            raise Interruption
        scores = await honest(self, prompt, item)
        answered += 1
        asked.append(prompt.prompt.messages + item.response_text)
        return scores

    monkeypatch.setattr(TeacherClient, "score", counting)
    monkeypatch.setattr(dataset_scorer, "ROWS_UNDER_WAY", 7)
    out = tmp_path / "out"
    for stop in (11, 25, 26, 10**9):
        run = asyncio.to_thread(
            score_dataset,
            *(data,),
            teacher=digits_teacher,
            out=out,
            shard_rows=10,
            resume=bool(asked),
        )
        if stop < 100:
            with pytest.raises(Interruption):
                await run
        else:
            await run
    assert len(asked) == 60
    assert [row["row"] for row in scored_rows(out)] == list(range(60))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InternalFault("it broke"), "internal"),
        (LimitExceeded("too large"), "resource_exhausted"),
    ],
)
def test_a_teachers_word_on_one_row_is_that_rows_alone(
    error, code, digits_teacher, tmp_path, monkeypatch
):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(5))
    honest = TeacherClient.score
    third = digit_rows(5)[2]["response"]

    async def score(self, prompt, item):
        if item.response_text == third:
            raise error
        return await honest(self, prompt, item)

    monkeypatch.setattr(TeacherClient, "score", score)
    manifest = score_dataset(data, teacher=digits_teacher, out=tmp_path / "out")
    assert manifest.counts.errors == {code: 1}
    assert scored_rows(tmp_path / "out")[2]["error"] == error.message


def test_a_refusal_ends_the_run(digits_teacher, tmp_path, monkeypatch):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(5))

    async def score(self, prompt, item):
        raise Unauthenticated("your token was revoked")

    with monkeypatch.context() as patched:
        patched.setattr(TeacherClient, "score", score)
        with pytest.raises(Unauthenticated):
            score_dataset(data, teacher=digits_teacher, out=tmp_path / "out")
    assert not Manifest.read(tmp_path / "out").finished
    score_dataset(data, teacher=digits_teacher, out=tmp_path / "out", resume=True)
    assert Manifest.read(tmp_path / "out").counts.scored == 5


def test_a_teacher_that_lacks_something_is_told(digits_teacher, tmp_path, monkeypatch):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(1))
    monkeypatch.setattr(scoring_run, "NEEDED", ("chat", "clairvoyance"))
    with pytest.raises(Unimplemented, match="can't do clairvoyance"):
        score_dataset(data, teacher=digits_teacher, out=tmp_path / "out")


def test_a_teacher_that_goes_away_and_comes_back_elsewhere(tmp_path):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(300))
    out, whole = tmp_path / "out", tmp_path / "whole"
    caught: list[BaseException] = []

    def run() -> None:
        try:
            # Few at a time: a server that leaves still answers what it took.
            settings = {"shard_rows": 20, "max_inflight_tokens": 300}
            score_dataset(data, teacher=address, out=out, outage_s=0.5, **settings)
        except TeacherAway as error:
            caught.append(error)

    with serving(TEACHER, engine={"deterministic": True}) as address:
        thread = threading.Thread(target=run)
        thread.start()
        ends_s = time.monotonic() + 60
        while not (out / "part-00001.parquet").exists() and time.monotonic() < ends_s:
            time.sleep(0.01)
    thread.join(60)
    assert len(caught) == 1
    assert len(scored_rows(out)) < 300
    with serving(TEACHER, engine={"deterministic": True}) as address:
        score_dataset(data, teacher=address, out=out, resume=True)
        score_dataset(data, teacher=address, out=whole)
    assert scored_rows(out) == scored_rows(whole)


def test_an_interruption_lets_the_folder_go(digits_teacher, tmp_path, monkeypatch):
    data = as_parquet(tmp_path / "a.parquet", digit_rows(200))
    folder_added = ScoreFolder.add

    def add(self, results):
        folder_added(self, results)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(ScoreFolder, "add", add)
        with pytest.raises(KeyboardInterrupt):
            score_dataset(data, teacher=digits_teacher, out=tmp_path / "out", shard_rows=20)
    assert 20 <= len(scored_rows(tmp_path / "out")) < 200
    manifest = score_dataset(data, teacher=digits_teacher, out=tmp_path / "out", resume=True)
    assert manifest.counts.scored == 200


def test_out_must_not_lie_in_the_data(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()

    class Nothing:
        columns = ("image", "question", "response")

    monkeypatch.setattr(scoring_run, "open_source", lambda *_: Nothing())
    with pytest.raises(ValueError, match="lies inside the data"):
        score_dataset(tmp_path / "data", teacher="x:1", out=tmp_path / "data" / "scores")


def test_works_where_a_loop_runs(digits_teacher, tmp_path):
    """As in a notebook."""
    data = as_parquet(tmp_path / "a.parquet", digit_rows(2))

    async def cell() -> Manifest:
        return score_dataset(data, teacher=digits_teacher, out=Path(tmp_path / "out"))

    assert asyncio.run(cell()).counts.scored == 2
