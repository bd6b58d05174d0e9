import json
import threading
import time
from collections import Counter
from pathlib import Path

from student_trainer.stage_clock import STAGES, StageClock


def spans(path: Path) -> list[dict]:
    """Events of a trace; each is held to the Trace Event Format as far as it is used."""
    events = json.loads(path.read_text())
    assert all(isinstance(event["name"], str) and event["pid"] >= 0 for event in events)
    kinds = {event["ph"] for event in events}
    assert kinds <= {"M", "X", "b", "e"}
    for event in events:
        if event["ph"] != "M":
            assert event["ts"] >= 0
            assert 0 <= event["tid"] < len(STAGES)
        if event["ph"] == "X":
            assert event["dur"] >= 0
    ends = Counter((e["cat"], e["id"], e["name"], e["tid"]) for e in events if e["ph"] in "be")
    assert set(ends.values()) <= {2}, "each that begins ends, once"
    begun = {e["id"]: e["ts"] for e in events if e["ph"] == "b"}
    assert all(e["ts"] >= begun[e["id"]] for e in events if e["ph"] == "e")
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert tracks == dict(enumerate(STAGES))
    return [event for event in events if event["ph"] in "Xb"]


def test_seconds_are_summed_by_name_until_they_are_taken():
    clock = StageClock()
    for _ in range(2):
        with clock.time("update", "learner"):
            time.sleep(0.01)
    taken = clock.take()
    assert taken["time/update_s"] >= 0.02
    assert clock.take() == {"time/update_s": 0.0}


def test_a_trace_has_the_spans_of_all_threads(tmp_path: Path):
    clock = StageClock(tmp_path / "run" / "trace-3.json", rank=3)

    def sample() -> None:
        for batch in range(20):
            with clock.time("sample", "sampler", batch=batch):
                pass

    threads = [threading.Thread(target=sample) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.overlapping("score", "teacher", time.monotonic() - 0.5)
    clock.close()
    clock.overlapping("score", "teacher", time.monotonic())  # too late, and no fault
    clock.close()
    found = spans(tmp_path / "run" / "trace-3.json")
    assert Counter(span["name"] for span in found) == {"sample": 80, "score": 1}
    assert {span["pid"] for span in found} == {3}


def test_what_a_killed_run_leaves_lacks_only_the_bracket(tmp_path: Path):
    clock = StageClock(tmp_path / "trace-0.json")
    with clock.time("update", "learner"):
        pass
    clock._file.flush()
    torn = (tmp_path / "trace-0.json").read_text()
    assert len(json.loads(torn + "]")) == 1 + len(STAGES) + 1
    clock.close()
    assert len(spans(tmp_path / "trace-0.json")) == 1
