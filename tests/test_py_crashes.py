"""Workers that are stopped, killed or crash: what becomes of their jobs. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest
from conftest import ROOT
from worlds import PATIENCE

from pgq_py import PQ


class Worker:
    """A process of crash_worker.py."""

    def __init__(self, dsn: str, what: str, name: str) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "crash_worker.py"), dsn, what, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.say(word)
        return self.hear()

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def workers(database: Any) -> Iterator[Any]:
    started = []

    def start(what: str, name: str = "worker") -> Worker:
        started.append(Worker(database.dsn, what, name))
        return started[-1]

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def queue(database: Any) -> Iterator[Any]:
    with PQ(database.dsn) as pq:
        yield pq["apples"]


def state(conn: psycopg.Connection[Any]) -> list[Any]:
    return conn.execute("select attempts, receipt, lease_until, consumer, data, last_error from queue_job").fetchall()


@pytest.mark.parametrize("call", ["complete", "error", "progress", "release", "update", "data"])
def test_a_worker_that_was_stopped_for_too_long_can_not_disturb_the_next(workers, queue, conn, call):
    queue.put("data")
    late = workers("hold", "late")
    id = int(late.hear())
    late.stop()
    # When its lease has run out, and not before.
    job = queue.lease("1h", consumer="next", timeout=PATIENCE)
    assert (job.id, job.attempts, job.last_error) == (id, 2, "the lease ran out")
    held = state(conn)
    late.go_on()
    assert late.ask(call) == ("LeaseLost" if call == "data" else "False")
    assert state(conn) == held
    assert job.complete() is True
    assert state(conn) == []
    assert queue.dead() == []


def test_a_worker_that_was_stopped_while_it_kept_its_job_alive_is_told(workers, queue, conn):
    queue.put("data")
    late = workers("keep", "late")
    id = int(late.hear())
    (first,) = conn.execute("select lease_until from queue_job").fetchone()
    patience = monotonic() + PATIENCE
    while conn.execute("select lease_until > %s from queue_job", [first]).fetchone() != (True,):
        assert monotonic() < patience, "no heartbeat"
    late.stop()
    job = queue.lease("1h", consumer="next", timeout=PATIENCE)
    assert (job.id, job.attempts) == (id, 2)
    held = state(conn)
    late.go_on()
    assert late.ask("") == "LeaseLost"
    assert state(conn) == held
    assert job.complete() is True


def test_a_worker_killed_in_a_transaction_gives_the_job_back_at_once(workers, queue, conn):
    queue.put("data")
    worker = workers("take")
    id = int(worker.hear())
    assert queue.get(block=False) is None
    worker.kill()
    # As soon as the server has noticed.
    job = queue.get(timeout=PATIENCE)
    assert (job.id, job.attempts) == (id, 0)


def test_a_worker_killed_with_a_lease_gives_the_job_back_when_that_ends(workers, queue, conn):
    queue.put("data")
    worker = workers("hold", "killed")
    id = int(worker.hear())
    (lease_until,) = conn.execute("select lease_until from queue_job").fetchone()
    worker.kill()
    assert queue.lease(block=False) is None
    job = queue.lease(timeout=PATIENCE, consumer="next")
    assert conn.execute("select clock_timestamp() > %s", [lease_until]).fetchone() == (True,)
    assert (job.id, job.attempts, job.last_error) == (id, 2, "the lease ran out")
    ((history,),) = conn.execute("select history from queue_job").fetchall()
    assert [(entry["attempt"], entry["consumer"]) for entry in history] == [(1, "killed")]
    assert job.complete()


def test_a_worker_killed_while_it_keeps_a_job_alive_keeps_nothing(workers, queue):
    queue.put("data")
    worker = workers("keep")
    id = int(worker.hear())
    worker.kill()
    assert queue.lease(timeout=PATIENCE).id == id


def test_a_job_that_crashes_its_worker_dies_and_the_others_flow(workers, queue):
    """Each crash is one of its attempts; whoever runs the workers starts them again."""
    queue.configure(max_attempts=1000)
    poison = queue.put("poison", priority=1, max_attempts=3)
    queue.put_many(range(1000))
    crashed = []
    running = [workers("work", f"worker {n}") for n in range(3)]
    count = len(running)
    patience = monotonic() + 3 * PATIENCE
    while queue.count(scheduled=True):
        assert monotonic() < patience
        for worker in [worker for worker in running if worker.process.poll() is not None]:
            assert worker.process.returncode == 9
            crashed.append(worker.name)
            running.remove(worker)
            running.append(workers("work", f"worker {count}"))
            count += 1
    (dead,) = queue.dead()
    assert dead.id == poison
    assert dead.reason == "attempt 3 of 3 failed: the lease ran out"
    assert [entry["attempt"] for entry in dead.history] == [1, 2, 3]
    assert [entry["error"] for entry in dead.history] == ["the lease ran out"] * 3
    crashes = [entry["consumer"] for entry in dead.history]
    assert len(set(crashes)) == 3
    assert set(crashed) <= set(crashes)
    assert dead.consumer == crashes[-1]
