"""Workers for tests: of either package, in a thread of the test's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

from worlds import PATIENCE

from pgq_py import PQ, AsyncPQ, AsyncWorker, Worker


class Running:
    """A worker at work. Made by `Works.start`."""

    def __init__(self, kind: str, dsn: str, queues: Any, prepare: Callable[[Any], object] | None, options: Any) -> None:
        self.worker: Any = None
        self.error: BaseException | None = None
        self._ready = threading.Event()
        self._args = (kind, dsn, queues, prepare, options)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE), "the worker does not begin"

    def _run(self) -> None:
        try:
            if self._args[0] == "threads":
                with PQ(self._args[1]) as pq:
                    self._make(Worker, pq).run()
            else:
                asyncio.run(self._run_async())
        except BaseException as error:
            self.error = error
        finally:
            self._ready.set()

    async def _run_async(self) -> None:
        async with AsyncPQ(self._args[1]) as pq:
            await self._make(AsyncWorker, pq).run()

    def _make(self, make: Any, pq: Any) -> Any:
        _, _, queues, prepare, options = self._args
        if prepare is not None:
            prepare(pq)
        self.worker = make(pq, queues, **options)
        self.worker.listeners.append(lambda event: self._ready.set())
        return self.worker

    def stop(self, now: bool = False) -> None:
        self.worker.stop(now=now)
        self.end()

    def end(self) -> None:
        """Until it has ended."""
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive(), "the worker does not end"
        if self.error is not None:
            raise self.error


class Works:
    """Starts workers of one kind, "threads" or "asyncio", and stops them at the end."""

    def __init__(self, kind: str, dsn: str) -> None:
        self.kind = kind
        self.dsn = dsn
        self._started: list[Running] = []

    def start(self, queues: Any = "apples", prepare: Callable[[Any], object] | None = None, **options: Any) -> Running:
        """At work when this returns. PREPARE is given its PQ first, to make tasks."""
        self._started.append(Running(self.kind, self.dsn, queues, prepare, options))
        return self._started[-1]

    def run(self, queues: Any = "apples", prepare: Callable[[Any], object] | None = None, **options: Any) -> Running:
        """Until nothing is left to do."""
        running = self.start(queues, prepare, burst=True, **options)
        running.end()
        return running

    def close(self) -> None:
        for running in self._started:
            if running.worker is not None:
                running.worker.stop(now=True)
                running.end()


@contextmanager
def works(kind: str, dsn: str) -> Iterator[Works]:
    made = Works(kind, dsn)
    try:
        yield made
    finally:
        made.close()


def wait_for(condition: Callable[[], Any], what: str = "it") -> Any:
    """Until the database, or another process, says so: neither can be waited for otherwise."""
    patience = monotonic() + PATIENCE
    while not (found := condition()):
        assert monotonic() < patience, f"{what} does not come"
        sleep(0.005)
    return found
