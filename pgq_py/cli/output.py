"""What the commands print: JSON lines, tables, times, and jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import click

from ..calls import Stats
from ..codecs import Payload
from ..transfer import data_member

T = TypeVar("T")
Row = Sequence[Any]


def json_line(values: dict[str, Any]) -> str:
    """An object, in a line."""
    return json.dumps(values, ensure_ascii=False, default=_plain)


def job_json(job: Any, *more: str) -> str:
    """A job of a raw queue as an object in a line: its fields, and its data as it is stored."""
    names = (
        "id",
        "queue",
        "priority",
        "enqueued_at",
        "schedule_at",
        "expected_at",
        "attempts",
        "max_attempts",
        "last_error",
        "progress_count",
        "consumer",
        "dedupe_key",
        "headers",
    )
    fields = json_line({name: getattr(job, name) for name in (*names, *more)})
    return f"{fields[:-1]}, {data_member(job.data)}}}"


def print_data(payload: Payload) -> None:
    """A job's data as it is: JSON and text in a line, bytes as they are."""
    if payload.bytes is not None:
        sys.stdout.flush()
        sys.stdout.buffer.write(payload.bytes)
    else:
        click.echo(payload.json if payload.json is not None else payload.text)


def brief(payload: Payload, width: int = 60) -> str:
    """The beginning of a job's data, for a table."""
    if payload.bytes is not None:
        return f"{len(payload.bytes)} bytes"
    # Of a large one no more than is shown.
    text = (payload.json if payload.json is not None else payload.text or "")[: 2 * width]
    return shortened(text, width)


def shortened(text: str, width: int = 60) -> str:
    """Text cut to a width, in a line, without what a terminal would take for commands."""
    shown = "".join(char if char.isprintable() else " " if char.isspace() else "�" for char in text)
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def when(time: datetime | None) -> str:
    """A time here, to the second."""
    if time is None:
        return ""
    with suppress(OverflowError):  # at the end of the year 9999, which elsewhere is over
        time = time.astimezone()
    return f"{time:%Y-%m-%d %H:%M:%S}"


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, datetime):
        return when(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else shortened(str(value), 200)


def print_table(headings: Sequence[str], rows: Iterable[Row], dispensable: Sequence[str] = ()) -> None:
    """A table: drawn on a terminal; elsewhere columns of plain text, nothing cut off.

    Args:
        headings: of the columns.
        rows: what is in them.
        dispensable: as for `fitting`.
    """
    cells = [[cell(value) for value in row] for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        console.print(fitting(headings, cells, dispensable, console.width))
        return
    widths = [max(len(row[n]) for row in [headings, *cells]) for n in range(len(headings))]
    for row in [headings, *cells]:
        click.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def fitting(headings: Sequence[str], cells: Sequence[Sequence[str]], dispensable: Sequence[str], width: int) -> Any:
    """A table of rich's, which cuts off what a terminal has no room for: whole columns first, the dispensable ones."""
    from rich.console import Console

    table = rich_table(headings, cells)
    for name in dispensable:
        if Console(width=10_000).measure(table).maximum <= width:
            break
        n = headings.index(name)
        headings, cells = [*headings[:n], *headings[n + 1 :]], [[*row[:n], *row[n + 1 :]] for row in cells]
        table = rich_table(headings, cells)
    return table


def rich_table(headings: Sequence[str], cells: Iterable[Sequence[str]]) -> Any:
    """A table of rich's. What looks like markup is text."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading)
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    return table


def watched(items: Iterable[T], what: str) -> Iterator[T]:
    """The items as they are; where stderr is a terminal, it shows how many there have been."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.completed:,.0f} {task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None)
        count = 0
        for count, item in enumerate(items, 1):
            yield item
            if count % 100 == 0:
                progress.update(task, completed=count)
        progress.update(task, completed=count)


STATS = (
    "queue",
    "ready",
    "scheduled",
    "retrying",
    "leased",
    "dead",
    "put",
    "taken",
    "failed",
    "paused",
    "oldest ready",
)


# The first of these first, where there is no room for all.
DISPENSABLE = ("oldest ready", "taken", "put", "failed", "paused", "retrying")


def stats_row(stats: Stats) -> Row:
    """What `STATS` are the headings of."""
    return (
        stats.queue,
        stats.ready,
        stats.scheduled,
        stats.retrying,
        stats.leased,
        stats.dead,
        stats.put,
        stats.taken,
        stats.failed,
        stats.paused,
        stats.oldest_ready_at,
    )


def _plain(value: Any) -> Any:
    """What JSON has no word for."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON")
