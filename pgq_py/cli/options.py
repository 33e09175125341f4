"""Kinds of values that options take: lengths of time, moments, JSON."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from ..errors import TimeError
from ..times import parse_duration

if TYPE_CHECKING:
    ParamType: TypeAlias = click.ParamType[Any]
else:  # before click 8.4 it takes no argument
    ParamType = click.ParamType


class Length(ParamType):
    """A length of time: "90s", "5m", "1h", "2d"."""

    name = "length"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """As a timedelta."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except TimeError as error:
            self.fail(str(error), param, ctx)


class Moment(ParamType):
    """A time as ISO 8601 writes it. Without a zone it is the time here."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """As an aware datetime."""
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(value)
            return time if time.tzinfo else time.astimezone()
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time: write 2026-11-27T17:30, or with a zone 2026-11-27T17:30+01:00")


class Json(ParamType):
    """The text of JSON."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As Python has it."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            self.fail("it is not JSON", param, ctx)


class Setting(ParamType):
    """A value of another kind, or `default`, which is given as None."""

    def __init__(self, kind: ParamType) -> None:
        self.kind = kind
        self.name = f"{kind.name}|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """As the other kind has it."""
        return DEFAULT if value == "default" else self.kind.convert(value, param, ctx)


DEFAULT: Any = object()
"""What `default` is: click takes None for an option that was not given."""

LENGTH, MOMENT, JSON = Length(), Moment(), Json()


def one_of(**given: Any) -> Any:
    """The value of the one option that was given, None where none was.

    Raises:
        click.UsageError: more than one was.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if len(values) > 1:
        names = " and ".join("--" + name.strip("_").replace("_", "-") for name in values)
        raise click.UsageError(f"{names} exclude each other")
    return next(iter(values.values()), None)
