"""A process of test_py_crashes. It tells on its output what it does, and waits on its input where the test decides.

Arguments: dsn, what to do, a name.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

from pgq_py import PQ, LeaseLost


def say(word: object) -> None:
    print(word, flush=True)


def hear() -> str:
    return sys.stdin.readline().strip()


def hold(queue: Any, name: str) -> None:
    """Lease a job; then do with it what the test says, and tell what came of it."""
    job = queue.lease(1.0, consumer=name)
    say(job.id)
    while word := hear():
        if word == "update":
            say(job.update("disturbed"))
        elif word == "data":
            try:
                job.data = "disturbed"
                say("True")
            except LeaseLost:
                say("LeaseLost")
        else:
            say(getattr(job, word)())


def keep(queue: Any, name: str) -> None:
    """Lease a job and keep it alive, until the test says to end."""
    job = queue.lease(1.0, consumer=name)
    try:
        with job, job.keep_alive(every=0.1):
            say(job.id)
            hear()
        say("completed")
    except LeaseLost:
        say("LeaseLost")


def take(queue: Any, name: str) -> None:
    """Hold a job in a transaction."""
    with queue.take() as job:
        say(job.id)
        hear()


def work(queue: Any, name: str) -> None:
    """A worker as people write them; one of the jobs kills it."""
    while (job := queue.lease(0.5, consumer=name, timeout=30)) is not None:
        # A machine that is busy with other things may be too slow for so short a lease.
        with contextlib.suppress(LeaseLost), job as data:
            if data == "poison":
                os._exit(9)


def main() -> None:
    dsn, what, name = sys.argv[1:]
    with PQ(dsn) as pq:
        {"hold": hold, "keep": keep, "take": take, "work": work}[what](pq["apples"], name)


main()
