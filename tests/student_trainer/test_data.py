import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from student_trainer.data import DataSet, Sample, load_images
from student_trainer.data_config import DataConfig

CONFIG = DataConfig()
TEXT = DataConfig(image_column="")


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def write_parquet(path: Path, *rows: dict[str, Any]) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def numbered(folder: Path, count: int) -> DataSet:
    rows = [{"question": str(i), "answer": ""} for i in range(count)]
    return DataSet(write_jsonl(folder / "rows.jsonl", *rows), TEXT)


def test_jsonl_with_paths_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(b"a")
    (tmp_path / "b.png").write_bytes(b"b")
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        {"image": "pictures/a.png", "question": "one?", "answer": "1"},
        {"image": ["b.png", "pictures/a.png"], "question": "two?", "answer": 2},
        {"question": "none?", "answer": None},
    )
    data = DataSet(path, CONFIG)
    assert [data[i] for i in range(len(data))] == [
        Sample((b"a",), "one?", "1"),
        Sample((b"b", b"a"), "two?", "2"),
        Sample((), "none?", ""),
    ]


def test_jsonl_may_hold_blank_lines_and_any_character(tmp_path: Path) -> None:
    """JSON leaves U+2028 and U+0085 as they are; only a newline ends a line."""
    question = "so\u2028many\u0085kinds\u000bof é 🙂 line"
    path = write_jsonl(tmp_path / "rows.jsonl", {"question": question, "answer": "1"})
    path.write_text(path.read_text(encoding="utf-8") + "\n  \n", encoding="utf-8")
    data = DataSet(path, TEXT)
    assert [data[i].question for i in range(len(data))] == [question]


def test_parquet_with_bytes_structs_and_lists(tmp_path: Path) -> None:
    (tmp_path / "c.png").write_bytes(b"c")
    bytes_ = write_parquet(
        tmp_path / "bytes.parquet",
        {"image": b"a", "question": "one?", "answer": "1"},
        {"image": None, "question": "none?", "answer": None},
    )
    data = DataSet(bytes_, CONFIG)
    assert [data[0], data[1]] == [Sample((b"a",), "one?", "1"), Sample((), "none?", "")]
    structs = write_parquet(
        tmp_path / "structs.parquet",
        {"image": {"bytes": b"a", "path": "elsewhere.png"}, "question": "q", "answer": "1"},
        {"image": {"bytes": None, "path": "c.png"}, "question": "q", "answer": "1"},
        {"image": {"bytes": None, "path": None}, "question": "q", "answer": "1"},
    )
    data = DataSet(structs, CONFIG)
    assert [data[i].images for i in range(3)] == [(b"a",), (b"c",), ()]
    lists = write_parquet(
        tmp_path / "lists.parquet",
        {
            "image": [{"bytes": b"a", "path": None}, {"bytes": b"b", "path": None}],
            "question": "q",
            "answer": "1",
        },
        {"image": [], "question": "q", "answer": "1"},
    )
    data = DataSet(lists, CONFIG)
    assert [data[i].images for i in range(2)] == [(b"a", b"b"), ()]


def test_columns_have_the_configured_names(tmp_path: Path) -> None:
    config = DataConfig(image_column="picture", question_column="ask", answer_column="key")
    row = {"picture": b"a", "ask": "one?", "key": "1"}
    data = DataSet(write_parquet(tmp_path / "rows.parquet", row), config)
    assert data[0] == Sample((b"a",), "one?", "1")


def test_a_decoded_picture_is_encoded_without_loss(tmp_path: Path) -> None:
    picture = Image.new("RGB", (3, 2), (10, 20, 30))
    picture.putpixel((2, 1), (1, 2, 3))
    (encoded,) = load_images(picture, tmp_path)
    again = Image.open(io.BytesIO(encoded))
    assert (again.format, again.mode, again.size) == ("PNG", "RGB", (3, 2))
    assert again.tobytes() == picture.tobytes()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no data file at .*absent\.jsonl"):
        DataSet(tmp_path / "absent.jsonl", CONFIG)


def test_a_missing_column_is_named_beside_those_there_are(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", {"image": "a.png", "query": "?", "answer": "1"})
    with pytest.raises(ValueError, match="no column 'question'; it has image, query, answer"):
        DataSet(path, CONFIG)


def test_another_file_type_is_refused_with_those_that_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\n")
    with pytest.raises(ValueError, match=r"'\.csv'; give a \.jsonl or \.parquet file"):
        DataSet(path, CONFIG)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has no rows"):
        DataSet(write_jsonl(tmp_path / "rows.jsonl"), CONFIG)


@pytest.mark.parametrize(
    ("image", "reason"), [("absent.png", "absent.png"), (7, "an image is int")]
)
def test_a_bad_image_is_reported(tmp_path: Path, image: Any, reason: str) -> None:
    good, bad = {"question": "q", "answer": "1"}, {"image": image, "question": "q", "answer": "1"}
    data = DataSet(write_jsonl(tmp_path / "rows.jsonl", good, bad), CONFIG)
    with pytest.raises(ValueError, match=rf"its image: .*{reason}"):
        data[1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [({"question": "q"}, "no 'answer'"), ({"question": None, "answer": "1"}, "'question' is null")],
)
def test_a_row_that_lacks_something_is_reported(
    tmp_path: Path, bad: dict[str, Any], reason: str
) -> None:
    good = {"question": "q", "answer": "1"}
    data = DataSet(write_jsonl(tmp_path / "rows.jsonl", good, bad), TEXT)
    with pytest.raises(ValueError, match=reason):
        data[1]


@pytest.mark.parametrize(
    ("line", "reason"), [('{"question": "q', "is no JSON"), ('["q", "1"]', "is list; a row is")]
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "q", "answer": "1"}\n\n' + line + "\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl line 3 {reason}"):
        DataSet(path, TEXT)


@pytest.mark.parametrize("name", ["math", None])
def test_a_teacher_that_nobody_named_is_told_before_the_run(
    tmp_path: Path, name: str | None
) -> None:
    rows = [{"question": "q", "answer": "1", "subject": subject} for subject in ("maths", name)]
    config = TEXT.model_copy(update={"teacher_column": "subject"})
    data = DataSet(write_jsonl(tmp_path / "rows.jsonl", *rows), config)
    with pytest.raises(ValueError, match=rf"row 1 names the teacher {name!r}.*has maths, sight"):
        data.refuse_teachers_beyond({"maths": "a", "sight": "b"})


def test_a_teachers_name_may_be_a_number(tmp_path: Path) -> None:
    rows = [{"question": "q", "answer": "1", "subject": subject} for subject in (0, 1)]
    config = TEXT.model_copy(update={"teacher_column": "subject"})
    data = DataSet(write_jsonl(tmp_path / "rows.jsonl", *rows), config)
    data.refuse_teachers_beyond({"0": "a", "1": "b"})
    assert data[1].teacher == "1"


@pytest.mark.parametrize(("size", "steps"), [(1, 14), (3, 14), (7, 6), (10, 7), (20, 7)])
def test_steps_tile_epochs_of_shuffled_rows(tmp_path: Path, size: int, steps: int) -> None:
    data = numbered(tmp_path, 7)
    order = [i for step in range(steps) for i in data.indices(step, size, seed=3)]
    assert len(order) == size * steps
    epochs = [order[i : i + 7] for i in range(0, len(order) - 6, 7)]
    assert len(epochs) >= 2
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


def test_the_order_is_the_seeds_alone(tmp_path: Path) -> None:
    data = numbered(tmp_path, 50)
    assert data.indices(4, 20, seed=1) == numbered(tmp_path, 50).indices(4, 20, seed=1)
    assert data.indices(0, 50, seed=1) != data.indices(0, 50, seed=2)


def test_a_misspelt_image_column_is_no_data_without_images(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"picture": "a.png", "question": "q", "answer": "a"}) + "\n")
    with pytest.raises(ValueError, match=r"no column 'image'.*picture.*data\.image_column"):
        DataSet(path, CONFIG)
