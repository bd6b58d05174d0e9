import asyncio

import pytest

from teacher_server.scoring.budget import Budget


async def waits(budget: Budget, **amounts: int) -> bool:
    try:
        await asyncio.wait_for(budget.take(**amounts), 0.01)
    except TimeoutError:
        return True
    return False


async def test_what_does_not_fit_waits_for_room():
    budget = Budget({"rows": 2, "bytes": 100})
    await budget.take(rows=1, bytes=60)
    assert await waits(budget, rows=1, bytes=41)
    assert not await waits(budget, rows=1, bytes=40)
    assert await waits(budget, rows=1, bytes=0)
    taking = asyncio.create_task(budget.take(rows=1, bytes=60))
    await asyncio.sleep(0)
    budget.give_back(rows=1, bytes=40)
    await asyncio.sleep(0)
    assert not taking.done()
    budget.give_back(rows=1, bytes=60)
    await asyncio.wait_for(taking, 1)


async def test_what_is_larger_than_all_goes_alone():
    budget = Budget({"rows": 2, "bytes": 100})
    await budget.take(rows=1, bytes=5000)
    assert await waits(budget, rows=1, bytes=1)
    budget.give_back(rows=1, bytes=5000)
    assert not await waits(budget, rows=1, bytes=1)


async def test_only_known_kinds():
    with pytest.raises(KeyError):
        await Budget({"rows": 1}).take(tokens=1)
