import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from teacher_server.scoring import select
from teacher_server.scoring.column_mapping import ColumnMapping
from teacher_server.scoring.config import SelectConfig
from teacher_server.scoring.manifest import Manifest
from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.score_folder import ScoreFolder
from teacher_server.scoring.selection import kept_places
from teacher_server.scoring.source import open_source
from tests.pictures import noise
from tests.teacher_server.scoring.digits import as_jsonl, as_parquet
from tests.teacher_server.scoring.rows import answer, failure, scored_rows

PICTURES = [noise(seed) for seed in range(3)]


def scored(folder, data, vds, mapping=ColumnMapping(), shard_rows=3):  # noqa: B008
    """Scores of `data` whose rows have one token of the given VDS; None: the row failed."""
    manifest = Manifest(open_source(str(data)).identity, mapping.to_json(), "drop", {}, {}, "")
    results = [
        failure(row)
        if value is None
        else RowResult.scored(row, str(row), replace(answer(row, 1), vds=np.float32([value])))
        for row, value in enumerate(vds)
    ]
    with ScoreFolder(folder, manifest, resume=False) as scores:
        for first in range(0, len(results), shard_rows):
            scores.add(results[first : first + shard_rows])
        scores.finish()
    return folder


def rows_of(count):
    return [{"image": PICTURES[i % 3], "question": f"q{i}", "response": "r"} for i in range(count)]


def kept(values, **settings):
    config = SelectConfig(folder="f", out="o", **settings)
    return kept_places(np.array(values, np.float64), config).tolist()


def test_shares_of_the_scored_rows():
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    assert kept(values, keep_top=0.5) == [2, 4, 5, 7]
    assert kept(values, keep_bottom=0.5) == [0, 1, 3, 6]
    assert kept(values, keep_top=0.51) == [0, 2, 4, 5, 7]
    assert kept(values, keep_top=1) == list(range(8))
    assert kept(values, keep_top=0.001) == [5]
    assert len(kept(list(range(100)), keep_top=0.07)) == 7, "0.07 * 100 is 7.000000000000001"


def test_of_equal_ones_the_first_are_kept():
    assert kept([1, 2, 2, 2, 0], keep_top=0.4) == [1, 2]
    assert kept([1, 2, 1, 1, 3], keep_bottom=0.4) == [0, 2]


def test_bounds_may_be_reached():
    assert kept([1, 2, 3, 4], min=2, max=3) == [1, 2]
    assert kept([1, 2, 3, 4], keep_top=0.75, max=3) == [1, 2]
    assert kept([1, 2], min=5) == []


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "say what to keep"),
        ({"keep_top": 0.1, "keep_bottom": 0.1}, "exclude each other"),
        ({"keep_top": 0}, "greater than 0"),
        ({"keep_top": 50}, "less than or equal to 1"),
    ],
)
def test_what_can_not_be_chosen_by(settings, says):
    with pytest.raises(ValueError, match=says):
        kept([1], **settings)


def test_rows_come_back_whole_and_in_order(tmp_path):
    rows = [row | {"more": {"a": [i]}} for i, row in enumerate(rows_of(8))]
    data = as_parquet(tmp_path / "a.parquet", rows, group=3)
    folder = scored(tmp_path / "out", data, [3, None, 4, 1, 5, 9, 2, 6])
    selection = select(folder, keep_top=0.5, by="max", out=tmp_path / "new" / "kept.parquet")
    assert selection.rows.tolist() == [2, 4, 5, 7]
    assert (selection.scored, selection.failed) == (7, 1)
    found = pq.read_table(tmp_path / "new" / "kept.parquet").to_pylist()
    assert found == [
        rows[i] | {"image": {"bytes": rows[i]["image"], "path": None}, "vds_max": value}
        for i, value in zip((2, 4, 5, 7), (4.0, 5.0, 9.0, 6.0), strict=True)
    ]


def test_failed_rows_are_never_kept(tmp_path):
    data = as_parquet(tmp_path / "a.parquet", rows_of(4))
    folder = scored(tmp_path / "out", data, [None, 0, None, 0])
    for number, settings in enumerate(({"keep_top": 1}, {"keep_bottom": 1}, {"min": -1.0})):
        selection = select(folder, out=tmp_path / f"{number}.parquet", **settings)
        assert selection.rows.tolist() == [1, 3]


def test_every_summary_may_choose(tmp_path):
    data = as_parquet(tmp_path / "a.parquet", rows_of(6))
    folder = scored(tmp_path / "out", data, [0, 1, 2, 3, 4, 5])
    for by, column in (
        ("mean", "vds_mean"),
        ("max", "vds_max"),
        ("p90", "vds_p90"),
        ("share", "vds_share_above_q70"),
        ("gain", "sequence_gain"),
    ):
        select(folder, keep_top=0.5, by=by, out=tmp_path / "kept.parquet")
        found = pq.read_table(tmp_path / "kept.parquet")[f"vds_{by}"].to_pylist()
        everything = sorted((row[column] for row in scored_rows(folder)), reverse=True)
        assert sorted(found, reverse=True) == everything[:3]


def test_jsonl_with_paths_lists_and_uneven_rows(tmp_path):
    data = as_jsonl(tmp_path / "a.jsonl", rows_of(4))
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    rows[0]["image"] = ["0.png", "1.png"]
    rows[1]["weight"] = 1
    rows[2]["weight"] = 1.5
    del rows[3]["question"]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = scored(tmp_path / "out", data, [1, 1, 1, 1])
    select(folder, keep_top=1, out=tmp_path / "kept.parquet")
    found = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert [[image["bytes"] for image in row["image"]] for row in found] == [
        [PICTURES[0], PICTURES[1]],
        [PICTURES[1]],
        [PICTURES[2]],
        [PICTURES[0]],
    ]
    assert found[0]["image"][1]["path"] == "1.png"
    assert [row["weight"] for row in found] == [None, 1.0, 1.5, None]
    assert [row["question"] for row in found] == ["q0", "q1", "q2", None]


def test_rows_that_fit_no_table_are_told(tmp_path):
    data = tmp_path / "a.jsonl"
    (tmp_path / "0.png").write_bytes(PICTURES[0])
    row = {"image": "0.png", "question": "q", "response": "r"}
    lines = [row | {"more": 1}, row | {"more": {"a": 1}}]
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = scored(tmp_path / "out", data, [1, 1])
    with pytest.raises(ValueError, match="same types"):
        select(folder, keep_top=1, out=tmp_path / "kept.parquet")
    assert not (tmp_path / "kept.parquet").exists()


def test_nothing_kept_is_a_file_without_rows(tmp_path):
    for data in (
        as_parquet(tmp_path / "a.parquet", rows_of(2)),
        as_jsonl(tmp_path / "a.jsonl", rows_of(2)),
    ):
        folder = scored(tmp_path / f"out{data.suffix}", data, [1, 2])
        select(folder, min=10, out=tmp_path / "kept.parquet")
        assert pq.read_table(tmp_path / "kept.parquet").num_rows == 0


def test_images_inside_messages_stay_there(tmp_path):
    turns = [
        {"role": "user", "content": [{"type": "image", "image": PICTURES[0]}]},
        {"role": "assistant", "content": [{"type": "text", "text": "r"}]},
    ]
    data = as_parquet(tmp_path / "a.parquet", [{"messages": turns}])
    mapping = ColumnMapping(messages_column="messages")
    folder = scored(tmp_path / "out", data, [1], mapping)
    select(folder, keep_top=1, out=tmp_path / "kept.parquet")
    (found,) = pq.read_table(tmp_path / "kept.parquet").to_pylist()
    assert found["messages"][0]["content"][0]["image"] == PICTURES[0]


def test_moved_data_are_named(tmp_path):
    data = as_parquet(tmp_path / "a.parquet", rows_of(3))
    folder = scored(tmp_path / "out", data, [1, 2, 3])
    moved = data.rename(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="no data at"):
        select(folder, keep_top=0.5, out=tmp_path / "kept.parquet")
    selection = select(folder, keep_top=0.5, out=tmp_path / "kept.parquet", data=str(moved))
    assert selection.rows.tolist() == [1, 2]


def test_a_column_is_not_overwritten(tmp_path):
    data = as_parquet(tmp_path / "a.parquet", [row | {"vds_mean": 1} for row in rows_of(2)])
    folder = scored(tmp_path / "out", data, [1, 2])
    with pytest.raises(ValueError, match="have a column 'vds_mean' already"):
        select(folder, keep_top=0.5, out=tmp_path / "kept.parquet")
