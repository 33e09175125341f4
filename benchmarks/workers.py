"""Processes that work on a queue side by side, and the loops that they run.

A loop is given a connected contender, gets ready, waits at the barrier with the others, works, and
says when it began and ended. A rate is what all have done, from the first beginning to the last end.
Times are of CLOCK_MONOTONIC, which is one for all processes of a machine.
"""

from __future__ import annotations

import multiprocessing
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from .contender import Data, Place, find, module_of, payload

# Calls that each process makes before it is measured: connections, plans and caches are warm then.
WARM = 20

# Seconds after which a process that gives no sign of life has failed.
PATIENCE = 900

# A queue is empty when it says so this often: with others at work, once may mean that they hold the rest.
EMPTY = 3

context = multiprocessing.get_context("forkserver")


def preload(names: Sequence[str]) -> None:
    """Import these contenders once, for all processes to come: importing takes longer than some measurements."""
    context.set_forkserver_preload([__name__, *sorted({module_of(name) for name in names})])


@dataclass
class Done:
    """What a loop has done."""

    begin: float = 0.0
    end: float = 0.0
    # Jobs put, and the numbers of those taken; both with what came before the measuring.
    put: int = 0
    taken: list[int] = field(default_factory=list)
    # What counts in the rate.
    jobs: int = 0
    # Of each job: seconds, what they mean is the loop's.
    stamps: list[float] = field(default_factory=list)
    sent: dict[int, tuple[float, float]] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)


@dataclass
class Worker:
    """A process to be: a loop by its name, and its arguments."""

    loop: str
    contender: str
    place: Place
    args: dict[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """A process of the benchmark failed; the text has its traceback."""


def run(workers: Sequence[Worker]) -> list[Done]:
    """Run them all at once, to their ends."""
    with started(workers) as finish:
        return finish()


@contextmanager
def started(workers: Sequence[Worker]) -> Iterator[Callable[[], list[Done]]]:
    """Run them all at once while the block runs; it is given a function that waits for their ends.

    Those that have not ended by the end of the block are killed.
    """
    barrier = context.Barrier(len(workers) + 1)
    pipes, processes = [], []
    for worker in workers:
        here, there = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(worker, barrier, there), daemon=True)
        process.start()
        there.close()
        pipes.append(here)
        processes.append(process)

    def finish() -> list[Done]:
        done = []
        for pipe in pipes:
            try:
                if not pipe.poll(PATIENCE):
                    raise Failed("a process does not end")
                result = pipe.recv()
            except EOFError:
                raise Failed("a process ended without a word") from None
            if not isinstance(result, Done):
                raise Failed(result)
            done.append(result)
        return done

    try:
        try:
            barrier.wait(300)
        except threading.BrokenBarrierError:
            finish()  # which raises what broke it
        yield finish
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _main(worker: Worker, barrier: Any, pipe: Connection) -> None:
    try:
        client = find(worker.contender)(worker.place)
        client.connect()
        done = LOOPS[worker.loop](client, barrier.wait, **worker.args)
        client.close()
        pipe.send(done)
    except Exception:
        barrier.abort()
        pipe.send(traceback.format_exc(limit=-4))


Ready = Callable[[], object]


def put(client: Any, ready: Ready, first: int, seconds: float) -> Done:
    """Put one job after the other for so many seconds."""
    done = Done()
    for n in range(first, first + WARM):
        client.put(payload(n))
    ready()
    done.begin = time.monotonic()
    until, n = done.begin + seconds, first + WARM
    while time.monotonic() < until:
        client.put(payload(n))
        n += 1
    done.end = time.monotonic()
    done.put, done.jobs = n - first, n - first - WARM
    return done


def put_many(client: Any, ready: Ready, count: int) -> Done:
    """Put many in one call."""
    client.put_many([payload(n) for n in range(-WARM, 0)])
    items = [payload(n) for n in range(count)]
    ready()
    begin = time.monotonic()
    client.put_many(items)
    return Done(begin, time.monotonic(), put=count + WARM, jobs=count)


def take(
    client: Any,
    ready: Ready,
    operation: str,
    seconds: float,
    size: int | None = None,
    queues: Sequence[str] = (),
    limit: float = float("inf"),
) -> Done:
    """Take one job, or a batch, after the other, for so many seconds, or so many jobs, or until there are none."""
    if queues:
        client.choose(queues)
    call = getattr(client, operation)

    def one() -> list[Data]:
        if size is not None:
            jobs: list[Data] = call(size)
            return jobs
        job = call()
        return [] if job is None else [job]

    done = Done()
    for _ in range(WARM if size is None else 3):
        done.taken += [job["n"] for job in one()]
    warm = len(done.taken)
    ready()
    done.begin = done.end = time.monotonic()
    until, empty = done.begin + seconds, 0
    while done.end < until and empty < EMPTY and len(done.taken) < limit:
        jobs = one()
        if jobs:
            done.taken += [job["n"] for job in jobs]
            done.end, empty = time.monotonic(), 0
        else:
            empty += 1
            time.sleep(0.001)
    done.jobs = len(done.taken) - warm
    return done


def put_take(client: Any, ready: Ready, operation: str, first: int, seconds: float) -> Done:
    """Put one job, take one, and so on; `stamps` are the times after the beginning at which one was taken."""
    done, n = Done(), first
    call = getattr(client, operation)
    for _ in range(WARM):
        client.put(payload(n))
        call()
        n += 1
    ready()
    begin = done.begin = done.end = time.monotonic()
    while done.end < begin + seconds:
        client.put(payload(n))
        n += 1
        job = call()
        done.end = time.monotonic()
        if job is not None:
            done.jobs += 1
            done.stamps.append(done.end - begin)
    return done


def put_at_random(client: Any, ready: Ready, count: int, pauses: tuple[float, float]) -> Done:
    """Put jobs at random moments, noting when each put began and when it returned. The first few are not counted."""
    done = Done()
    ready()
    done.begin = time.monotonic()
    for n in range(-3, count):
        time.sleep(random.uniform(*pauses))
        begin = time.monotonic()
        client.put_waking(payload(n))
        done.sent[n] = (begin, time.monotonic())
    done.end = time.monotonic()
    return done


def receive(client: Any, ready: Ready, until: int | None = None, idle: float | None = None) -> Done:
    """Consume until a number comes, or nothing for so many seconds, noting when each came."""
    done = Done()
    last = time.monotonic()

    def on_job(job: Data | None) -> bool:
        nonlocal last
        now = time.monotonic()
        if job is None:
            return idle is None or now - last < idle
        last = done.received[job["n"]] = now
        done.taken.append(job["n"])
        return until is None or job["n"] != until

    ready()
    done.begin = time.monotonic()
    client.receive(on_job)
    done.end = last
    done.jobs = len(done.taken)
    return done


def sleep(client: Any, ready: Ready, queues: Sequence[str]) -> Done:
    """Let a consumer of each of these queues sleep, until killed."""
    client.sleep(queues, ready)
    return Done()


def cycle(client: Any, ready: Ready, size: int, seconds: float) -> Done:
    """Put, lease, fail, lease and complete one large job after the other."""
    text = random.Random(1).randbytes(size // 2).hex()  # which compression can't make much smaller
    for n in range(2):
        client.cycle({"n": n, "pad": text})
    done = Done()
    ready()
    done.begin = done.end = time.monotonic()
    while done.end < done.begin + seconds:
        client.cycle({"n": done.jobs, "pad": text})
        done.jobs += 1
        done.end = time.monotonic()
    return done


def finish(client: Any, ready: Ready, operation: str, count: int, by: int) -> Done:
    """So many jobs by a loop over batches of a size, or by a worker with so many threads."""
    done = Done(jobs=count)
    ready()
    done.begin = time.monotonic()
    done.taken = getattr(client, operation)(count, by)
    done.end = time.monotonic()
    return done


LOOPS: dict[str, Callable[..., Done]] = {
    loop.__name__: loop for loop in (put, put_many, take, put_take, put_at_random, receive, sleep, cycle, finish)
}
