"""The command that measures a database, in a queue of its own."""

from __future__ import annotations

import os
import queue as std
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from .. import PQ, Queue
from ..errors import NotAllowed
from . import database, dsn_option, json_option, opened, say, schema_option
from .output import json_line, print_table

# Jobs in one call where many are put at once, calls that are timed together, and wake-ups that are timed.
BATCH, CALLS, ROUNDS = 1000, 100, 100


@click.command("bench")
@click.option("--seconds", type=click.FloatRange(0.05, 600), default=2.0, show_default=True, help="For each measure.")
@json_option
@dsn_option
@schema_option
def bench_command(dsn: str | None, schema: str, seconds: float, as_json: bool) -> None:
    """Measure the queue in your database, with one connection, for some seconds.

    \b
        $ pgq-py bench
        $ pgq-py bench --seconds 5 --json

    In a queue of its own, which is dropped afterwards; the other queues are not touched, but share the server. A
    call is a transaction, so the disk has its share in the numbers. The wake-up is from the begin of a put to
    the end of the get that waited for it, in another thread with a connection of its own. A role needs the rights to
    put and to get, and to drop the queue that to manage.
    """
    where = database(dsn)
    name = f"pgq-py bench {os.getpid()}"
    with opened(where, schema) as pq:
        jobs = pq[name]
        try:
            say(f"measuring in the queue {name!r}, which is dropped afterwards ...")
            found = list(_measures(jobs, where, schema, seconds))
        finally:
            is_dropped = _drop(jobs)
    if as_json:
        for measure, value, unit in found:
            click.echo(json_line({"measure": measure, "value": value, "unit": unit}))
    else:
        print_table(("measure", "", ""), [(measure, f"{value:,.4g}", unit) for measure, value, unit in found])
    if not is_dropped:
        raise click.ClickException(
            f"the queue {name!r} stays, empty: this role may not drop it, for which it needs 'manage'. "
            f"As one who may: pgq-py drop {name!r}"
        )


def _drop(jobs: Queue) -> bool:
    """Drop the queue; False if this role may not."""
    try:
        jobs.drop()
    except NotAllowed:
        return False
    return True


def _measures(jobs: Queue, where: str, schema: str, seconds: float) -> Iterator[tuple[str, float, str]]:
    """Each measure: what, how much, of what."""
    yield "put", _rate(lambda: jobs.put({"n": 1}), seconds), "jobs/s"
    _empty(jobs)
    yield f"put_many({BATCH:,})", BATCH * _rate(lambda: jobs.put_many([{"n": 1}] * BATCH), seconds), "jobs/s"
    # What is taken is put back now and then, off the clock.
    yield "get", _rate(lambda: jobs.get(block=False), seconds, _filling(jobs)), "jobs/s"

    def lease_and_complete() -> None:
        job = jobs.lease(block=False)
        if job is not None:
            job.complete()

    yield "lease and complete", _rate(lease_and_complete, seconds, _filling(jobs)), "jobs/s"
    _empty(jobs)
    times = sorted(_wake_ups(jobs, where, schema, seconds))
    yield "wake-up, median", 1000 * times[len(times) // 2], "ms"
    yield "wake-up, 99th percentile", 1000 * times[len(times) * 99 // 100], "ms"


def _rate(call: Callable[[], Any], seconds: float, prepare: Callable[[], None] | None = None) -> float:
    """Calls a second, `CALLS` at a time, after what prepares them."""
    done, spent = 0, 0.0
    while spent < seconds:
        if prepare is not None:
            prepare()
        began = time.perf_counter()
        for _ in range(CALLS):
            call()
            done += 1
            if time.perf_counter() - began + spent > seconds:
                break
        spent += time.perf_counter() - began
    return done / spent


def _filling(jobs: Queue) -> Callable[[], None]:
    """To be called before each `CALLS` takings: there are as many jobs at least."""
    left = 0

    def fill() -> None:
        nonlocal left
        if left < CALLS:
            jobs.put_many([{"n": 1}] * BATCH)
            left += BATCH
        left -= CALLS

    return fill


def _empty(jobs: Queue) -> None:
    """As `clear`, with the right to get."""
    while jobs.get_many(BATCH, block=False):
        pass


def _wake_ups(jobs: Queue, where: str, schema: str, seconds: float) -> list[float]:
    """How long from a put to the get that waited for it, in seconds."""
    taken: std.SimpleQueue[float] = std.SimpleQueue()
    over = threading.Event()

    def consume() -> None:
        with PQ(where, schema=schema) as pq:
            while not over.is_set():
                if pq[jobs.name].get(timeout=0.5) is not None:
                    taken.put(time.perf_counter())

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    times: list[float] = []
    until = time.monotonic() + seconds
    try:
        while len(times) < ROUNDS and (not times or time.monotonic() < until):
            # Time to fall asleep: what is timed is the waking.
            time.sleep(0.02)
            began = time.perf_counter()
            jobs.put({"n": 1})
            times.append(taken.get(timeout=10) - began)
    except std.Empty:
        raise click.ClickException("a job that was put did not reach the consumer within 10 seconds") from None
    finally:
        over.set()
        consumer.join(5)
    return times[1:] or times
