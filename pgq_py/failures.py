"""What an exception tells about a job: whether the job failed, and in which words."""

from __future__ import annotations

import asyncio
import gc
import sys
import traceback
from dis import opmap
from types import FrameType, TracebackType

import psycopg

# As many characters as `queue_error` keeps.
LIMIT = 2000

_YIELD = opmap["YIELD_VALUE"]
_RAISING = {opmap["RAISE_VARARGS"], opmap["RERAISE"]}


def is_interruption(error: BaseException) -> bool:
    """Whether it says nothing about the job: Control-C, a cancelled task, a loop that was left, a rollback by will."""
    return isinstance(error, KeyboardInterrupt | asyncio.CancelledError | GeneratorExit | psycopg.Rollback)


def describe(error: BaseException) -> str:
    """The last lines of its traceback."""
    return _tail(traceback.format_exception(error))


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
