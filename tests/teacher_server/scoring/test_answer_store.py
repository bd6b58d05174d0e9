import pytest

from teacher_server.scoring.answer_store import AnswerStore
from tests.teacher_server.scoring.rows import answer


def key(row: int) -> bytes:
    return row.to_bytes(32, "little")


def test_answers_outlive_the_store_and_go_block_by_block(tmp_path):
    folder = tmp_path / ".answers"
    with AnswerStore(folder, block_rows=10) as store:
        for row in range(35):
            store.put(row, key(row), answer(row))
    with AnswerStore(folder, block_rows=10) as store:
        for row in range(35):
            found = store.get(row, key(row))
            assert found is not None
            assert found.equal_to(answer(row))
        assert store.get(3, key(99)) is None
        (folder / "lost+found").mkdir()
        (folder / ".DS_Store").touch()
        (folder / "7z").touch()
        store.forget_before(29)
        stray = {"lost+found", ".DS_Store", "7z"}
        assert {path.name for path in folder.iterdir()} == {"2", "3"} | stray
        assert store.get(15, key(15)) is None
        assert store.get(25, key(25)) is not None
        store.remove()
    assert not folder.exists()


def test_nothing_to_forget(tmp_path):
    AnswerStore(tmp_path / ".answers").forget_before(10)
    assert not (tmp_path / ".answers").exists()


def test_one_process_at_a_time(tmp_path):
    with AnswerStore(tmp_path) as store:
        store.put(0, key(0), answer(0))
        with pytest.raises(BlockingIOError, match="in use"):
            AnswerStore(tmp_path).get(0, key(0))
