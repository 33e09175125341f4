"""A forked child: a clear error or a connection of its own, and the parent unharmed."""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import pytest
from conftest import ROOT

from pgq_py import PQ, AsyncPQ, errors


def in_child(function: Callable[[], Any]) -> None:
    """Run the function in a fork, and fail here if it fails there."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def refused(queue: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: queue.put(2),
        lambda: queue.put_many([2]),
        lambda: queue.get(block=False),
        lambda: queue.get(timeout=0.1),
        lambda: queue.count(),
        queue.__enter__,
        lambda: queue.take().__enter__(),
    ]
    for call in calls:
        with pytest.raises(errors.Forked):
            call()


@pytest.mark.parametrize("autocommit", [False, True])
def test_a_child_may_not_use_the_parents_connection(database, autocommit):
    with psycopg.connect(database.dsn, autocommit=autocommit) as mine:
        queue = PQ(mine)["apples"]
        queue.put(1)
        in_child(lambda: refused(queue))
        assert [job.data for job in queue.list()] == [1]


def test_a_child_may_not_use_the_parents_pool(database):
    with psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=2) as pool:
        queue = PQ(pool=pool)["apples"]
        queue.put(1)
        in_child(lambda: refused(queue))
        assert [job.data for job in queue.list()] == [1]


def test_a_child_with_an_address_gets_connections_of_its_own(database, conn):
    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        queue.put(1)

        def child() -> None:
            with queue as cursor:
                queue.put(2)
                pids.append(cursor.connection.info.backend_pid)
            assert pids[0] != pids[1]
            pq.close()

        pids = []
        with queue as cursor:
            pids.append(cursor.connection.info.backend_pid)
        for _ in range(3):
            in_child(child)
        with queue as cursor:
            assert cursor.connection.info.backend_pid == pids[0]
        assert [job.data for job in queue.list()] == [1, 2, 2, 2]


@pytest.mark.parametrize("kind", ["address", "pool", "conn"])
@pytest.mark.parametrize("how", ["block", "take", "listen"])
def test_a_child_forked_inside_a_block_leaves_the_parents_transaction_alone(database, conn, kind, how):
    with (
        psycopg_pool.ConnectionPool(database.dsn, min_size=1, max_size=2) as pool,
        psycopg.connect(database.dsn) as mine,
    ):
        pq = PQ(database.dsn) if kind == "address" else PQ(pool=pool) if kind == "pool" else PQ(mine)
        queue = pq["apples"]
        queue.put("taken")

        def child() -> None:
            refused(queue)
            raise SystemExit

        def block() -> None:
            queue.put("inside")
            pid = os.fork()
            if pid == 0:
                child()
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            queue.put("still inside")
            assert conn.execute("select queue_count('apples')").fetchone() == (1,)

        parent = os.getpid()
        try:
            if how == "block":
                with queue:
                    queue.get()
                    block()
            elif how == "take":
                with queue.take():
                    block()
            else:
                for _ in queue.listen(timeout=0):
                    block()
                    break
        except BaseException as error:
            if os.getpid() == parent:
                raise
            if not isinstance(error, SystemExit):
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(0 if isinstance(error, SystemExit) else 1)
        expected = ["taken"] if how == "listen" else ["inside", "still inside"]
        assert [job.data for job in queue.list()] == expected
        pq.close()


def test_a_child_that_ends_a_block_normally_is_told(database, conn):
    with PQ(database.dsn) as pq:
        queue = pq["apples"]
        with queue:
            queue.put(1)

            def child() -> None:
                with pytest.raises(errors.Forked):
                    queue.__exit__(None, None, None)

            in_child(child)
            queue.put(2)
        assert conn.execute("select queue_count('apples')").fetchone() == (2,)


async def test_an_asynchronous_child_is_refused_too(database):
    async with await psycopg.AsyncConnection.connect(database.dsn) as mine:
        queue = AsyncPQ(mine)["apples"]
        await queue.put(1)

        async def use() -> None:
            with pytest.raises(errors.Forked):
                await queue.put(2)

        def child() -> None:
            # The loop that runs in the parent is not this process's.
            asyncio.events._set_running_loop(None)
            asyncio.run(use())

        in_child(child)
        assert [job.data for job in await queue.list()] == [1]


def test_a_worker_killed_in_take_gives_the_job_back_at_once(database, conn):
    import signal
    import subprocess

    conn.execute("select queue_put('apples', '1')")
    code = (
        "import sys, time; from pgq_py import PQ\n"
        f"with PQ({database.dsn!r})['apples'].take() as job: print(job.data, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=ROOT
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"1\n"
        assert conn.execute("select id from queue_get('apples')").fetchall() == []
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    with PQ(database.dsn) as pq:
        while (job := pq["apples"].get(timeout=1)) is None:
            pass
    assert job.data == 1
