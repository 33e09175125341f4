"""The tasks of worker_app, as coroutines on an AsyncPQ."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from typing import Any

import psycopg

from pgq_py import AsyncPQ

DSN = os.environ["TEST_DSN"]
pq = AsyncPQ(DSN)
queue = pq["apples"]
_conn: list[Any] = []
_lock = asyncio.Lock()


async def write(job: Any, what: str) -> None:
    """A line in the ledger."""
    async with _lock:
        if not _conn:
            _conn.append(await psycopg.AsyncConnection.connect(DSN, autocommit=True))
        await _conn[0].execute("insert into ledger values (%s, %s, %s)", [job.id, os.getpid(), what])


@queue.task(name="note", bind=True)
async def note(job: Any, seconds: float = 0) -> None:
    """Something that takes a while, and is written down when it is done."""
    if seconds:
        await write(job, "begun")
        await asyncio.sleep(seconds)
    await asyncio.shield(write(job, "done"))


@queue.task(name="crash", bind=True)
async def crash(job: Any) -> None:
    """A job that ends its process."""
    await write(job, "begun")
    os._exit(9)


@queue.task(name="fork", bind=True)
async def fork(job: Any) -> None:
    """A job that forks and ends its child."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    await write(job, f"child {os.waitstatus_to_exitcode(status)}")
    await write(job, "done")


@queue.task(name="thread", bind=True)
async def thread(job: Any) -> None:
    """A job that is cancelled, and whose thread goes on."""
    await write(job, "begun")
    await asyncio.to_thread(threading.Event().wait, 600)
