"""Rows that failed, asked again; what ends a run instead of failing a row; folders that were finished."""

import json
from collections.abc import Callable

import pytest

from protos.client import TeacherClient
from protos.errors import DeadlineExceeded, InternalFault
from teacher_server import cli
from teacher_server.scoring import dataset_scorer, score_dataset, select
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.rescan import scanned_samples
from teacher_server.scoring.score_folder import ScoreFolder
from tests.teacher_server.scoring.digits import as_jsonl, as_parquet, digit_rows
from tests.teacher_server.scoring.rows import result, scored_rows

HONEST = TeacherClient.score


class Interruption(Exception):
    """Of a run, from within."""


@pytest.fixture
def before_answers(monkeypatch) -> Callable[[Callable[[bytes], None]], None]:
    """Something to do with the image of every row that is asked about."""

    def set_up(meet: Callable[[bytes], None]) -> None:
        async def score(self, prompt, item):
            meet(prompt.prompt.images[0])
            return await HONEST(self, prompt, item)

        monkeypatch.setattr(TeacherClient, "score", score)

    return set_up


def test_failed_rows_are_asked_again_and_their_files_written_whole(
    digits_teacher, tmp_path, before_answers, monkeypatch
):
    monkeypatch.setattr(dataset_scorer, "ROWS_UNDER_WAY", 1)
    rows = digit_rows(23)
    rows[7]["response"] = ""
    ill = [rows[i]["image"] for i in (2, 3, 12)]
    data = as_parquet(tmp_path / "a.parquet", rows)
    whole, out = tmp_path / "whole", tmp_path / "out"
    common = {"teacher": digits_teacher, "shard_rows": 5}
    undisturbed = score_dataset(data, out=whole, **common)

    def breaks(image):
        if image in ill:
            raise InternalFault("it broke")

    before_answers(breaks)
    first = score_dataset(data, out=out, limit=20, **common)
    assert first.counts.errors == {"empty_response": 1, "internal": 3}
    asked: list[bytes] = []

    def interrupts(image):
        if len(asked) == stop:
            raise Interruption
        asked.append(image)

    before_answers(interrupts)
    stop = 1
    with pytest.raises(Interruption):
        score_dataset(data, out=out, resume=True, retry_failed=True, **common)
    stop = 1000
    manifest = score_dataset(data, out=out, resume=True, retry_failed=True, **common)
    assert sorted(asked) == sorted([*ill, *(row["image"] for row in rows[20:])]), "each but once"
    assert scored_rows(out) == scored_rows(whole)
    assert manifest.counts == undisturbed.counts
    assert manifest.vds == undisturbed.vds
    assert manifest.finished
    assert manifest == Manifest.read(out)


def test_counts_are_right_where_a_retry_is_interrupted(digits_teacher, tmp_path):
    rows = digit_rows(6)
    for row in rows[:3]:
        row["response"] = ""
    data, out = as_jsonl(tmp_path / "a.jsonl", rows), tmp_path / "out"
    done = score_dataset(data, teacher=digits_teacher, out=out)
    assert done.counts.failed == 3
    asked = Manifest(done.data, done.mapping, done.text_context, done.teacher, {}, "later")
    with ScoreFolder(out, asked, resume=True, retry_failed=True) as folder:
        assert folder.failed_rows() == [0, 1, 2]
        folder.replace([result(1)])
        assert not Manifest.read(out).finished
    manifest = Manifest.read(out)
    found = scored_rows(out)
    assert [row["row"] for row in found] == list(range(6))
    assert found[1]["id"] == "id-1"
    assert (manifest.counts.scored, manifest.counts.errors) == (4, {"empty_response": 2})
    assert manifest.counts.tokens == sum(row["tokens"] or 0 for row in found)
    assert manifest.vds is None


def test_a_retry_needs_rows_to_go_on_with(tmp_path):
    with pytest.raises(ValueError, match="say --resume too"):
        score_dataset("a.jsonl", teacher="x:1", out=tmp_path, retry_failed=True)


def test_a_deadline_ends_the_run_and_fails_no_row(digits_teacher, tmp_path, before_answers, capfd):
    rows = digit_rows(8)
    data, out = as_parquet(tmp_path / "a.parquet", rows), tmp_path / "out"
    answered: list[bytes] = []

    def late(image):
        if image == rows[5]["image"] and not answered:
            raise DeadlineExceeded("no answer within 600 s")

    before_answers(late)
    words = ["score", str(data), "--teacher", digits_teacher, "--out", str(out)]
    assert cli.main(words) == 75
    assert "--resume goes on" in capfd.readouterr().err
    assert Manifest.read(out).counts.failed == 0
    before_answers(answered.append)
    assert cli.main([*words, "--resume"]) == 0
    assert Manifest.read(out).counts.scored == 8


def test_a_finished_folder_stays_so_until_there_is_work(digits_teacher, tmp_path):
    data, out = as_parquet(tmp_path / "a.parquet", digit_rows(4)), tmp_path / "out"
    done = score_dataset(data, teacher=digits_teacher, out=out, limit=3)
    asked = Manifest(
        done.data, done.mapping, done.text_context, done.teacher, {"limit": None}, "later"
    )
    with ScoreFolder(out, asked, resume=True):
        assert Manifest.read(out) == done
    assert Manifest.read(out) == done
    with ScoreFolder(out, asked, resume=True) as folder:
        folder.add([result(3)])
        assert not Manifest.read(out).finished
        assert Manifest.read(out).vds is None
    again = Manifest.read(out)
    assert (again.finished, again.counts.rows, again.started) == (False, 4, done.started)
    assert again.settings["limit"] is None


def test_a_teacher_that_reads_texts_otherwise_is_another(digits_teacher, tmp_path):
    data, out = as_parquet(tmp_path / "a.parquet", digit_rows(2)), tmp_path / "out"
    manifest = score_dataset(data, teacher=digits_teacher, out=out)
    assert manifest.teacher["text_fingerprint"]
    values = json.loads((out / "manifest.json").read_text())
    values["teacher"]["text_fingerprint"] = "of another chat template"
    (out / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="teacher: text_fingerprint was 'of another"):
        score_dataset(data, teacher=digits_teacher, out=out, resume=True)


def test_paths_that_leave_the_folder(digits_teacher, tmp_path):
    rows = digit_rows(3)
    (tmp_path / "data").mkdir()
    data, out = as_jsonl(tmp_path / "data" / "a.jsonl", rows), tmp_path / "out"
    (tmp_path / "data" / "1.png").rename(tmp_path / "1.png")
    lines = [json.loads(line) for line in data.read_text().splitlines()]
    lines[1]["image"] = "../1.png"
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    common = {"teacher": digits_teacher, "out": out}
    assert score_dataset(data, **common).counts.errors == {"unreadable_image": 1}
    assert "--allow-paths-outside" in scored_rows(out)[1]["error"]
    common |= {"resume": True}
    allowed = score_dataset(data, retry_failed=True, allow_paths_outside=True, **common)
    assert allowed.counts.failed == 0
    # Readers of the folder follow what its rows were scored with.
    assert score_dataset(data, **common).allow_paths_outside
    assert [sample.row for sample in scanned_samples(out, [1])] == [1]
    assert len(select(out, keep_top=1, out=tmp_path / "kept.parquet").rows) == 3
