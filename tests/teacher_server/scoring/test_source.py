import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from teacher_server.scoring.bad_row import BadRow
from teacher_server.scoring.parquet_source import BATCH_ROWS
from teacher_server.scoring.source import open_source, reopen_source


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def parquet(path, rows, group):
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


ROWS = [{"image": f"{i}.png", "question": f"q{i}", "response": "r" * i} for i in range(100)]


@pytest.mark.parametrize("first", [0, 1, BATCH_ROWS, 39, 40, 41, 99, 100, 1000])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_from_any_row_on(kind, first, tmp_path):
    path = tmp_path / f"data.{kind}"
    if kind == "jsonl":
        jsonl(path, ROWS)
    else:
        parquet(path, ROWS, group=40)
    source = open_source(str(path))
    assert source.columns == ["image", "question", "response"]
    assert source.folder == tmp_path
    found = list(source.rows(first))
    assert [number for number, _ in found] == list(range(100))[first:]
    assert [row for _, row in found] == ROWS[first:]


def test_parquet_reads_the_columns_that_matter(tmp_path):
    rows = [{"image": {"bytes": b"i", "path": None}, "question": "q", "more": 1}]
    source = open_source(str(parquet(tmp_path / "a.parquet", rows, 1)))
    assert list(source.rows(0, ["question", "image", "absent"])) == [
        (0, {"image": {"bytes": b"i", "path": None}, "question": "q"})
    ]
    assert source.expected_rows() == 1


def test_a_large_row_group_is_not_held_in_memory(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.bytes(2**20) for _ in range(128)]
    # As many as fit into a page, which is the least that can be read.
    pq.write_table(
        pa.table({"image": images}),
        tmp_path / "a.parquet",
        use_dictionary=False,
        write_batch_size=1,
    )
    source = open_source(str(tmp_path / "a.parquet"))
    before = pa.total_allocated_bytes()
    held = [pa.total_allocated_bytes() - before for _ in source.rows()]
    assert len(held) == 128
    assert max(held) < 64 * 2**20, max(held)


def test_jsonl_with_blank_and_broken_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    separator = "\N{LINE SEPARATOR}"
    lines = ['{"q": 1}', "", "{broken", "[1]", f'{{"q": "{separator}"}}', '{"p": 2}']
    path.write_text("\n".join(lines), encoding="utf-8")
    source = open_source(str(path))
    assert source.columns == ["q", "p"]
    found = dict(source.rows())
    assert list(found) == [0, 1, 2, 3, 4]
    assert found[0] == {"q": 1}
    assert found[3] == {"q": separator}
    for number, says in ((1, "not JSON"), (2, "a list, not an object")):
        bad = found[number]
        assert isinstance(bad, BadRow)
        assert bad.code == "unreadable_row"
        assert says in str(bad)
    assert source.expected_rows() == 5


def test_jsonl_guesses_how_many_rows_there_are(tmp_path):
    source = open_source(str(jsonl(tmp_path / "a.jsonl", [{"q": "x" * 50}] * 1000)))
    rows = source.rows()
    for _ in range(10):
        next(rows)
    assert source.expected_rows() == 1000


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", b"x", "'.csv'"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"what is this\n", "is no JSONL"),
        ("a.parquet", b"what is this", "is no Parquet file"),
        ("nowhere.jsonl", None, "no data at"),
        ("nowhere.parquet", None, "no data at"),
    ],
)
def test_wrong_files_are_told(name, content, says, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says):
        open_source(str(tmp_path / name))


def test_an_empty_parquet_file_is_told(tmp_path):
    pq.write_table(pa.table({"a": pa.array([], pa.int32())}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no rows"):
        open_source(str(tmp_path / "a.parquet"))


def test_data_that_changed_are_told(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", ROWS)
    identity = open_source(str(path)).identity
    assert identity == {
        "kind": "jsonl",
        "path": str(path.resolve()),
        "bytes": path.stat().st_size,
        "modified_ns": path.stat().st_mtime_ns,
    }
    assert reopen_source(identity).identity == identity
    moved = path.rename(tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="no data at"):
        reopen_source(identity)
    os.utime(moved, (1, 1))
    reopen_source(identity, str(moved))
    jsonl(moved, ROWS[:-1])
    with pytest.raises(ValueError, match="is not what was scored: bytes was"):
        reopen_source(identity, str(moved))
