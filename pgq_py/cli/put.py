"""The command that puts jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import click

from .. import PQ, JobId, Queue
from ..codecs import Payload
from . import json_option, on_queues, queue_argument, say
from .options import JSON, LENGTH, MOMENT, one_of
from .output import json_line


@click.command("put")
@queue_argument
@click.argument("data", nargs=-1)
@click.option("--text", is_flag=True, help="The data are text as it is, not JSON. From stdin: a job for each line.")
@click.option(
    "--bytes", "as_bytes", is_flag=True, help="The data are bytes as they are. From stdin: all of it is one job."
)
@click.option("--in", "in_", type=LENGTH, help="Not to be taken before so long from now: 90s, 5m, 1h, 2d.")
@click.option("--at", type=MOMENT, help="Not to be taken before this time: 2026-11-27T17:30, with or without a zone.")
@click.option("--expected-in", type=LENGTH, help="When it should be worked on; among equals the earlier goes first.")
@click.option("--expected-at", type=MOMENT, help="The same as a time.")
@click.option("--priority", type=int, default=0, show_default=True, help="Higher goes first.")
@click.option("--dedupe-key", metavar="KEY", help="Puts nothing while a job with this key is in the queue.")
@click.option("--headers", type=JSON, help="JSON for the consumer that is not the data.")
@click.option("--max-attempts", type=click.IntRange(1), help="How often it may be tried, if not as the queue says.")
@click.option(
    "--each", is_flag=True, help="From stdin: put each job when its line is read, not all or none at the end."
)
@json_option
@on_queues
def put_command(
    pq: PQ,
    queue: str,
    data: tuple[str, ...],
    text: bool,
    as_bytes: bool,
    in_: timedelta | None,
    at: datetime | None,
    expected_in: timedelta | None,
    expected_at: datetime | None,
    each: bool,
    dedupe_key: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Put jobs into a queue, and print their ids.

    Each DATA is a job, as JSON. Without any, the jobs come from stdin, one a line (JSON lines). All are put, or
    none. The JSON is stored as it is: no number is rounded.

    \b
        $ pgq-py put apples '{"kind": "Cox"}'
        $ pgq-py put apples '"one"' '"two"' --priority 10
        $ pgq-py put apples '{"kind": "Cox"}' --in 5m --dedupe-key cox
        $ pgq-py put apples --text 'a line of text'
        $ pgq-py put apples < jobs.jsonl
        $ pgq-py put pictures --bytes < picture.png
        $ tail -f events.jsonl | pgq-py put events --each

    With --json: `id`, and `is_new`, false where the key was in the queue already.
    """
    options["schedule_at"] = one_of(in_=in_, at=at)
    options["expected_at"] = one_of(expected_in=expected_in, expected_at=expected_at)
    if text and as_bytes:
        raise click.UsageError("--text and --bytes exclude each other")
    jobs = _given(data, text, as_bytes) if data else _read(text, as_bytes)
    raw = pq.queue(queue, raw=True)
    for id in _put(raw, jobs, dedupe_key, each, options):
        if not id.is_new:
            say(f"a job with this key is in the queue already: {id}")
        click.echo(json_line({"id": id, "is_new": id.is_new}) if as_json else id)


def _put(
    queue: Queue, jobs: Iterable[Payload], dedupe_key: str | None, each: bool, options: dict[str, Any]
) -> Iterator[JobId]:
    """Their ids, when they are put."""
    if dedupe_key is not None:
        jobs = list(jobs)
        if len(jobs) != 1:
            raise click.UsageError("--dedupe-key is of one job")
    if each or dedupe_key is not None:
        for job in jobs:
            yield queue.put(job, dedupe_key=dedupe_key, **options)
            sys.stdout.flush()
    else:
        yield from queue.put_many(jobs, **options)


def _given(data: tuple[str, ...], text: bool, as_bytes: bool) -> list[Payload]:
    """Jobs from arguments."""
    if text:
        return [Payload(text=item) for item in data]
    if as_bytes:
        return [Payload(bytes=item.encode("utf-8", "surrogateescape")) for item in data]
    for item in data:
        if not _is_json(item):
            raise click.UsageError(
                f"{item!r} is not JSON: a text needs quotes of its own ('\"{item}\"'), or --text stores it as it is"
            )
    return [Payload(json=item) for item in data]


def _read(text: bool, as_bytes: bool) -> Iterator[Payload]:
    """Jobs from stdin."""
    if sys.stdin.isatty():
        say("Reading from the terminal; Control-D ends it")
    if as_bytes:
        yield Payload(bytes=sys.stdin.buffer.read())
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            item = line.decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise click.ClickException(f"line {number} is not UTF-8: use --bytes") from None
        if text:
            yield Payload(text=item)
        elif item.strip():
            if not _is_json(item):
                raise click.ClickException(f"line {number} is not JSON: --text takes lines as they are")
            yield Payload(json=item)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    except RecursionError:  # PostgreSQL may take it
        return True
    return True
