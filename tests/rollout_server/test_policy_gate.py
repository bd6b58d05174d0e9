import asyncio

import pytest

from protos.errors import PreconditionFailed
from protos.policy import Policy
from rollout_server.policy_gate import PolicyGate

ONE, TWO = Policy("run", 1), Policy("run", 2)


async def update(gate: PolicyGate, policy: Policy) -> None:
    async with gate.updating(policy):
        await asyncio.sleep(0)


async def test_an_update_waits_for_answers_and_holds_others_off():
    gate, order = PolicyGate(), []
    await update(gate, ONE)

    async def sample(policy: Policy, name: str, hold: asyncio.Event) -> None:
        async with gate.sampling(policy):
            order.append(name)
            await hold.wait()
            order.append(f"{name} done")

    async def load() -> None:
        async with gate.updating(TWO):
            order.append("load")

    hold = asyncio.Event()
    first = asyncio.create_task(sample(ONE, "first", hold))
    await asyncio.sleep(0.01)
    loading = asyncio.create_task(load())
    await asyncio.sleep(0.01)
    second = asyncio.create_task(sample(TWO, "second", hold))
    await asyncio.sleep(0.01)
    assert order == ["first"]
    hold.set()
    await asyncio.gather(first, loading, second)
    assert order == ["first", "first done", "load", "second", "second done"]


async def test_only_the_policy_that_is_held_is_sampled():
    gate = PolicyGate()
    async with gate.sampling(None) as policy:
        assert policy is None
    with pytest.raises(PreconditionFailed, match="holds policy of its start, not run@1"):
        async with gate.sampling(ONE):
            pass
    await update(gate, ONE)
    async with gate.sampling(ONE) as policy:
        assert policy == ONE
    with pytest.raises(PreconditionFailed, match="holds policy run@1, not run@2"):
        async with gate.sampling(TWO):
            pass


async def test_after_half_an_update_nothing_is_sampled_before_a_whole_one():
    gate = PolicyGate()
    await update(gate, ONE)
    with pytest.raises(RuntimeError):
        async with gate.updating(TWO):
            raise RuntimeError
    for policy in (None, ONE, TWO):
        with pytest.raises(PreconditionFailed, match="run@2 failed half way"):
            async with gate.sampling(policy):
                pass
    await update(gate, TWO)
    async with gate.sampling(TWO):
        pass


async def test_a_run_never_goes_back_and_another_may_start():
    gate = PolicyGate()
    await update(gate, TWO)
    with pytest.raises(PreconditionFailed, match=r"run@1 is older than run@2"):
        await update(gate, ONE)
    await update(gate, TWO)
    await update(gate, Policy("other", 0))
    assert gate.policy == Policy("other", 0)


async def test_a_given_up_update_blocks_nobody():
    gate = PolicyGate()
    async with gate.sampling(None):
        loading = asyncio.create_task(update(gate, ONE))
        await asyncio.sleep(0.01)
        loading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await loading
    async with gate.sampling(None) as policy:
        assert policy is None
