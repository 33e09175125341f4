"""The interpreter ends while a call is blocked: at once, without noise, and each job is in one place."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT
from worlds import PATIENCE, Background

from pgq_py import PQ, errors

pytest_plugins = ("world_fixtures",)

# Each blocks for ever, or holds a job.
CALLS = {
    "get": "queue.get()",
    "take": "queue.take().__enter__()",
    "listen": "next(queue.listen())",
    "lease": "queue.lease()",
    "consume": "next(queue.consume())",
    "set": "pq['apples', 'pears'].get()",
}
# Ready when a session sleeps, which its lock shows.
START = """
import asyncio, atexit, os, signal, sys, threading
import psycopg
from pgq_py import PQ, AsyncPQ
from pgq_py._sync import listener
dsn = {dsn!r}
asleep = threading.Event()
sleep = listener.Listener.sleep
def note(self, seconds):
    asleep.set()
    return sleep(self, seconds)
listener.Listener.sleep = note
pq = PQ(dsn)
queue = pq["apples"]
"""
ENDS = {
    "sys.exit": "sys.exit()",
    "end of main": "",
    "os._exit": "os._exit(0)",
    "closed": "pq.close()",
}


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE
    )


def jobs(conn: Any) -> list[tuple[int, bool]]:
    return conn.execute("select data, ready_at is null from queue_list('apples', scheduled => true)").fetchall()


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("call", CALLS)
def test_a_program_that_ends_while_a_thread_of_it_waits_ends_in_silence(database, conn, call, end):
    code = START.format(dsn=database.dsn) + (
        f"""
def wait():
    try:
        {CALLS[call]}
    except BaseException as error:
        if type(error).__name__ != "Closed":
            raise
threading.Thread(target=wait, daemon=True).start()
asleep.wait()
{ENDS[end]}
"""
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    conn.execute("select queue_put('apples', '1')")
    assert jobs(conn) == [(1, True)]


@pytest.mark.parametrize("call", CALLS)
def test_a_program_that_is_terminated_while_it_waits_leaves_no_job_behind(database, conn, call):
    code = START.format(dsn=database.dsn) + (
        f"""
threading.Thread(target=lambda: (asleep.wait(), os.kill(os.getpid(), signal.SIGTERM)), daemon=True).start()
{CALLS[call]}
"""
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, "", "")
    conn.execute("select queue_put('apples', '1')")
    assert jobs(conn) == [(1, True)]


@pytest.mark.parametrize("end", ["sys.exit()", "return"])
def test_a_loop_that_ends_while_a_get_of_it_waits_ends_in_silence(database, conn, end):
    code = START.format(dsn=database.dsn) + (
        f"""
async def main():
    async with AsyncPQ(dsn) as pq:
        task = asyncio.create_task(pq["apples"].get())
        with psycopg.connect(dsn, autocommit=True) as watch:
            while not watch.execute("select from pg_locks where locktype = 'advisory'").fetchall():
                await asyncio.sleep(0.01)
        {end}
asyncio.run(main())
"""
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    conn.execute("select queue_put('apples', '1')")
    assert jobs(conn) == [(1, True)]


def test_a_program_that_ends_inside_take_gives_the_job_back(database, conn):
    conn.execute("select queue_put('apples', '1')")
    code = START.format(dsn=database.dsn) + "\nwith queue.take() as job:\n    sys.exit(job.data)\n"
    done = run(code)
    assert (done.returncode, done.stderr) == (1, "")
    with PQ(database.dsn) as pq:
        assert pq["apples"].get(timeout=PATIENCE).data == 1


def test_a_program_that_ends_while_it_keeps_a_lease_alive_ends_in_silence(database, conn):
    conn.execute("select queue_put('apples', '1')")
    code = START.format(dsn=database.dsn) + (
        """
job = queue.lease("1h")
keeper = job.keep_alive(every=0.01)
keeper.__enter__()
threading.Event().wait(0.05)
pq.close()
"""
    )
    done = run(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert jobs(conn) == [(1, False)]


@pytest.mark.parametrize("call", ["get", "take", "listen", "lease", "consume"])
def test_close_ends_a_call_that_waits_in_another_thread(database, conn, sleepers, call):
    pq = PQ(database.dsn)
    waiting = Background(eval, CALLS[call], {"queue": pq["apples"], "pq": pq})
    sleepers.wait()
    pq.close()
    with pytest.raises(errors.Closed):
        waiting.result()
    while conn.execute("select from pg_stat_activity where application_name = 'pgq_py'").fetchall():
        pass
    conn.execute("select queue_put('apples', '1')")
    assert jobs(conn) == [(1, True)]
