import numpy as np
import pyarrow.parquet as pq
import pytest

from teacher_server.scoring.row_result import RowResult
from teacher_server.scoring.shard import SCHEMA, fill_shares, shards_in, write_shard
from tests.teacher_server.scoring.rows import answer, failure, result, scored_rows

BETWEEN = SCHEMA.names[2:-2]
"""Columns that are null where a row failed."""


def test_a_shard_holds_the_rows_as_they_came(tmp_path):
    scores = answer(1, tokens=4)
    write_shard(tmp_path, 0, [result(0), RowResult.scored(1, "b", scores), failure(2)])
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table.schema.equals(SCHEMA)
    assert (
        pq.ParquetFile(tmp_path / "part-00000.parquet").metadata.row_group(0).column(0).compression
        == "ZSTD"
    )
    _, row, failed = table.to_pylist()
    assert (row["row"], row["id"], row["tokens"], row["error_code"]) == (1, "b", 4, None)
    assert row["token_ids"] == scores.response_ids.tolist()
    assert row["token_texts"] == list(scores.token_texts)
    assert row["vds"] == scores.vds.tolist()
    assert row["mm_logprobs"] == scores.sampled_mm_logprobs.tolist()
    assert row["text_logprobs"] == scores.sampled_text_logprobs.tolist()
    assert failed == {
        "row": 2,
        "id": "2",
        "error_code": "no_image",
        "error": "the row has no image",
    } | dict.fromkeys(BETWEEN)


def test_summaries_are_of_the_row(tmp_path):
    scores = answer(3, tokens=20)
    write_shard(tmp_path, 0, [RowResult.scored(0, "a", scores)])
    (row,) = scored_rows(tmp_path)
    vds = scores.vds.astype(np.float64)
    assert row["vds_mean"] == vds.mean()
    assert row["vds_max"] == vds.max()
    assert row["vds_p90"] == np.quantile(vds, 0.9)
    gain = sum(scores.sampled_mm_logprobs.tolist()) - sum(scores.sampled_text_logprobs.tolist())
    assert row["sequence_gain"] == pytest.approx(gain, rel=1e-12)
    assert row["vds_share_above_q70"] is None


def test_shares_are_filled_in_once_and_nothing_else_changes(tmp_path):
    shard = write_shard(tmp_path, 0, [result(0), failure(1), result(2, tokens=1)])
    before = scored_rows(tmp_path)
    fill_shares(shard, 0.5)
    after = scored_rows(tmp_path)
    for old, new in zip(before, after, strict=True):
        vds = new["vds"]
        share = None if vds is None else sum(v > 0.5 for v in vds) / len(vds)
        assert new == old | {"vds_share_above_q70": share}
    inode = shard.path.stat().st_ino
    fill_shares(shard, 0.5)
    assert shard.path.stat().st_ino == inode, "it was written again for nothing"
    fill_shares(shard, 1e9)
    assert [row["vds_share_above_q70"] for row in scored_rows(tmp_path)] == [0.0, None, 0.0]
    (found,) = shards_in(tmp_path)
    assert (found.first_row, found.rows) == (0, 3)


def test_a_shard_of_failures_alone(tmp_path):
    shard = write_shard(tmp_path, 0, [failure(0), failure(1)])
    fill_shares(shard, 0.5)
    assert len(shard.vds()) == 0
    assert [row["error_code"] for row in scored_rows(tmp_path)] == ["no_image"] * 2


def test_what_is_missing_is_told(tmp_path):
    write_shard(tmp_path, 0, [result(0)])
    write_shard(tmp_path, 1, [result(1), result(2)])
    write_shard(tmp_path, 2, [result(3)])
    assert [shard.first_row for shard in shards_in(tmp_path)] == [0, 1, 3]
    (tmp_path / "part-00001.parquet").unlink()
    with pytest.raises(ValueError, match="begins with row 3 where row 1 was expected"):
        shards_in(tmp_path)


def test_a_file_of_another_kind_is_told(tmp_path):
    (tmp_path / "part-00000.parquet").write_bytes(b"no parquet at all")
    with pytest.raises(ValueError, match="is no Parquet file"):
        shards_in(tmp_path)
    pq.write_table(SCHEMA.empty_table(), tmp_path / "part-00000.parquet")
    with pytest.raises(ValueError, match=r"not vgs\.scores\.1"):
        shards_in(tmp_path)


def test_texts_that_are_no_unicode_are_kept_as_well_as_may_be(tmp_path):
    write_shard(tmp_path, 0, [RowResult.failed(0, "a\ud800", "no_image", "x\udfff")])
    assert scored_rows(tmp_path)[0]["id"] == "a?"


def test_many_tokens_survive(tmp_path):
    results = [result(row, tokens=row % 7 + 1) if row % 5 else failure(row) for row in range(500)]
    shard = write_shard(tmp_path, 0, results)
    expected = np.concatenate([r.vds for r in results])
    assert np.array_equal(shard.vds(), expected)
    assert [row["vds"] and len(row["vds"]) for row in scored_rows(tmp_path)] == [
        (row % 7 + 1) if row % 5 else None for row in range(500)
    ]
