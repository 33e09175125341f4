"""When: what `schedule_at` and `expected_at` accept, made into what SQL takes."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TypeAlias

from .errors import TimeError

When: TypeAlias = datetime | timedelta | str
"""An aware datetime, a timedelta from now, or text such as "90s", "5m", "1h", "2d"."""

Duration: TypeAlias = timedelta | str | float
"""A length of time: a timedelta, text such as "90s", "5m", "1h", "2d", or a number of seconds."""

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TEXT = re.compile(r"\s*([+-]?\d+(?:\.\d+)?)\s*([smhd])\s*", re.ASCII)


@lru_cache(maxsize=100)
def parse_duration(text: str) -> timedelta:
    """The timedelta that "90s", "5m", "1.5h" or "2d" means.

    Raises:
        TimeError: the text is something else, or too long a time.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise TimeError(f'{text!r} is not a time: write a number and s, m, h or d, for example "5m"')
    try:
        return timedelta(**{_UNITS[match[2]]: float(match[1])})
    except OverflowError:
        raise TimeError(f"{text!r} is too long a time") from None


def at_or_in(name: str, when: When | None) -> tuple[datetime | None, timedelta | None]:
    """The pair (at, in) for NAME_at and NAME_in of the SQL functions: one of them, or neither.

    A timedelta stays one, so that it counts from the server's now, not from ours.

    Raises:
        TimeError: a naive datetime, which could mean any zone; text that is no time; another type.
    """
    if when is None:
        return None, None
    if isinstance(when, str):
        return None, parse_duration(when)
    if isinstance(when, timedelta):
        return None, when
    if not isinstance(when, datetime):
        raise TimeError(f"{name} is a {type(when).__name__}: give a datetime, a timedelta, or text such as '5m'")
    if when.utcoffset() is None:
        raise TimeError(
            f"{name} is a datetime without a time zone, which could mean any: "
            "use datetime.now(timezone.utc) or .astimezone()"
        )
    return when, None


def length(name: str, duration: Duration | None) -> timedelta | None:
    """A length of time as a timedelta.

    Raises:
        TimeError: text that is no time, a number that is not finite, or another type.
    """
    if duration is None or isinstance(duration, timedelta):
        return duration
    if isinstance(duration, str):
        return parse_duration(duration)
    if isinstance(duration, int | float) and not isinstance(duration, bool):
        try:
            return timedelta(seconds=duration)
        except (OverflowError, ValueError):
            raise TimeError(f"{name} is {duration} seconds, which is no length of time") from None
    raise TimeError(f"{name} is a {type(duration).__name__}: give a timedelta, seconds, or text such as '5m'")
