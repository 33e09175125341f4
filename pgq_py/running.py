"""What a worker runs on: threads in one package, tasks of a loop in the other, behind the same names."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from contextvars import Context, copy_context
from inspect import isawaitable
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# A hook: given the job, a context manager around its run.
Hook = Callable[[Any], Any]

# Seconds that coroutines have to end when they are cancelled.
CANCEL_WITHIN = 1.0


class AsyncChannel(Generic[T]):
    """Items on their way from those who put them to those who wait for them, the first first."""

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._waiters: deque[asyncio.Future[None]] = deque()

    def put(self, item: T) -> None:
        """Add an item. Not from other threads than the loop's."""
        self._items.append(item)
        self._wake()

    def put_anywhere(self, item: T) -> None:
        """Add an item, from any thread or from a signal handler."""
        self._items.append(item)
        for waiter in tuple(self._waiters):
            with suppress(RuntimeError):  # its loop is over
                waiter.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    async def get(self, timeout: float | None = None) -> T | None:
        """The next item; None if none came in time."""
        while not self._items:
            loop = asyncio.get_running_loop()
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiters.append(waiter)
            if self._items:  # put by another thread, which saw nobody wait
                self._waiters.remove(waiter)
                break
            timer = None if timeout is None else loop.call_later(timeout, _end, waiter)
            try:
                await waiter
            except BaseException:
                if not waiter.cancelled():
                    self._wake()  # it was ours, and is another's now
                raise
            finally:
                if timer is not None:
                    timer.cancel()
                with suppress(ValueError):
                    self._waiters.remove(waiter)
            if timer is not None and not self._items:
                return None
        return self._items.popleft()

    def drain(self) -> list[T]:
        """All that is there now."""
        items = list(self._items)
        self._items.clear()
        return items


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Channel(Generic[T]):
    """Items on their way from those who put them to those who wait for them, the first first.

    The standard library's queue in C: no lock changes hands where nobody waits, and a signal handler may put, too.
    """

    def __init__(self) -> None:
        self._items: SimpleQueue[T] = SimpleQueue()
        self.put = self.put_anywhere = self._items.put

    def get(self, timeout: float | None = None) -> T | None:
        """The next item; None if none came in time."""
        try:
            return self._items.get(timeout=timeout)
        except Empty:
            return None

    def drain(self) -> list[T]:
        """All that is there now."""
        items: list[T] = []
        with suppress(Empty):
            while True:
                items.append(self._items.get_nowait())
        return items


class AsyncStrand:
    """Something that goes on beside the rest: a task."""

    def __init__(self, name: str, function: Callable[[], Awaitable[None]]) -> None:
        self.task = asyncio.ensure_future(function())

    async def join(self, timeout: float) -> bool:
        """Wait until it has ended; False if it has not in time."""
        done, _ = await asyncio.wait([self.task], timeout=max(timeout, 0))
        return bool(done)

    def cancel(self) -> None:
        """Cancel it."""
        self.task.cancel()


class Strand:
    """Something that goes on beside the rest: a thread, which nobody waits for at the end of the process."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._thread = threading.Thread(target=function, name=f"pgq_py {name}", daemon=True)
        self._thread.start()

    def join(self, timeout: float) -> bool:
        """Wait until it has ended; False if it has not in time."""
        self._thread.join(max(timeout, 0))
        return not self._thread.is_alive()


async def _outcome(hooks: Sequence[Hook], job: Any, function: Callable[[Any], Any]) -> BaseException | None:
    """Run a coroutine function, in the contexts that hooks give: asynchronous ones and others.

    Gives what it raised: as a value, for a task that raises SystemExit ends its loop, and GeneratorExit whoever
    awaits it.
    """
    try:
        if not hooks:
            await _awaited(function(job))
            return None
        async with AsyncExitStack() as stack:
            for hook in hooks:
                context = hook(job)
                if hasattr(context, "__aenter__"):
                    await stack.enter_async_context(context)
                else:
                    stack.enter_context(context)
            await _awaited(function(job))
    except BaseException as error:
        return error
    return None


async def _awaited(result: Any) -> None:
    if isawaitable(result):
        await result


def _raise(error: BaseException | None) -> None:
    try:
        if error is not None:
            raise error
    finally:
        del error  # or its traceback would hold this frame, and the frame the error


class AsyncCaller:
    """Calls handlers: coroutine functions on the loop, others in threads."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)
        self._calls: SimpleQueue[tuple[asyncio.Future[Any], Context, Callable[[Any], Any], Any] | None] = SimpleQueue()
        self._threads = self._busy = 0

    async def call(self, function: Callable[[Any], Any], is_coroutine: bool, job: Any) -> None:
        """Call it with the job, to its end."""
        if not is_coroutine:
            function = self._in_thread(function)
        if is_coroutine or self._hooks:
            # In a task of its own: what it sets in its context, or does to its task, is over when the job is.
            _raise(await asyncio.create_task(_outcome(self._hooks, job, function)))
        else:
            await function(job)

    def _in_thread(self, function: Callable[[Any], Any]) -> Callable[[Any], Awaitable[None]]:
        # Not asyncio's executor: it has few threads, and the process would wait for a handler that never ends.
        async def run(job: Any) -> None:
            future = asyncio.get_running_loop().create_future()
            self._busy += 1
            if self._busy > self._threads:
                self._threads += 1
                threading.Thread(target=self._work, name="pgq_py handler", daemon=True).start()
            self._calls.put((future, copy_context(), function, job))
            result, error = await future
            _raise(error)
            if isawaitable(result):
                _raise(await asyncio.create_task(_outcome((), job, lambda _: result)))

        return run

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            future, context, function, job = call
            result, error = None, None
            try:
                result = context.run(function, job)
            except BaseException as raised:
                error = raised
            with suppress(RuntimeError):  # the loop is over: nobody waits
                future.get_loop().call_soon_threadsafe(self._deliver, future, result, error)
            del call, future, context, function, job, result, error  # not kept while it waits for the next

    def _deliver(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if not future.done():
            future.set_result((result, error))

    @property
    def is_busy(self) -> bool:
        """Whether a function runs in a thread."""
        return self._busy > 0

    async def cancel(self, strands: Sequence[AsyncStrand]) -> None:
        """Cancel those that call, and give coroutines a moment to end. Nothing can end a function in a thread."""
        for strand in strands:
            strand.cancel()
        await asyncio.wait([strand.task for strand in strands], timeout=CANCEL_WITHIN)

    def close(self) -> None:
        """End the idle threads, and the others when they are done."""
        for _ in range(self._threads):
            self._calls.put(None)


class Caller:
    """Calls handlers: coroutine functions on a loop in a thread of its own, others here."""

    def __init__(self, hooks: Sequence[Hook]) -> None:
        self._hooks = tuple(hooks)
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def call(self, function: Callable[[Any], Any], is_coroutine: bool, job: Any) -> None:
        """Call it with the job, to its end."""
        if is_coroutine:
            self._on_loop(self._hooks, job, function)
        else:
            # What it sets in its context is over when the job is.
            copy_context().run(self._here, function, job)

    def _here(self, function: Callable[[Any], Any], job: Any) -> None:
        if not self._hooks:
            self._await(function(job))
            return
        with ExitStack() as stack:
            for hook in self._hooks:
                stack.enter_context(hook(job))
            self._await(function(job))

    def _await(self, result: Any) -> None:
        if result is not None and isawaitable(result):
            self._on_loop((), None, lambda _: result)

    def _on_loop(self, hooks: Sequence[Hook], job: Any, function: Callable[[Any], Any]) -> None:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_turn, args=[self._loop], name="pgq_py coroutines", daemon=True).start()
            future = asyncio.run_coroutine_threadsafe(_outcome(hooks, job, function), self._loop)
        try:
            _raise(future.result())
        except FutureCancelled:
            raise asyncio.CancelledError("the coroutine was cancelled") from None

    is_busy = False  # a strand that calls is

    def cancel(self, strands: Sequence[Strand] = ()) -> None:
        """Cancel the coroutines that these called, and give them a moment to end. Nothing can end a thread."""
        if self._loop is not None:
            ended = asyncio.run_coroutine_threadsafe(_cancel_all(), self._loop)
            with suppress(TimeoutError):
                ended.result(2 * CANCEL_WITHIN)

    def close(self) -> None:
        """End the loop, and with it what has not ended when it was cancelled."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.call_soon_threadsafe(loop.stop)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    is_stopped = False
    try:
        while not is_stopped:
            with suppress(SystemExit, KeyboardInterrupt):  # of a task, which would end all others
                loop.run_forever()
                is_stopped = True
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_WITHIN)


SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Whether workers here hear them.
_is_signalled = False
_forking = threading.local()


# A process that a handler forks must hear them by itself: it was deaf, or told the loop that it shares. They are held
# back meanwhile, so that it misses none.


def _hold_signals() -> None:
    _forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)


def _let_signals_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _forking.mask)


def _forget_signals() -> None:
    if _is_signalled:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _let_signals_go()


os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_go, after_in_child=_forget_signals)


@contextmanager
def _forgotten_in_children() -> Iterator[None]:
    global _is_signalled
    _is_signalled = True
    try:
        yield
    finally:
        _is_signalled = False


@contextmanager
def async_signalled(function: Callable[[], None], wanted: bool) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT call the function."""
    if not wanted:
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        loop.add_signal_handler(number, function)
    try:
        with _forgotten_in_children():
            yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextmanager
def signalled(function: Callable[[], None], wanted: bool) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT call the function: from the main thread only."""
    if not wanted:
        yield
        return
    before = {number: signal.signal(number, lambda *_: function()) for number in SIGNALS}
    try:
        with _forgotten_in_children():
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
