"""Random conversations over a real server, beside a model of what must come back.

The engine holds every item until it is let go, so that what is under way, and therefore every answer, is certain. A
run prints its seed; STREAM_MACHINE_SEED repeats it, and STREAM_MACHINE_EXAMPLES=2000 is the long form.
"""

import contextlib
import os
import queue
import random
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import grpc
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protos.arrays import as_ids
from protos.fingerprint import echo
from protos.prompt import Prompt
from protos.request_codec import prompt_to_proto
from protos.v1 import teacher_pb2 as pb
from teacher_server.config import ServeConfig
from teacher_server.serve import running_server
from tests.pictures import noise
from tests.raw_stream import METHOD, PROMPT, REQUEST, Answers, ids_message, score_message
from tests.server_thread import in_thread
from tests.stand_in_engine import IMAGE, INFO, StandInEngine

SEED = int(os.environ.get("STREAM_MACHINE_SEED", random.SystemRandom().randrange(2**32)))
EXAMPLES = int(os.environ.get("STREAM_MACHINE_EXAMPLES", 80))
STEPS = 50
WINDOW, LONGEST, MOST_PROMPTS, ITEM_BYTES = 100, 50, 2, 12_000
WAIT_S = 20.0
"""Nothing takes so long unless something is wrong."""
UNKNOWN = 99
"""A prompt that nobody puts."""

GOOD = {
    "a": Prompt(as_ids([40, 41]), as_ids([40, 41])),
    "b": Prompt(as_ids([42, 43, 44]), as_ids([42, 43, 44])),
    "picture": Prompt(as_ids([IMAGE, 40]), as_ids([40]), (noise(0, (32, 32)),)),
}


def bad_prompt(**changes: Any) -> pb.PutPrompt:
    message = prompt_to_proto(GOOD["a"], 0)
    for name, value in changes.items():
        if isinstance(value, pb.Array):
            getattr(message.tokens, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


BAD_PROMPTS = {
    "empty": (bad_prompt(text_ids=ids_message([])), "INVALID_ARGUMENT"),
    "past-the-model": (bad_prompt(mm_ids=ids_message([5000])), "INVALID_ARGUMENT"),
    "of-floats": (bad_prompt(mm_ids=pb.Array(dtype=pb.F32)), "INVALID_ARGUMENT"),
    "torn-image": (
        prompt_to_proto(Prompt(as_ids([IMAGE]), as_ids([40]), (noise(0)[:90],)), 0),
        "INVALID_ARGUMENT",
    ),
    "other-tokenizer": (bad_prompt(tokenizer_fingerprint="ff"), "FAILED_PRECONDITION"),
    "other-context": (bad_prompt(text_context=7), "UNIMPLEMENTED"),
    "too-large": (bad_prompt(processor_fingerprint="p" * ITEM_BYTES), "RESOURCE_EXHAUSTED"),
}
AT_ONCE = {"other-context", "too-large"}
"""Refused before anyone looks whether the id is taken."""


@dataclass(frozen=True)
class BadItem:
    """What is wrong with a request, and whether that is seen before its prompt is looked up."""

    changes: dict[str, Any]
    code: str
    early: bool = False


BAD_ITEMS = {
    "k-zero": BadItem({"k": 0}, "INVALID_ARGUMENT"),
    "k-above": BadItem({"k": 5000}, "INVALID_ARGUMENT"),
    "past-the-model": BadItem({"response_ids": ids_message([5000])}, "INVALID_ARGUMENT"),
    "placeholder": BadItem({"response_ids": ids_message([IMAGE])}, "INVALID_ARGUMENT"),
    "empty": BadItem({"response_ids": ids_message([])}, "INVALID_ARGUMENT"),
    "too-long": BadItem({"response_ids": ids_message([40] * (LONGEST + 1))}, "INVALID_ARGUMENT"),
    "bad-splits": BadItem({"candidate_splits": ids_message([1])}, "INVALID_ARGUMENT", True),
    "no-dtype": BadItem({"dtype": pb.DTYPE_UNSPECIFIED}, "INVALID_ARGUMENT", True),
    "mode": BadItem({"mode": pb.MODE_HIDDEN_STATES}, "UNIMPLEMENTED", True),
    "too-large": BadItem(
        {"candidate_ids": ids_message([1] * (ITEM_BYTES // 3))}, "RESOURCE_EXHAUSTED", True
    ),
}


def wait_until(true: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < until, f"in {WAIT_S:g} s not: {what}"
        time.sleep(0.0005)


class Peer:
    """One stream, and what must be true of it."""

    def __init__(self, address: str) -> None:
        local = [("grpc.use_local_subchannel_pool", 1)]  # a connection of its own
        self._channel = grpc.insecure_channel(address, options=local)
        self._outgoing: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
        self._incoming: queue.SimpleQueue[pb.ServerMessage | None] = queue.SimpleQueue()
        self._call: Any = self._channel.stream_stream(
            METHOD,
            request_serializer=pb.ClientMessage.SerializeToString,
            response_deserializer=pb.ServerMessage.FromString,
        )(iter(self._outgoing.get, None))
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.answers = Answers()
        self.ended = False
        self.held: dict[int, str] = {}
        """Prompt id -> which of GOOD."""
        self.under_way: dict[int, tuple[str, list[int]]] = {}
        """Request id -> prompt and response, of what the engine holds."""
        self.expected: Counter[tuple[str, int, str]] = Counter()
        self.promised: dict[int, tuple[str, list[int]]] = {}
        """The same of what was or must be answered with scores."""
        self.costs: dict[int, list[int]] = {}
        """Of the answers to a request, in order."""
        self.spent = 0

    def _read(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            for message in self._call:
                self._incoming.put(message)
        self._incoming.put(None)

    # ------------------------------------------------------------------------------- the wire

    def send(self, **parts: Any) -> None:
        self._outgoing.put(pb.ClientMessage(**parts))

    def take(self, wait_s: float = 0.0) -> bool:
        """One message, if there is one; whether there was."""
        try:
            message = self._incoming.get(timeout=wait_s) if wait_s else self._incoming.get_nowait()
        except queue.Empty:
            return False
        if message is None:
            self.ended = True
        else:
            self.answers.take(message)
            self.check()
        return message is not None

    def settle(self) -> None:
        """Read until all that must be answered is, and its credit is back."""
        until = time.monotonic() + WAIT_S
        while self.got() != self.expected or self.answers.granted[-1:] != [self.granted()]:
            assert not self.ended
            assert time.monotonic() < until, (self.expected - self.got(), self.granted())
            self.take(wait_s=0.05)

    def half_close(self) -> None:
        self._outgoing.put(None)

    def end(self) -> str:
        """Read to the end; the call's status."""
        until = time.monotonic() + WAIT_S
        while not self.ended:
            assert time.monotonic() < until
            self.take(wait_s=0.05)
        status = self._call.code().name
        self._reader.join()
        self._channel.close()
        return status

    def hang_up(self) -> None:
        self._call.cancel()
        self.half_close()
        self._reader.join()
        self._channel.close()

    # ------------------------------------------------------------------------------ the model

    def got(self) -> Counter[tuple[str, int, str]]:
        return Counter(
            (*key, outcome) for key, each in self.answers.outcomes.items() for outcome in each
        )

    def expect(self, kind: str, item_id: int, outcome: str) -> None:
        self.expected[kind, item_id, outcome] += 1

    def granted(self) -> int:
        """The credit once everything that is not under way is answered."""
        under_way = sum(max(1, len(response)) for _, response in self.under_way.values())
        return WINDOW + self.spent - under_way

    def check(self) -> None:
        """Nothing comes that was not asked for, none twice, and never more credit than was answered for."""
        got, granted = self.got(), self.answers.granted
        assert not got - self.expected, "an answer too many, or another one"
        assert granted == sorted(granted)
        answered = sum(
            sum(sorted(costs, reverse=True)[: len(self.answers.outcomes[REQUEST, request_id])])
            for request_id, costs in self.costs.items()
        )
        assert not granted or granted[-1] <= WINDOW + answered
        for request_id, scores in self.answers.scores.items():
            name, response = self.promised[request_id]
            assert scores.response_ids.tolist() == response
            assert scores.teacher_id == INFO.teacher_id
            assert scores.echo == echo(GOOD[name].digest, as_ids(response)), "of another prompt"

    def score(self, request_id: int, outcome: str | None, request: pb.ScoreRequest) -> bool:
        """Ask; whether the credit admits it. `outcome` is None for what the engine holds."""
        cost = max(1, len(request.response_ids.data) // 4)
        if self.spent + cost > self.answers_granted():
            self.settle()  # now both sides know the same
        self.costs.setdefault(request_id, []).append(cost)
        admitted = self.spent + cost <= self.answers_granted()
        self.spent += cost
        self.send(score=request)
        if not admitted:
            outcome = "RESOURCE_EXHAUSTED"
        if outcome is not None:
            self.expect(REQUEST, request_id, outcome)
        if not admitted:
            self.settle()
        return admitted

    def answers_granted(self) -> int:
        """What the server has told so far."""
        while self.take():
            pass
        return self.answers.granted[-1] if self.answers.granted else 0


PEERS, PROMPT_IDS = st.integers(0, 1), st.integers(0, 4)
LENGTHS = st.sampled_from([1, 1, 2, 3, 10, 30, LONGEST])
CHOICES = st.integers(0, 2**16)


class Conversations(RuleBasedStateMachine):
    """Two clients of one server."""

    address = ""
    engine: StandInEngine
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.peers = [Peer(self.address) for _ in range(2)]
        self.last_id = 0
        for which in range(2):
            self.put(which, 0, "picture")

    def teardown(self) -> None:
        for peer in self.peers:
            peer.hang_up()
        wait_until(lambda: not self.engine.waiting, "what nobody waits for is dropped")

    def fresh_id(self) -> int:
        self.last_id += 1
        return self.last_id

    def busy(self, which: int) -> Peer:
        """The peer, or the other one if it alone has something under way."""
        peer = self.peers[which]
        return peer if peer.under_way else self.peers[1 - which]

    @invariant()
    def nothing_unasked_came(self) -> None:
        for peer in self.peers:
            while peer.take():
                pass

    # ------------------------------------------------------------------------------- prompts

    @rule(which=PEERS, prompt_id=PROMPT_IDS, name=st.sampled_from(sorted(GOOD)))
    def put(self, which: int, prompt_id: int, name: str) -> None:
        peer = self.peers[which]
        held = peer.held.get(prompt_id)
        if held is None and len(peer.held) >= MOST_PROMPTS:
            outcome = "RESOURCE_EXHAUSTED"
        elif held not in (None, name):
            outcome = "ALREADY_EXISTS"
        else:
            outcome = "OK"
            peer.held[prompt_id] = name
        self.done[f"put {outcome}"] += 1
        peer.expect(PROMPT, prompt_id, outcome)
        peer.send(put_prompt=prompt_to_proto(GOOD[name], prompt_id))

    @rule(which=PEERS, prompt_id=PROMPT_IDS, name=st.sampled_from(sorted(BAD_PROMPTS)))
    def put_bad(self, which: int, prompt_id: int, name: str) -> None:
        peer = self.peers[which]
        message, outcome = BAD_PROMPTS[name]
        if name not in AT_ONCE and prompt_id in peer.held:
            outcome = "ALREADY_EXISTS"
        elif name not in AT_ONCE and len(peer.held) >= MOST_PROMPTS:
            outcome = "RESOURCE_EXHAUSTED"
        self.done[f"put_bad {outcome}"] += 1
        peer.expect(PROMPT, prompt_id, outcome)
        message = pb.PutPrompt.FromString(message.SerializeToString())
        message.prompt_id = prompt_id
        peer.send(put_prompt=message)
        peer.settle()  # until it is refused, its id is taken

    @precondition(lambda self: any(len(peer.held) > 1 for peer in self.peers))
    @rule(which=PEERS, choice=CHOICES)
    def drop(self, which: int, choice: int) -> None:
        prompt_id = chosen(self.peers[which].held, choice, UNKNOWN)
        known = self.peers[which].held.pop(prompt_id, None) is not None
        self.done[f"drop known={known}"] += 1
        self.peers[which].send(drop_prompt=pb.DropPrompt(prompt_id=prompt_id))

    # --------------------------------------------------------------------------------- items

    @rule(
        which=PEERS,
        items=st.lists(st.tuples(CHOICES, LENGTHS, st.integers(0, 1)), min_size=1, max_size=6),
    )
    def score_some(self, which: int, items: list[tuple[int, int, int]]) -> None:
        for choice, tokens, priority in items:
            self.score(which, choice, tokens, priority)

    def score(self, which: int, choice: int, tokens: int, priority: int) -> None:
        peer, request_id = self.peers[which], self.fresh_id()
        prompt_id = chosen(peer.held, choice, UNKNOWN)
        response = [40 + (request_id + t) % 100 for t in range(tokens)]
        known = prompt_id in peer.held
        request = score_message(request_id, response, prompt_id=prompt_id, priority=priority)
        if known:
            # Counted before it is sent: it may be answered before this thread goes on.
            peer.promised[request_id] = (peer.held[prompt_id], response)
        admitted = peer.score(request_id, None if known else "FAILED_PRECONDITION", request)
        if known and admitted:
            peer.under_way[request_id] = peer.promised[request_id]
        self.done[f"score known={known} admitted={admitted}"] += 1

    @rule(which=PEERS, choice=CHOICES, name=st.sampled_from(sorted(BAD_ITEMS)))
    def score_bad(self, which: int, choice: int, name: str) -> None:
        peer, bad, request_id = self.peers[which], BAD_ITEMS[name], self.fresh_id()
        prompt_id = chosen(peer.held, choice, UNKNOWN)
        code = bad.code if bad.early or prompt_id in peer.held else "FAILED_PRECONDITION"
        request = score_message(request_id, [40], prompt_id=prompt_id)
        for field, value in bad.changes.items():
            if isinstance(value, pb.Array):
                getattr(request, field).CopyFrom(value)
            else:
                setattr(request, field, value)
        admitted = peer.score(request_id, code, request)
        self.done[f"score_bad {code} admitted={admitted}"] += 1

    @rule(which=PEERS, choice=CHOICES, deadline_ms=st.integers(1, 5))
    def score_too_late(self, which: int, choice: int, deadline_ms: int) -> None:
        peer, request_id = self.peers[which], self.fresh_id()
        prompt_id = chosen(peer.held, choice, UNKNOWN)
        code = "DEADLINE_EXCEEDED" if prompt_id in peer.held else "FAILED_PRECONDITION"
        request = score_message(request_id, [40], prompt_id=prompt_id, deadline_ms=deadline_ms)
        admitted = peer.score(request_id, code, request)
        peer.settle()
        self.done[f"score_too_late {code} admitted={admitted}"] += 1

    @precondition(lambda self: any(peer.under_way for peer in self.peers))
    @rule(which=PEERS, choice=CHOICES)
    def score_under_a_taken_id(self, which: int, choice: int) -> None:
        peer = self.busy(which)
        request_id = chosen(peer.under_way, choice, None)
        request = score_message(request_id, [50], prompt_id=chosen(peer.held, choice, UNKNOWN))
        admitted = peer.score(request_id, "ALREADY_EXISTS", request)
        self.done[f"duplicate admitted={admitted}"] += 1

    @precondition(lambda self: any(peer.under_way for peer in self.peers))
    @rule(which=PEERS, choice=CHOICES)
    def cancel(self, which: int, choice: int) -> None:
        peer = self.busy(which)
        request_id = chosen(peer.under_way, choice, None)
        self.done["cancel"] += 1
        del peer.under_way[request_id], peer.promised[request_id]
        peer.expect(REQUEST, request_id, "CANCELLED")
        peer.send(cancel=pb.Cancel(request_id=request_id))

    @precondition(lambda self: sum(len(peer.under_way) for peer in self.peers) > 3)
    @rule()
    def let_go_some(self) -> None:
        self.let_go()

    def let_go(self) -> None:
        for peer in self.peers:  # nothing that was cancelled is still on its way
            peer.settle()
        under_way = sum(len(peer.under_way) for peer in self.peers)
        wait_until(lambda: len(self.engine.waiting) == under_way, "the engine has what is admitted")
        for peer in self.peers:
            for request_id in peer.under_way:
                peer.expect(REQUEST, request_id, "OK")
            peer.under_way.clear()
        self.engine.let_go()
        for peer in self.peers:
            peer.settle()
        assert not self.engine.waiting
        self.done["let_go"] += 1

    # ---------------------------------------------------------------------------- the stream

    @precondition(lambda self: self.last_id % 4 == 1)
    @rule(which=PEERS)
    def nothing(self, which: int) -> None:
        self.peers[which].send()
        self.peers[which].send(drop_prompt=pb.DropPrompt(prompt_id=UNKNOWN))
        self.peers[which].send(cancel=pb.Cancel(request_id=self.fresh_id()))
        self.done["nothing"] += 1

    @precondition(lambda self: any(peer.under_way for peer in self.peers))
    @rule(which=PEERS)
    def half_close(self, which: int) -> None:
        """What is under way is answered, then the call ends well."""
        peer = self.busy(which)
        self.done["half_close"] += 1
        peer.half_close()
        self.let_go()
        assert peer.end() == "OK"
        assert peer.got() == peer.expected
        assert peer.answers.granted[-1] == WINDOW + peer.spent
        self.peers[self.peers.index(peer)] = Peer(self.address)

    @precondition(lambda self: any(peer.under_way for peer in self.peers))
    @rule(which=PEERS)
    def hang_up(self, which: int) -> None:
        """What it asked for is dropped, and only that."""
        peer = self.busy(which)
        which = self.peers.index(peer)
        other = self.peers[1 - which]
        self.done["hang_up"] += 1
        peer.hang_up()
        other.settle()
        left = len(other.under_way)
        wait_until(lambda: len(self.engine.waiting) == left, "its work leaves the engine")
        self.peers[which] = Peer(self.address)


def chosen(ids: dict[int, Any], choice: int, otherwise: Any) -> Any:
    """One of the ids, in an order of their own."""
    return sorted(ids)[choice % len(ids)] if ids else otherwise


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, StandInEngine]]:
    config = ServeConfig.model_validate(
        {
            "server": {"port": 0, "http_port": None, "grace_s": 5},
            "limits": {
                "max_response_tokens": LONGEST,
                "stream_window_tokens": WINDOW,
                "max_prompts": MOST_PROMPTS,
                "max_item_bytes": ITEM_BYTES,
                "max_k": 64,
            },
        }
    )
    engine = StandInEngine(config.limits.published(), held=True)

    @contextlib.asynccontextmanager
    async def serve() -> AsyncIterator[str]:
        async with running_server(config, engine) as address:
            yield address

    with in_thread("server", serve) as address:
        yield address, engine


MUST_HAPPEN = [
    "put OK",
    "put RESOURCE_EXHAUSTED",
    "put ALREADY_EXISTS",
    "put_bad INVALID_ARGUMENT",
    "drop known=True",
    "score known=True admitted=True",
    "score known=True admitted=False",
    "score_bad INVALID_ARGUMENT admitted=True",
    "score_too_late DEADLINE_EXCEEDED admitted=True",
    "duplicate admitted=True",
    "cancel",
    "let_go",
    "half_close",
    "hang_up",
]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_every_request_is_answered_once_and_as_the_model_says(
    server: tuple[str, StandInEngine], caplog: pytest.LogCaptureFixture
):
    print(f"STREAM_MACHINE_SEED={SEED} STREAM_MACHINE_EXAMPLES={EXAMPLES}")

    class Machine(Conversations):
        address, engine, done = *server, Counter()

    run_state_machine_as_test(
        seed(SEED)(Machine),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        ),
    )
    print(dict(Machine.done))
    assert Machine.done.total() >= 10 * EXAMPLES, "too little traffic is no run"
    missing = [name for name in MUST_HAPPEN if not Machine.done[name]]
    assert len(missing) <= 2, "a run without these is no run"
    faults = [r.getMessage() for r in caplog.records if r.levelname in ("ERROR", "CRITICAL")]
    assert faults == []
