"""What a call costs the client's processor, beside the same function called through psycopg.

    python tools/show_calls.py DSN

DSN is of a database with the queue in public, whose jobs are removed.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from itertools import islice, repeat
from statistics import median
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from pgq_py import PQ, AsyncPQ

DATA = {"kind": "Cox", "pad": "x" * 77}
PUT = "select queue_put(%s::text, %s)"
GET = "select * from queue_get(%s::text)"
ROUNDS, CALLS, MANY = 20, 100, 10_000


def report(costs: dict[str, list[float]]) -> None:
    """A line for each: the median."""
    for name, cost in costs.items():
        print(f"{name:30}{median(cost):8.1f} us")


def sync(dsn: str) -> None:
    """The synchronous package."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        queue = PQ(conn)["apples"]

        def lease() -> None:
            job = queue.lease(block=False)
            assert job is not None
            job.complete()

        steps: dict[str, tuple[Callable[[], Any], int, int]] = {
            "put, psycopg": (lambda: conn.execute(PUT, ["apples", Jsonb(DATA)]).fetchone(), CALLS, CALLS),
            "put": (lambda: queue.put(DATA), CALLS, CALLS),
            "get, psycopg": (lambda: conn.execute(GET, ["apples"]).fetchone(), CALLS, CALLS),
            "get": (lambda: queue.get(block=False), CALLS - 10, CALLS - 10),
            "lease and complete": (lease, 10, 10),
            "put_many, a job": (lambda: queue.put_many(islice(repeat(DATA), MANY)), 1, MANY),
            "get_many, a job": (lambda: queue.get_many(100), 50, 5000),
            "lease_many, a job": (lambda: queue.lease_many(100), 50, 5000),
        }
        costs: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(ROUNDS):
            conn.execute("truncate queue_job")
            for name, (call, calls, jobs) in steps.items():
                begun = time.process_time()
                for _ in range(calls):
                    call()
                costs[name].append((time.process_time() - begun) / jobs * 1e6)
        report(costs)


async def asynchronous(dsn: str) -> None:
    """The asynchronous package."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        queue = AsyncPQ(conn)["apples"]

        async def execute(text: str, *params: Any) -> Any:
            return await (await conn.execute(text, params)).fetchone()

        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "async put, psycopg": lambda: execute(PUT, "apples", Jsonb(DATA)),
            "async put": lambda: queue.put(DATA),
            "async get, psycopg": lambda: execute(GET, "apples"),
            "async get": lambda: queue.get(block=False),
        }
        costs: dict[str, list[float]] = {name: [] for name in steps}
        await conn.execute("truncate queue_job")
        for _ in range(ROUNDS):
            for name, call in steps.items():
                begun = time.process_time()
                for _ in range(CALLS):
                    await call()
                costs[name].append((time.process_time() - begun) / CALLS * 1e6)
        report(costs)


if __name__ == "__main__":
    sync(sys.argv[1])
    asyncio.run(asynchronous(sys.argv[1]))
