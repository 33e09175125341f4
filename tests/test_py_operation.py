"""Stats, upkeep and health, in both worlds. What they find is tested in SQL."""

from __future__ import annotations

import pytest

pytest_plugins = ("world_fixtures",)


async def test_stats_tell_what_there_is_and_what_there_was(pq, queue):
    await queue.put_many(range(6))
    await queue.put("later", "1h")
    await queue.get()
    await (await queue.lease()).complete()
    await (await queue.lease()).error("a worm", retry_in="1h")
    await (await queue.lease()).error("rotten", bury=True)
    await queue.lease()
    stats = await queue.stats()
    assert (stats.queue, stats.exact, stats.paused) == ("apples", True, False)
    assert (stats.ready, stats.scheduled, stats.retrying, stats.leased, stats.dead) == (1, 1, 1, 1, 1)
    assert (stats.put, stats.taken, stats.completed, stats.failed) == (7, 4, 1, 2)
    assert stats.oldest_ready_at < stats.next_due_at
    assert await pq.stats() == [stats]


async def test_maintain_removes_the_dead_that_are_old_enough(pq, queue):
    await queue.configure(keep_dead_for="1h")
    for n in range(2):
        await queue.put(n)
        await (await queue.lease()).error("rotten", bury=True)
    assert (await pq.maintain())["delete dead jobs"] == 0
    await queue.configure(keep_dead_for=0)
    assert (await pq.maintain())["delete dead jobs"] == 2
    assert await queue.dead() == []


@pytest.mark.parametrize("older_than", [0, "1h"])
async def test_health_names_the_transaction_that_holds_back_vacuum(world, pq, queue, older_than):
    await queue.put(1)
    other = await world.connect()
    await other.execute("set transaction isolation level repeatable read")
    await other.execute("select 1")
    (pid,) = await (await other.execute("select pg_backend_pid()")).fetchone()
    await queue.put(2)  # something that vacuum could remove after that
    found = [finding for finding in await pq.health(older_than) if str(pid) in finding.subject + finding.detail]
    if older_than == 0:
        assert found[0].what == "vacuum held back"
        assert f"pg_terminate_backend({pid})" in found[0].remedy
    else:
        assert found == []
