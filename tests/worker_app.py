"""The tasks that test_py_worker_processes runs, in threads; worker_app_async has them on a loop.

What was done is written into the table `ledger`, at once and in a transaction of its own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

import psycopg

from pgq_py import PQ

DSN = os.environ["TEST_DSN"]
pq = PQ(DSN)
queue = pq["apples"]
_local = threading.local()


def write(job: Any, what: str) -> None:
    """A line in the ledger."""
    conn = getattr(_local, "conn", None)
    if conn is None:
        conn = _local.conn = psycopg.connect(DSN, autocommit=True)
    conn.execute("insert into ledger values (%s, %s, %s)", [job.id, os.getpid(), what])


@queue.task(name="note", bind=True)
def note(job: Any, seconds: float = 0) -> None:
    """Something that takes a while, and is written down when it is done."""
    if seconds:
        write(job, "begun")
        threading.Event().wait(seconds)
    write(job, "done")


@queue.task(name="crash", bind=True)
def crash(job: Any) -> None:
    """A job that ends its process."""
    write(job, "begun")
    os._exit(9)


@queue.task(name="grow", bind=True)
def grow(job: Any, size: int) -> None:
    """A job that leaves so many bytes behind."""
    kept.append(b"x" * size)
    write(job, "done")


@queue.task(name="fork", bind=True)
def fork(job: Any) -> None:
    """A job that forks and ends its child."""
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    write(job, f"child {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}")
    write(job, "done")


@queue.task(name="close", bind=True)
def close(job: Any) -> None:
    """A job that closes what it did not open, and never ends."""
    sys.stdout.close()
    write(job, "begun")
    threading.Event().wait()


@queue.task(name="thread", bind=True)
async def thread(job: Any) -> None:
    """A job that is cancelled, and whose thread goes on."""
    write(job, "begun")
    await asyncio.to_thread(threading.Event().wait, 600)


@queue.task(name="process", bind=True)
def process(job: Any) -> None:
    """A job that waits for a process."""
    write(job, "begun")
    reading, writing = os.pipe()

    def wait_for_its_end() -> None:
        os.close(writing)
        os.read(reading, 1)

    child = multiprocessing.get_context("fork").Process(target=wait_for_its_end)
    child.start()
    child.join()


kept: list[bytes] = []


def handle(job: Any) -> None:
    """A handler for jobs of any data."""
    write(job, repr(job.data))
