"""What an exception tells about a job: whether the job failed, in which words, and what becomes of it."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from dis import opmap
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import psycopg

from .errors import Error
from .times import Duration, length

# As many characters as `queue_error` keeps.
LIMIT = 2000

_YIELD = opmap["YIELD_VALUE"]
_RAISING = {opmap["RAISE_VARARGS"], opmap["RERAISE"]}


class Retry(Error):
    """For a task or a handler to raise: the attempt has failed, and the job comes back if it has attempts left.

    Args:
        retry_in: after how long: a timedelta, seconds, or text such as "5m". None: as the queue says.
        message: why; kept with the job.
    """

    retry_in: timedelta | None = None
    """After how long; None: as the queue says."""

    def __init__(self, retry_in: Duration | None = None, message: str = "the task asked for another attempt") -> None:
        super().__init__(message)
        self.retry_in = length("retry_in", retry_in)


class Bury(Error):
    """For a task or a handler to raise: the job can never succeed, and goes to the dead at once.

    Args:
        reason: why; kept with the job.
    """

    def __init__(self, reason: str = "the task gave up") -> None:
        super().__init__(reason)


class LoopFailed(Exception):
    """Stands for the exception that has left a loop over jobs, which can't always be reached."""


class Verdict(NamedTuple):
    """What becomes of a job whose attempt has failed: the arguments of `job.error`."""

    message: str
    """Why; kept with the job."""
    retry_in: timedelta | None = None
    """How long it pauses; None: as the queue says."""
    bury: bool = False
    """Whether it goes to the dead whatever its attempts."""


class Retries:
    """What becomes of a job, by the class of the exception that has ended its attempt.

    Args:
        retry_in: how long the job pauses, after any exception or by its class; None: as the queue says.
        bury_on: the class or classes after which there is no other attempt.

    Of the classes of both, the nearest to the exception's own counts. `Retry` and `Bury` come before them.
    """

    def __init__(
        self,
        retry_in: Duration | Mapping[type[BaseException], Duration | None] | None = None,
        bury_on: type[BaseException] | Collection[type[BaseException]] = (),
    ) -> None:
        given: Mapping[Any, Any] = retry_in if isinstance(retry_in, Mapping) else {BaseException: retry_in}
        self._pauses = {_exception("retry_in", kind): length("retry_in", pause) for kind, pause in given.items()}
        buried = [bury_on] if isinstance(bury_on, type) else bury_on
        self._buried = {_exception("bury_on", kind) for kind in buried}
        for kind in self._buried & given.keys():
            if isinstance(retry_in, Mapping):
                raise ValueError(f"{kind.__name__} is in retry_in and in bury_on: it can't be both")

    def verdict(self, error: BaseException) -> Verdict:
        """What becomes of a job whose attempt has ended with this exception."""
        if isinstance(error, Retry | Bury):
            # What was raised by will needs no traceback, but that of its cause.
            message = _words(error) if error.__cause__ is None else describe(error)
            return Verdict(message, error.retry_in) if isinstance(error, Retry) else Verdict(message, bury=True)
        for kind in type(error).__mro__:
            if kind in self._buried:
                return Verdict(describe(error), bury=True)
            if kind in self._pauses:
                return Verdict(describe(error), self._pauses[kind])
        return Verdict(describe(error))


def _exception(name: str, kind: Any) -> type[BaseException]:
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise TypeError(f"{name} has {kind!r}, which is no class of exceptions")
    return kind


def is_interruption(error: BaseException) -> bool:
    """Whether it says nothing about the job: Control-C, a cancelled task, a loop that was left, a rollback by will."""
    return isinstance(error, KeyboardInterrupt | asyncio.CancelledError | GeneratorExit | psycopg.Rollback)


def describe(error: BaseException) -> str:
    """The last lines of its traceback."""
    try:
        return _tail(traceback.format_exception(error))
    except Exception:  # what a class of the user's does when it is asked
        return type(error).__name__


def _words(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        return describe(error)


def _tail(parts: list[str]) -> str:
    lines = "".join(parts).rstrip().splitlines(keepends=True)
    # The end says most: what was raised, and where.
    while len(lines) > 1 and sum(map(len, lines)) > LIMIT:
        del lines[0]
    return "".join(lines)[:LIMIT]


def left_by_exception(frame: FrameType | None) -> str | None:
    """What the exception that is just leaving a loop in this frame says, None if it was left otherwise.

    A generator is closed in the same way by `break` and by an exception in the loop over it. But
    an exception has left a traceback that points to the instruction the loop's frame is at, or
    the frame is at one that raises again what was caught.
    """
    found = None if frame is None else _newest_traceback(frame)
    if frame is None or found is None:
        return None
    code = frame.f_code.co_code
    if found.tb_lasti != frame.f_lasti and code[frame.f_lasti] not in _RAISING:
        return None  # of an exception that was caught
    error = _error_of(found)
    if error is not None:
        return None if is_interruption(error) else _tail(traceback.format_exception(type(error), error, found))
    if found.tb_next is None and code[found.tb_lasti] == _YIELD:
        return None  # raised by nothing in the loop: a generator that is closed
    return _tail(["Traceback (most recent call last):\n", *traceback.format_tb(found)])


def _newest_traceback(frame: FrameType) -> TracebackType | None:
    """Somebody may keep those of earlier exceptions. The collector's generations hold the newest last."""
    for generation in range(3):
        for found in reversed(gc.get_objects(generation)):
            if type(found) is TracebackType and found.tb_frame is frame:
                return found
    return None


def _error_of(found: TracebackType) -> BaseException | None:
    """The exception that has left this traceback.

    Before 3.12 an exception on its way knows only the part of its traceback below the frame that last
    caught it (or had a `with` or `finally`): if there is none such, it can't be reached.
    """
    link: TracebackType | None = found
    while link is not None:
        for error in gc.get_referrers(link):
            if isinstance(error, BaseException) and error.__traceback__ is link:
                return error
        link = link.tb_next
    return None


def caller_of(depth: int) -> FrameType | None:
    """The frame DEPTH calls above the caller."""
    try:
        return sys._getframe(depth + 1)
    except ValueError:
        return None


@contextmanager
def leaving(context: AbstractContextManager[None], error: BaseException | None) -> Iterator[None]:
    """Leave the context after this block: with this error, or with the one that the block raises."""
    try:
        yield
    except BaseException as raised:
        context.__exit__(type(raised), raised, raised.__traceback__)
        raise
    context.__exit__(None if error is None else type(error), error, None)
