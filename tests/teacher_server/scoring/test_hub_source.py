"""Data sets read through `datasets`, from folders: nothing here reaches for the network."""

import subprocess
import sys

import pytest

from teacher_server.scoring import score_dataset, select
from teacher_server.scoring.source import open_source, reopen_source
from tests.teacher_server.scoring.digits import as_parquet, digit_rows
from tests.teacher_server.scoring.rows import scored_rows

datasets = pytest.importorskip("datasets")

ROWS = digit_rows(7)


@pytest.fixture(params=["saved", "saved splits", "files"])
def folder(request, tmp_path, monkeypatch):
    """The same rows, kept in the ways that `datasets` knows."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "data"
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("id", "question", "response")}
        | {"image": datasets.Image()}
    )
    rows = [row | {"image": {"bytes": row["image"], "path": None}} for row in ROWS]
    data = datasets.Dataset.from_list(rows, features=features)
    if request.param == "files":
        (path / "data").mkdir(parents=True)
        data.to_parquet(str(path / "data" / "train-00000-of-00001.parquet"))
    elif request.param == "saved":
        data.save_to_disk(str(path))
    else:
        datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(str(path))
    return path


def test_rows_come_with_images_as_they_are_stored(folder):
    source = open_source(str(folder))
    assert set(source.columns) == {"id", "image", "question", "response"}
    for first in (0, 5, 7):
        found = list(source.rows(first))
        assert [number for number, _ in found] == list(range(7))[first:]
        for number, row in found:
            assert row["image"]["bytes"] == ROWS[number]["image"]
            assert row["response"] == ROWS[number]["response"]
    (_, row), *_ = source.rows(3, ["image", "id"])
    assert set(row) == {"image", "id"}
    assert reopen_source(source.identity).identity == source.identity


def test_scored_and_selected(folder, digits_teacher, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept.parquet"
    score_dataset(folder, teacher=digits_teacher, out=out, id_column="id", limit=3)
    score_dataset(folder, teacher=digits_teacher, out=out, id_column="id", resume=True)
    data = as_parquet(tmp_path / "same.parquet", ROWS)
    score_dataset(data, teacher=digits_teacher, out=tmp_path / "same", id_column="id")
    assert scored_rows(out) == scored_rows(tmp_path / "same")
    select(out, keep_top=0.3, out=kept)
    found = list(open_source(str(kept)).rows())
    assert len(found) == 3
    given = {row["id"]: row["image"] for row in ROWS}
    assert all(row["image"]["bytes"] == given[row["id"]] for _, row in found)


@pytest.mark.parametrize("folder", ["saved splits"], indirect=True)
def test_splits(folder):
    assert len(list(open_source(str(folder), split="test").rows())) == 1
    with pytest.raises(ValueError, match="no split 'validation'; it has train, test"):
        open_source(str(folder), split="validation")


def test_a_folder_without_data(tmp_path):
    with pytest.raises(ValueError, match="can't open the data set"):
        open_source(str(tmp_path))


def test_an_id_where_the_hub_is_out_of_reach():
    code = (
        "from teacher_server.scoring.source import open_source\n"
        "try:\n    open_source('somebody/something')\nexcept ValueError as error:\n    print(error)"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert "can't find the data set 'somebody/something' on the Hub" in done.stdout, done.stderr


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"vgs-opd\[score,hub\]"):
        open_source(str(tmp_path))
