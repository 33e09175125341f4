"""No wake-up is lost: producers commit at random moments while consumers fall asleep.

Each consumer has a queue, and a round is one job: a producer commits it some time around the moment at which the
consumer falls asleep, or has put it before and commits while the consumer sleeps. Nobody polls, so a wake-up that is
lost is a wait of seconds.

The tests run 1,500 rounds; this runs 10,000 and says how long the jobs took and how many notifications were sent:

    WAKE_ROUNDS=10000 python -m pytest tests/test_wake_torture.py --pg 18 -s -k no_wake_up

That the torture finds mistakes is seen by planting some.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from sql_sessions import value

from pgq_py import PQ, AsyncPQ
from pgq_py._async import listener as async_listener
from pgq_py._sync import listener as sync_listener

pytestmark = pytest.mark.long

ROUNDS = int(os.environ.get("WAKE_ROUNDS", "1500"))
FUNCTIONS = Path(__file__).parent.parent / "sql" / "functions"
Connection = psycopg.Connection[Any]
# How many of its jobs each of the producers puts in a transaction of up to 0.1 s.
SHARES = [0, 0.1, 0.5]


@pytest.fixture(autouse=True)
def _nobody_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sync_listener, async_listener):
        monkeypatch.setattr(module, "POLL", 60.0)


class Torture:
    """Some rounds with three producers and three consumers, until one of the jobs comes late."""

    def __init__(self, database: Any, rounds: int, late: float = 5, seed: int = 1) -> None:
        self.database = database
        self.seed = seed
        self.late = late
        self.left = rounds
        self.free: SimpleQueue[str | None] = SimpleQueue()
        self.committed: dict[str, float] = {}
        self.waits: list[float] = []
        self.lost: list[str] = []
        self.errors: list[BaseException] = []
        self.over = threading.Event()
        self._lock = threading.Lock()

    def run(self, *consumers: Callable[[Torture, str], None]) -> Torture:
        """To the end, or to the first job that is late."""
        names = [f"{consumer.__name__} {n}" for n, consumer in enumerate(consumers)]
        with psycopg.connect(self.database.dsn, autocommit=True) as observer:
            channels = [value(observer, "select queue_channel(%s)", name) for name in names]
            for channel in channels:
                observer.execute(f"listen {channel}")
            calls = [(self.produce, share) for share in SHARES]
            calls += [(consumer, self, name) for consumer, name in zip(consumers, names, strict=True)]
            threads = [threading.Thread(target=self._guard, args=call) for call in calls]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            observer.execute(f"select pg_notify('{channels[0]}', 'end')")
            self.notified = 0
            for heard in observer.notifies(timeout=10):
                if heard.payload == "end":
                    break
                self.notified += 1
        for error in self.errors:
            raise error
        return self

    def _guard(self, call: Callable[..., None], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BaseException as error:
            self.errors.append(error)
            self.end()

    def end(self) -> None:
        self.over.set()
        for _ in SHARES:
            self.free.put(None)

    def produce(self, share: float) -> None:
        """Put a job for whoever is about to fall asleep, at a random moment: that is the subject of the sleeps here."""
        dice = random.Random(f"{self.seed} {share}")
        with psycopg.connect(self.database.dsn) as conn:
            put = "select queue_put(%s, '1')"
            while (name := self.free.get()) is not None:
                sleep(dice.choice([0, 0.001, 0.003]) * dice.random())
                if dice.random() < share:
                    before = dice.random()
                    if dice.random() < 0.2:
                        conn.execute(put, [name])
                        sleep(0.02 * dice.random())
                        conn.rollback()
                    if dice.random() < 0.2:
                        conn.execute("savepoint s")
                        conn.execute(put, [name])
                        sleep(0.02 * dice.random())
                        conn.execute("rollback to savepoint s")
                    if before < 0.1:
                        sleep(0.1 * dice.random())
                    if dice.random() < 0.2:
                        conn.execute("savepoint s")
                    conn.execute(put, [name])
                    if before >= 0.1:
                        sleep(0.1 * dice.random())
                else:
                    conn.execute(put, [name])
                self.committed[name] = monotonic()
                conn.commit()

    def rounds(self, name: str) -> Any:
        """For each round of a consumer a short time, for a try likely to find nothing; noted when it is done.

        A round begins at a random moment, too.
        """
        dice = random.Random(f"{self.seed} {name}")
        while not self.over.is_set():
            self.committed.pop(name, None)
            self.free.put(name)
            sleep(dice.choice([0, 0.001, 0.003]) * dice.random())
            began = monotonic()
            yield 0.02 * dice.random() if dice.random() < 0.3 else 0
            self.note(name, began)

    def note(self, name: str, began: float) -> None:
        if self.over.is_set():
            return
        wait = monotonic() - max(began, self.committed.get(name, 0))
        with self._lock:
            self.waits.append(wait)
            self.left -= 1
            if wait > self.late:
                self.lost.append(name)
            if self.lost or self.left <= 0:
                self.end()

    @property
    def patience(self) -> float:
        """After which a get gives up, so that a lost job is found."""
        return self.late + 1


def by_sql(torture: Torture, name: str, get: Callable[..., bool] | None = None) -> None:
    with psycopg.connect(torture.database.dsn, autocommit=True) as conn:
        for short in torture.rounds(name):
            if not (short and (get or sql_get)(conn, name, short)):
                (get or sql_get)(conn, name, torture.patience)


def sql_get(conn: Connection, name: str, timeout: float) -> bool:
    """As the reference says: listen, and again and again ask how long to sleep, look, sleep."""
    until = monotonic() + timeout
    conn.execute("select queue_listen(%s)", [name])
    try:
        while True:
            (pause,) = conn.execute("select extract(epoch from queue_wait(%s))::float8", [name]).fetchone()
            if conn.execute("select from queue_get(%s)", [name]).rowcount:
                return True
            if (left := until - monotonic()) <= 0:
                return False
            list(conn.notifies(timeout=min(left, pause or 60), stop_after=1))
    finally:
        conn.execute("select queue_unlisten(%s)", [name])
        list(conn.notifies(timeout=0))


def by_pq(torture: Torture, name: str) -> None:
    with PQ(torture.database.dsn) as pq:
        for short in torture.rounds(name):
            if not (short and pq[name].get(timeout=short)):
                pq[name].get(timeout=torture.patience)


def by_asyncio(torture: Torture, name: str) -> None:
    async def consume() -> None:
        async with AsyncPQ(torture.database.dsn) as pq:
            for short in torture.rounds(name):
                if not (short and await pq[name].get(timeout=short)):
                    await pq[name].get(timeout=torture.patience)

    asyncio.run(consume())


def test_no_wake_up_is_lost(database):
    torture = Torture(database, ROUNDS).run(by_sql, by_pq, by_asyncio)
    waits = sorted(1000 * wait for wait in torture.waits)
    print(
        f"\n{len(waits)} rounds, {torture.notified} notifications: p50 {waits[len(waits) // 2]:.1f} ms,"
        f" p99 {waits[len(waits) * 99 // 100]:.1f} ms, max {waits[-1]:.1f} ms"
    )
    assert not torture.lost
    assert len(waits) >= ROUNDS


# Mistakes


def by_look_before_listening(torture: Torture, name: str) -> None:
    """Falls asleep without a look after it began to listen."""

    def get(conn: Connection, name: str, timeout: float) -> bool:
        until = monotonic() + timeout
        while not conn.execute("select from queue_get(%s)", [name]).rowcount:
            if (left := until - monotonic()) <= 0:
                return False
            conn.execute("select queue_listen(%s)", [name])
            list(conn.notifies(timeout=left, stop_after=1))
            conn.execute("select queue_unlisten(%s)", [name])
        return True

    by_sql(torture, name, get)


def by_get_before_wait(torture: Torture, name: str) -> None:
    """Looks, and then asks how long it may sleep: by then who was not done may be done."""

    def get(conn: Connection, name: str, timeout: float) -> bool:
        until = monotonic() + timeout
        conn.execute("select queue_listen(%s)", [name])
        try:
            while not conn.execute("select from queue_get(%s)", [name]).rowcount:
                if (left := until - monotonic()) <= 0:
                    return False
                (pause,) = conn.execute("select extract(epoch from queue_wait(%s))::float8", [name]).fetchone()
                list(conn.notifies(timeout=min(left, pause or 60), stop_after=1))
            return True
        finally:
            conn.execute("select queue_unlisten(%s)", [name])

    by_sql(torture, name, get)


# Which file, what in it, by what; and who consumes.
BUCKET = "_queue_class(), (hashtextextended(queue, 0) & 63)::integer"
MISTAKES: dict[str, tuple[list[tuple[str, str, str]], Callable[..., None]]] = {
    "producers have no lock": (
        [("_queue_nobody_sleeps", f"pg_try_advisory_xact_lock_shared({BUCKET})", "true")],
        by_sql,
    ),
    "producers let go of their lock before they commit": (
        [
            (
                "_queue_nobody_sleeps",
                f"pg_try_advisory_xact_lock_shared({BUCKET})",
                f"pg_try_advisory_lock_shared({BUCKET}) and pg_advisory_unlock_shared({BUCKET})",
            )
        ],
        by_pq,
    ),
    "sleepers have no lock": (
        [("queue_listen", "pg_try_advisory_lock_shared(_queue_key(queue))", "true")],
        by_sql,
    ),
    # The window is some microseconds: made wider.
    "sleepers look for producers before they have their lock": (
        [
            (
                "queue_listen",
                "    -- A putter that looks",
                f"    perform pg_advisory_lock({BUCKET}), pg_advisory_unlock({BUCKET}), pg_sleep(0.001);\n    --",
            ),
            ("queue_listen", "format('%s %s:', v_unsettled, v_channel)", "''"),
        ],
        by_asyncio,
    ),
    "producers look for sleepers before they have their lock": (
        [
            ("_queue_nobody_sleeps", f"pg_try_advisory_xact_lock_shared({BUCKET})", "true"),
            (
                "_queue_nobody_sleeps",
                "pg_advisory_unlock(_queue_key(queue));",
                "pg_advisory_unlock(_queue_key(queue))\n    and pg_sleep(0.001) is not null"
                f" and pg_try_advisory_xact_lock_shared({BUCKET});",
            ),
        ],
        by_pq,
    ),
    "a look before listening only": ([], by_look_before_listening),
    "a look before asking how long to sleep": ([], by_get_before_wait),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_torture_finds_a_planted_mistake(database, mistake):
    changes, consumer = MISTAKES[mistake]
    with database.connect() as conn:
        conn.execute("set search_path to public, pg_temp")
        for file in {file for file, _, _ in changes}:
            text = (FUNCTIONS / f"{file}.sql").read_text()
            for _, old, new in (change for change in changes if change[0] == file):
                assert old in text
                text = text.replace(old, new)
            conn.execute(text)
    torture = Torture(database, 4000, late=0.7).run(consumer, consumer, consumer)
    print(f"\n{mistake}: after {len(torture.waits)} rounds")
    assert torture.lost, "not found"
