"""Scores on disk: every failure here is a real one, of real files and real processes."""

import hashlib
import json
import logging
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protos.score_cache import ScoreCache
from protos.score_record import pack_record, record_key, unpack_record
from protos.scores import Scores
from protos.segment import FRAME_BYTES, HEADER, read_records

ROOT = Path(__file__).parents[2]


def key(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(4)).digest()


def make_scores(seed: int, rows: int = 3, per_row: int = 4) -> Scores:
    """Random bits in every array, so that NaN, infinities and denormals are among them."""
    random = np.random.default_rng(seed)

    def floats(size: int) -> np.ndarray:
        return random.integers(0, 2**32, size, dtype=np.uint32).view(np.float32)

    entries = rows * per_row
    return Scores(
        row_splits=np.arange(rows + 1, dtype=np.int32) * np.int32(per_row),
        support_ids=random.integers(0, 2**31, entries, dtype=np.int32),
        mm_logprobs=floats(entries),
        text_logprobs=floats(entries),
        mm_tail=floats(rows),
        text_tail=floats(rows),
        tail_mask=random.random(rows) < 0.5,
        vds=floats(rows),
        sampled_mm_logprobs=floats(rows),
        sampled_text_logprobs=floats(rows),
        response_ids=random.integers(0, 2**31, rows, dtype=np.int32),
        teacher_id=f"teacher {seed}",
        echo=key(seed)[:16],
        queue_s=0.1 * seed,
        engine_s=1 / 3,
    )


def bits(scores: Scores) -> dict[str, object]:
    """Every field in a form that compares bit for bit."""
    values = {field.name: getattr(scores, field.name) for field in fields(scores)}
    return {
        name: (value.dtype, value.shape, value.tobytes())
        if isinstance(value, np.ndarray)
        else value
        for name, value in values.items()
    }


def stored(cache: ScoreCache, number: int, rows: int = 3) -> bool:
    """Whether the scores made from `number` are there; if so, they must be the same to the bit."""
    got = cache.get(key(number))
    assert got is None or bits(got) == bits(make_scores(number, rows))
    return got is not None


def fill(folder: Path, count: int, **settings: int) -> Path:
    """A closed cache with scores 0 to count - 1; its last segment."""
    with ScoreCache(folder, **settings) as cache:
        for number in range(count):
            cache.put(key(number), make_scores(number))
    return max(folder.glob("segment-*.vgs"))


def offsets(path: Path) -> list[int]:
    """Where each record starts, and where the last one ends."""
    return [*(offset for offset, _ in read_records(path)), path.stat().st_size]


def command(function: str, *arguments: object) -> list[str]:
    """A process of its own that runs one of the functions here."""
    code = f"import sys; from tests.protos.test_score_cache import {function} as run; run(*sys.argv[1:])"
    return [sys.executable, "-c", code, *map(str, arguments)]


# ------------------------------------------------------------------------------------------ the record


@st.composite
def any_scores(draw: st.DrawFn) -> Scores:
    counts = draw(st.lists(st.integers(0, 5), max_size=6))
    rows, entries = len(counts), sum(counts)

    def floats(size: int) -> np.ndarray:
        # Halves are what an f16 answer holds; -inf, NaN and -0 are among both.
        width = draw(st.sampled_from([16, 32]))
        return draw(hnp.arrays(np.float32, size, elements=st.floats(width=width)))

    def integers(size: int) -> np.ndarray:
        return draw(hnp.arrays(np.int32, size))

    return Scores(
        row_splits=np.cumsum([0, *counts]).astype(np.int32),
        support_ids=integers(entries),
        mm_logprobs=floats(entries),
        text_logprobs=floats(entries),
        mm_tail=floats(rows),
        text_tail=floats(rows),
        tail_mask=draw(hnp.arrays(np.bool_, rows)),
        vds=floats(rows),
        sampled_mm_logprobs=floats(rows),
        sampled_text_logprobs=floats(rows),
        response_ids=integers(rows),
        teacher_id=draw(st.text(max_size=5)),
        echo=draw(st.binary(max_size=16)),
        queue_s=draw(st.floats(allow_nan=False)),
        engine_s=draw(st.floats(allow_nan=False)),
    )


@settings(deadline=None)
@given(any_scores(), st.binary(max_size=40))
def test_a_record_gives_back_every_bit(scores: Scores, name: bytes) -> None:
    body = pack_record(name, scores)
    found, got = unpack_record(body)
    assert found == record_key(body) == name
    assert bits(got) == bits(scores)
    assert got.mm_logprobs.flags.writeable
    assert got.tail_mask.flags.aligned


def test_special_values_and_halves_survive() -> None:
    special = np.array([-np.inf, np.nan, -0.0, 1e-45, -65504], np.float32)
    halves = np.array([-np.inf, -0.0, -1.5, 6e-8, -65504], np.float16)
    scores = replace(make_scores(1, 5, 1), mm_logprobs=special, text_logprobs=halves)
    strided = replace(scores, vds=np.arange(10, dtype=np.float32)[::-2])
    assert bits(unpack_record(pack_record(b"k", strided))[1]) == bits(strided)


def test_an_array_of_another_dtype_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="vds has dtype <f8; a record holds"):
        pack_record(b"k", replace(make_scores(1), vds=np.zeros(3)))


@pytest.mark.parametrize(
    "body", [b"", b"\x01", b"\x80", b"\x81\xa3key\x01", b"\x81\xa3key\xc4\x01k", b"\xc1"], ids=repr
)
def test_what_is_no_record_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|Unpack|^$"):
        unpack_record(body)


# ---------------------------------------------------------------------------------------- kept and read


def test_scores_are_kept_over_a_reopening(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "cache"
    with ScoreCache(folder) as cache:
        assert cache.get(key(1)) is None
        for number in range(5):
            cache.put(key(number), make_scores(number))
        assert len(cache) == 5
        assert all(stored(cache, number) for number in range(5))
        stats = cache.stats
        assert (stats.hits, stats.misses, stats.stored, stats.failed_writes) == (5, 1, 5, 0)
    with ScoreCache(folder) as cache:
        assert len(cache) == 5
        assert all(stored(cache, number) for number in range(5))
        assert not stored(cache, 5)
        cache.put(key(5), make_scores(5))
        assert stored(cache, 5)
        assert (cache.stats.truncated_bytes, cache.stats.damaged) == (0, 0)
    assert [path.name for path in folder.glob("*.vgs")] == ["segment-000001.vgs"]


def test_what_was_put_first_stays(tmp_path: Path) -> None:
    path = fill(tmp_path, 2)
    size = path.stat().st_size
    with ScoreCache(tmp_path) as cache:
        cache.put(key(1), make_scores(7))
        assert stored(cache, 1)
        assert cache.stats.stored == 0
    assert path.stat().st_size == size


def test_a_closed_cache_says_so(tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path)
    cache.close()
    cache.close()
    with pytest.raises(ValueError, match=f"score cache in {tmp_path} is closed"):
        cache.get(key(0))
    with pytest.raises(ValueError, match="is closed"):
        cache.put(key(0), make_scores(0))


def test_segments_roll_over(tmp_path: Path) -> None:
    size = FRAME_BYTES + len(pack_record(key(0), make_scores(0)))
    # Two fit to the byte; a record larger than the limit has a segment of its own.
    fill(tmp_path, 5, max_segment_bytes=len(HEADER) + 2 * size)
    assert [len(offsets(path)) - 1 for path in sorted(tmp_path.glob("*.vgs"))] == [2, 2, 1]
    with ScoreCache(tmp_path, max_segment_bytes=1) as cache:
        for number in (5, 6):
            cache.put(key(number), make_scores(number))
    assert [len(offsets(path)) - 1 for path in sorted(tmp_path.glob("*.vgs"))] == [2, 2, 1, 1, 1]
    with ScoreCache(tmp_path) as cache:
        assert all(stored(cache, number) for number in range(7))


def open_and_close(folder: str) -> None:
    ScoreCache(folder).close()


def test_a_second_cache_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    another = command("open_and_close", tmp_path)
    with ScoreCache(tmp_path):
        with pytest.raises(BlockingIOError, match=f"score cache in {tmp_path} is in use"):
            ScoreCache(tmp_path)
        other = subprocess.run(another, cwd=ROOT, capture_output=True, text=True)
        assert other.returncode == 1
        assert f"score cache in {tmp_path} is in use, and only one process" in other.stderr
    assert subprocess.run(another, cwd=ROOT).returncode == 0


def test_threads_share_a_cache(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for number in range(first, first + 40):
                stored(cache, number)
                cache.put(key(number), make_scores(number))
                assert stored(cache, number)
        except BaseException as error:
            failures.append(error)

    with ScoreCache(tmp_path, max_segment_bytes=5000) as cache:
        threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(cache) == cache.stats.stored == 90
        assert cache.stats.hits + cache.stats.misses == 6 * 80
    with ScoreCache(tmp_path) as cache:
        assert all(stored(cache, number) for number in range(90))


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 99)),
        st.tuples(st.just("get"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.integers(1, 4000)),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(OPERATIONS)
def test_any_sequence_agrees_with_a_dict(operations: list[tuple[str, int, int]]) -> None:
    model: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = ScoreCache(folder, max_segment_bytes=2000)
        try:
            for verb, number, value in operations:
                if verb == "put":
                    cache.put(key(number), make_scores(value, rows=value % 5, per_row=value % 3))
                    model.setdefault(number, value)
                elif verb == "reopen":
                    cache.close()
                    cache = ScoreCache(folder, max_segment_bytes=value)
                assert len(cache) == len(model)
                got = cache.get(key(number))
                assert (got is not None) == (number in model)
                if got is not None:
                    value = model[number]
                    expected = make_scores(value, rows=value % 5, per_row=value % 3)
                    assert bits(got) == bits(expected)
        finally:
            cache.close()


# ----------------------------------------------------------------------------------- torn and damaged


def test_a_tail_torn_at_any_byte_costs_its_record_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = fill(tmp_path, 3)
    whole = path.read_bytes()
    *_, last, end = offsets(path)
    for cut in range(last, end):
        path.write_bytes(whole[:cut])
        caplog.clear()
        with ScoreCache(tmp_path) as cache:
            assert cache.stats.truncated_bytes == cut - last
            assert (f"truncated_bytes={cut - last}:" in caplog.text) == (cut > last)
            assert [stored(cache, number) for number in range(3)] == [True, True, False]
            cache.put(key(3), make_scores(3))
        with ScoreCache(tmp_path) as cache:
            assert cache.stats.truncated_bytes == cache.stats.damaged == 0
            assert [stored(cache, number) for number in range(4)] == [True, True, False, True]
    assert list(tmp_path.glob("*.vgs")) == [path]


def test_a_last_record_of_full_length_and_wrong_bytes_is_a_torn_tail(tmp_path: Path) -> None:
    path = fill(tmp_path, 2)
    *_, last, end = offsets(path)
    with path.open("r+b") as file:
        file.seek(end - 10)
        file.write(bytes(10))
    with ScoreCache(tmp_path) as cache:
        assert (cache.stats.truncated_bytes, cache.stats.damaged) == (end - last, 0)
        assert [stored(cache, number) for number in range(2)] == [True, False]
    assert path.stat().st_size == last


@pytest.mark.parametrize("cut", range(len(HEADER)))
def test_a_torn_header_is_written_again(tmp_path: Path, cut: int) -> None:
    fill(tmp_path, 2, max_segment_bytes=1).write_bytes(HEADER[:cut])
    with ScoreCache(tmp_path, max_segment_bytes=1) as cache:
        assert cache.stats.truncated_bytes == cut
        assert [stored(cache, number) for number in range(2)] == [True, False]
        cache.put(key(1), make_scores(1))
    with ScoreCache(tmp_path) as cache:
        assert [stored(cache, number) for number in range(2)] == [True, True]
    assert len(list(tmp_path.glob("*.vgs"))) == 2


@pytest.mark.parametrize("followed", [False, True], ids=["last segment", "an earlier one"])
def test_a_flipped_byte_is_never_returned(
    tmp_path: Path, followed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = fill(tmp_path, 4)
    whole = path.read_bytes()
    _, second, third, *_ = offsets(path)
    if followed:
        with ScoreCache(tmp_path, max_segment_bytes=1) as cache:
            cache.put(key(4), make_scores(4))
    later = sorted(tmp_path.glob("*.vgs"))[1:]
    for position in [*range(second, second + 2 * FRAME_BYTES), *range(second + 20, third, 7)]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        caplog.clear()
        with ScoreCache(tmp_path) as cache:
            assert [stored(cache, number) for number in range(4)] == [True, False, False, False]
            assert stored(cache, 4) == followed
            # A length that points beyond the end is what a torn tail looks like, too.
            if cache.stats.truncated_bytes:
                assert not followed
                assert position < second + 4
            else:
                assert cache.stats.damaged == 1
                assert f"file={path} offset={second} " in caplog.text
                assert caplog.records[0].levelno == logging.ERROR
            cache.put(key(9), make_scores(9))
        with ScoreCache(tmp_path) as cache:
            assert [stored(cache, number) for number in (0, 1, 9)] == [True, False, True]
        for extra in set(tmp_path.glob("*.vgs")) - {path, *later}:
            extra.unlink()
        for kept in later:  # record 9 went behind record 4
            kept.write_bytes(kept.read_bytes()[: offsets(kept)[1]])


def test_a_stretch_of_zeros_is_no_record(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = fill(tmp_path, 2)
    with path.open("ab") as file:
        file.write(bytes(4096))
    with ScoreCache(tmp_path) as cache:
        assert len(cache) == 2
        assert cache.stats.damaged == 1
        cache.put(key(2), make_scores(2))
    with ScoreCache(tmp_path) as cache:
        assert all(stored(cache, number) for number in range(3))


def test_damage_under_an_open_cache_is_seen_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ScoreCache(tmp_path) as cache:
        for number in range(3):
            cache.put(key(number), make_scores(number))
        path = tmp_path / "segment-000001.vgs"
        middle = offsets(path)[1]
        with path.open("r+b") as file:
            file.seek(middle + 100)
            byte = file.read(1)[0]
            file.seek(middle + 100)
            file.write(bytes([byte ^ 1]))
        assert [stored(cache, number) for number in range(3)] == [True, False, True]
        assert f"file={path} offset={middle} a record does not fit its checksum" in caplog.text
        assert (cache.stats.damaged, cache.stats.misses, len(cache)) == (1, 1, 2)
        cache.put(key(1), make_scores(1))
        cache.put(key(3), make_scores(3))
        assert all(stored(cache, number) for number in range(4))
    with ScoreCache(tmp_path) as cache:  # what was put later does not stand behind the damage
        assert [stored(cache, number) for number in range(4)] == [True, True, False, True]


def test_a_file_that_is_gone_is_a_miss(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with ScoreCache(tmp_path) as cache:
        (tmp_path / "segment-000001.vgs").unlink()
        assert not stored(cache, 0)
        cache.put(key(0), make_scores(0))
        assert stored(cache, 0)


def test_a_file_that_is_gone_before_the_first_put_ends_the_keeping_alone(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with ScoreCache(tmp_path) as cache:
        (tmp_path / "segment-000001.vgs").unlink()
        cache.put(key(1), make_scores(1))
        assert cache.read_only
        assert not stored(cache, 1)
    assert list(tmp_path.glob("*.vgs")) == []


@pytest.mark.parametrize("start", [b"vgs.segment\x02", b"something else", b"\0" * 40], ids=repr)
def test_a_foreign_file_is_left_as_it_is(
    tmp_path: Path, start: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "segment-000004.vgs"
    path.write_bytes(start + b"what another version wrote")
    (tmp_path / "notes.txt").write_text("not ours")
    with ScoreCache(tmp_path) as cache:
        assert len(cache) == 0
        cache.put(key(0), make_scores(0))
    assert f"file={path} offset=0 the header is" in caplog.text
    assert path.read_bytes() == start + b"what another version wrote"
    with ScoreCache(tmp_path) as cache:
        assert stored(cache, 0)
    assert (tmp_path / "segment-000005.vgs").exists()


def test_a_record_under_a_wrong_key_is_not_returned(tmp_path: Path) -> None:
    """Should a checksum hold and the place be wrong, the key that the record carries tells."""
    with ScoreCache(tmp_path) as cache:
        for number, rows in ((0, 3), (1, 3)):
            cache.put(key(number), replace(make_scores(number), teacher_id="t" * rows))
        path = tmp_path / "segment-000001.vgs"
        whole, (first, second, end) = path.read_bytes(), offsets(path)
        assert second - first == end - second
        path.write_bytes(whole[:first] + whole[second:end] + whole[first:second])
        assert cache.get(key(0)) is cache.get(key(1)) is None


# ------------------------------------------------------------------------------------ full and killed


def fill_up(folder: str, allowed_bytes: str) -> None:
    """Put until the disk is full and on, then print what is there."""
    if limit := int(allowed_bytes):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[method-assign]
    logging.getLogger("protos").addHandler(handler)
    with ScoreCache(folder, max_segment_bytes=200_000) as cache:
        for number in range(60):
            cache.put(key(number), make_scores(number, rows=200))
        kept = [number for number in range(60) if stored(cache, number, rows=200)]
        read_only, stats = cache.read_only, vars(cache.stats)
    with ScoreCache(folder) as again:
        found = [number for number in range(60) if stored(again, number, rows=200)]
        truncated_bytes, damaged = again.stats.truncated_bytes, again.stats.damaged
    print(
        json.dumps(
            {
                "kept": kept,
                "found": found,
                "read_only": read_only,
                "stats": stats,
                "truncated": truncated_bytes,
                "damaged": damaged,
                "warnings": [record.getMessage() for record in records],
            }
        )
    )


TMPFS = 'mount -t tmpfs -o size=300k none "$0" && exec "$@"'


def limited_file(folder: Path) -> list[str]:
    return command("fill_up", folder, 100_000)


def small_tmpfs(folder: Path) -> list[str]:
    """A file system of 300 KiB, in a mount namespace that ends with the process."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", TMPFS, str(folder)]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a tmpfs")
    return [*alone, *command("fill_up", folder, 0)]


@pytest.mark.parametrize(
    ("full", "why"), [(limited_file, "File too large"), (small_tmpfs, "No space left")]
)
def test_a_full_disk_ends_the_keeping_alone(
    tmp_path: Path, full: Callable[[Path], list[str]], why: str
) -> None:
    done = subprocess.run(full(tmp_path), cwd=ROOT, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    kept = told["kept"]
    assert len(kept) >= 5
    assert kept == list(range(len(kept)))
    assert told["found"] == kept
    assert told["read_only"]
    assert told["stats"]["stored"] == len(kept)
    assert told["stats"]["failed_writes"] == 60 - len(kept)
    # The part that was written before the disk was full is gone, so nothing is torn.
    assert told["truncated"] == told["damaged"] == 0
    assert len(told["warnings"]) == 1
    assert why in told["warnings"][0]
    assert f"score_cache_read_only folder={tmp_path} " in told["warnings"][0]


def keep_putting(folder: str) -> None:
    """Put until killed; a number is printed once its scores are kept."""
    with ScoreCache(folder, max_segment_bytes=2_000_000) as cache:
        for number in range(len(cache), 1_000_000):
            cache.put(key(number), make_scores(number, rows=300))
            print(number, flush=True)


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    endless = command("keep_putting", tmp_path)
    seen = 0
    for wanted in (1, 50, 333):
        with subprocess.Popen(endless, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(wanted)]
            writer.kill()
            lines += writer.stdout.readlines()
        assert writer.returncode == -signal.SIGKILL
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
        assert len(acknowledged) >= wanted
        seen = acknowledged[-1] + 1
        with ScoreCache(tmp_path) as cache:
            assert all(stored(cache, number, rows=300) for number in range(seen))
            assert len(cache) in (seen, seen + 1)  # one may be kept and not yet printed
            assert cache.stats.damaged == 0
    assert seen > 380
    assert len(list(tmp_path.glob("*.vgs"))) > 1
