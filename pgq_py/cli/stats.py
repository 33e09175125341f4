"""The command that shows what is in the queues, once or for as long as one looks."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from .. import PQ, Stats
from . import complete_queue, json_option, on_queues
from .options import LENGTH
from .output import DISPENSABLE, STATS, cell, fitting, json_line, print_table, stats_row


@click.command("stats")
@click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=complete_queue)
@click.option("--watch", is_flag=True, help="Show it again and again, with rates, until Control-C.")
@click.option("--every", type=LENGTH, default="2s", show_default=True, help="How often.")
@json_option
@on_queues
def stats_command(pq: PQ, queues: tuple[str, ...], watch: bool, every: timedelta, as_json: bool) -> None:
    """Show what is in queues, and what has gone through: of those that are named, or of all.

    \b
        $ pgq-py stats
        $ pgq-py stats apples --json
        $ pgq-py stats --watch --every 1s

    put, taken and failed are totals since the queue was made. With very long queues some of the numbers are
    estimates, and `exact` is false. On a terminal that is too narrow some columns are left out.
    """
    if not watch:
        _print(_look(pq, queues), as_json)
    elif as_json or not sys.stdout.isatty():
        while True:
            _print(_look(pq, queues), as_json)
            sys.stdout.flush()
            time.sleep(max(every.total_seconds(), 0.1))
    else:
        _watch(pq, queues, max(every.total_seconds(), 0.1))


def _look(pq: PQ, queues: Sequence[str]) -> list[Stats]:
    return [pq[name].stats() for name in queues] if queues else pq.stats()


def _print(found: Sequence[Stats], as_json: bool) -> None:
    if as_json:
        for stats in found:
            click.echo(json_line(asdict(stats)))
    else:
        print_table(STATS, [stats_row(stats) for stats in found], DISPENSABLE)


def _watch(pq: PQ, queues: Sequence[str], seconds: float) -> None:
    """On a terminal: a table that changes where it stands."""
    from rich.live import Live

    before: dict[str, Stats] = {}
    looked = time.monotonic()
    with Live(auto_refresh=False) as live:
        while True:
            found, now = _look(pq, queues), time.monotonic()
            passed = now - looked
            cells = [[*map(cell, stats_row(stats)), *_rates(before.get(stats.queue), stats, passed)] for stats in found]
            live.update(fitting((*STATS, "put/s", "taken/s"), cells, DISPENSABLE, live.console.width), refresh=True)
            before, looked = {stats.queue: stats for stats in found}, now
            time.sleep(seconds)


def _rates(before: Stats | None, now: Stats, seconds: float) -> tuple[Any, Any]:
    """What went in and out since the last look, a second."""
    if before is None or seconds <= 0:
        return "", ""
    return f"{(now.put - before.put) / seconds:.1f}", f"{(now.taken - before.taken) / seconds:.1f}"
