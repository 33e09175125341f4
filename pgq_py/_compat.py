"""The few things that differ between the asynchronous and the synchronous package by more than a name."""

from __future__ import annotations

import asyncio
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

AsyncLock = asyncio.Lock
Lock = threading.Lock
async_sleep = asyncio.sleep
sleep = time.sleep


def async_owner() -> object:
    """Who runs this: the task."""
    return asyncio.current_task()


def owner() -> object:
    """Who runs this: the thread."""
    return threading.get_ident()


async def async_call(function: Callable[..., T], *args: Any) -> T:
    """A blocking function, run beside the loop."""
    return await asyncio.to_thread(function, *args)


def call(function: Callable[..., T], *args: Any) -> T:
    """A blocking function."""
    return function(*args)


def jitter(seconds: float) -> float:
    """Between half and all of the time, so that those who collided once don't meet again."""
    return seconds * random.uniform(0.5, 1)


class AsyncTicker:
    """Calls a coroutine again and again, in a task, until that returns False or `stop` is called."""

    # How long a call may take to end by itself.
    PATIENCE = 2.0

    def __init__(self, every: float, tick: Callable[[], Awaitable[bool]]) -> None:
        self._every = every
        self._tick = tick
        self._over = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """From now on; the first call after one interval."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        # A call may answer its cancellation with another error, and go on: hence the flag.
        while not self._over:
            await asyncio.sleep(self._every)
            if not await self._tick():
                return

    async def stop(self, interrupt: Callable[[], object]) -> None:
        """Over when this returns: a call that hangs is cancelled, and interrupted if that does not help."""
        assert self._task is not None  # stop follows start
        self._over = True
        self._task.cancel()
        # Not `await self._task`: our own cancellation would look like the task's.
        if not (await asyncio.wait([self._task], timeout=self.PATIENCE))[0]:
            interrupt()
            await asyncio.wait([self._task], timeout=self.PATIENCE)
        if self._task.done() and not self._task.cancelled():
            self._task.result()


class Ticker:
    """Calls a method again and again, in a thread, until that returns False, its object is gone or `stop` is called."""

    # How long a call may take to end by itself.
    PATIENCE = 2.0

    def __init__(self, every: float, tick: Callable[[], bool]) -> None:
        self._every = every
        # Weak: Control-C may come before the first line of the exit that would stop it. Who is not held any
        # more by his block must not tick for as long as the process lives.
        self._tick = weakref.WeakMethod(tick)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgq_py keeps a lease", daemon=True)

    def start(self) -> None:
        """From now on; the first call after one interval."""
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(self._every):
            tick = self._tick()
            if tick is None or not tick():
                return
            del tick

    def stop(self, interrupt: Callable[[], object]) -> None:
        """Over when this returns: a call that hangs is interrupted.

        But for one that is still connecting to a server that does not answer, which nothing can
        interrupt: that is left to itself.
        """
        self._over.set()
        self._thread.join(self.PATIENCE)
        if self._thread.is_alive():
            interrupt()
            self._thread.join(self.PATIENCE)
