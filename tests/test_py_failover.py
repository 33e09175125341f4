"""A primary that dies and a standby that takes over: what is kept, what is lost, and clients that find the way."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from time import monotonic
from typing import Any

import psycopg
import pytest
from conftest import FOUND
from links import side_by_side, until
from servers import Server
from worlds import PATIENCE, World

from pgq_py import PQ, errors

pytest_plugins = ("world_fixtures",)


class Pair:
    """A primary with the queue installed, and its streaming standby."""

    def __init__(self, version: str) -> None:
        self.primary, self.standby = (Server(version, FOUND[version]) for _ in range(2))
        self.primary.create()
        with PQ(self.primary.dsn()) as pq:
            pq.create()
        self.standby.run(
            "pg_basebackup", "-h", self.primary.host, "-U", self.primary.user, "-D", str(self.standby.data),
            "-R", "-c", "fast", "-X", "stream", "--no-sync",
        )  # fmt: skip
        with (self.standby.data / "postgresql.conf").open("a") as conf:
            conf.write(f"unix_socket_directories = '{self.standby.folder}'\nwal_retrieve_retry_interval = 100\n")
        self.standby.start()
        hosts = f"{self.primary.host},{self.standby.host}"
        self.dsn = f"host={hosts} user={self.primary.user} dbname=postgres target_session_attrs=read-write"

    def on_primary(self, *statements: str) -> Any:
        with psycopg.connect(self.primary.dsn(), autocommit=True) as conn:
            for statement in statements:
                last = conn.execute(statement)
            return last.fetchone() if last.description else None

    def synchronous(self) -> None:
        """From now on a commit is acknowledged when the standby has it."""
        self.on_primary("alter system set synchronous_standby_names = '*'", "select pg_reload_conf()")
        self.until("select count(*) = 1 from pg_stat_replication where sync_state = 'sync'")

    def until(self, condition: str, on: Server | None = None) -> None:
        patience = monotonic() + PATIENCE
        with psycopg.connect((on or self.primary).dsn(), autocommit=True) as conn:
            while conn.execute(condition).fetchone() != (True,):
                assert monotonic() < patience, condition

    def cut(self) -> None:
        """The standby gets nothing more, and all that came before is replayed there."""
        with psycopg.connect(self.primary.dsn()) as conn:
            (lsn,) = conn.execute("select pg_current_wal_insert_lsn()").fetchone() or ("",)
        self.until(f"select pg_last_wal_replay_lsn() >= '{lsn}'", on=self.standby)
        with psycopg.connect(self.standby.dsn(), autocommit=True) as conn:
            conn.execute("alter system set primary_conninfo = 'host=/nonexistent'")
            conn.execute("select pg_reload_conf()")
        self.until("select count(*) = 0 from pg_stat_wal_receiver where status = 'streaming'", on=self.standby)

    def fail_over(self) -> None:
        self.primary.kill()
        self.standby.run("pg_ctl", "-D", str(self.standby.data), "-w", "promote")

    def close(self) -> None:
        for server in (self.standby, self.primary):
            server.remove()


@pytest.fixture
def pair(version: str) -> Iterator[Pair]:
    pair = Pair(version)
    yield pair
    pair.close()


async def produce(queue: Any, acknowledged: dict[str, int], count: int) -> None:
    """As docs/design/connections.md shows: after a loss the same put again, with its key."""
    for n in range(count):
        key = f"key {n}"
        while key not in acknowledged:
            with contextlib.suppress(errors.ConnectionLost):
                acknowledged[key] = int(await queue.put(key, dedupe_key=key))
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("name", ["sync", "async"])
async def test_with_a_synchronous_standby_nothing_acknowledged_is_lost_and_all_go_on(pair, name, sleepers):
    pair.synchronous()
    world = World(name, pair.dsn)
    pq, acknowledged = world.pq(), {}

    async def serve() -> list[Any]:
        """Work off other jobs meanwhile, each with an effect in the same transaction."""
        served = []
        while len(served) < 3:
            async with pq["served"].take() as job:
                served.append(job.data)
        return served

    serving = side_by_side(world, serve)
    await asyncio.to_thread(sleepers.wait)
    producing = side_by_side(world, produce, pq["apples"], acknowledged, 400)
    await until(lambda: len(acknowledged) >= 100)
    await asyncio.to_thread(pair.fail_over)
    before = len(acknowledged)
    await asyncio.wait_for(producing, PATIENCE)
    assert before < 400, "the failover came too late to matter"
    for n in range(3):
        await pq["served"].put(n)
    assert sorted(await asyncio.wait_for(serving, PATIENCE)) == [0, 1, 2]
    jobs = await pq["apples"].list()
    assert {job.data: job.id for job in jobs} == acknowledged
    assert len(jobs) == 400
    # Ids go on from the last one that was given, with a gap of up to 32.
    ids = list(acknowledged.values())
    assert ids == sorted(ids)
    await world.close()


async def test_with_an_asynchronous_standby_what_it_had_not_got_is_lost_and_nothing_twice(pair):
    with PQ(pair.dsn) as pq:
        queue = pq["apples"]
        kept = [queue.put(n) for n in range(20)]
        held = queue.lease("1h")
        pair.cut()
        lost = [queue.put(f"lost {n}") for n in range(40)]
        taken = [queue.get().id for _ in range(5)]
        late = queue.lease("1h")
        pair.fail_over()
        # What was acknowledged after the standby's last record is as if it had never been: puts, takes and leases.
        assert [job.id for job in queue.list()] == kept[1:]
        assert set(taken) <= {job.id for job in queue.list()}
        assert late.complete() is False
        assert held.complete() is True
        # No two jobs that are there share an id. But those of jobs that were lost are given again.
        again = [queue.put(n) for n in range(40)]
        assert min(again) > max(kept)
        assert set(again) & set(lost)
        found = []
        while (job := queue.get(block=False)) is not None:
            found.append(job.id)
        assert found == kept[1:] + again


async def test_the_receipt_of_a_lost_job_does_nothing_to_the_one_that_has_its_id(pair):
    with PQ(pair.dsn) as pq:
        queue = pq["apples"]
        queue.put("first")
        queue.get()
        pair.cut()
        lost = {}
        for n in range(60):
            queue.put(n)
            job = queue.lease("1h")
            lost[job.id] = job
        pair.fail_over()
        for n in range(60):
            queue.put(n)
        again = {job.id: job for job in queue.lease_many(60, "1h")}
        both = set(again) & set(lost)
        assert both
        assert not any(lost[id].complete() for id in both)
        assert all(again[id].complete() for id in both)
