"""The commands that look at jobs, take them and cancel them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from itertools import islice

import click
import psycopg

from .. import PQ, Job
from . import NOTHING, json_option, on_queues, queue_argument, say
from .options import LENGTH
from .output import brief, job_json, json_line, print_data, print_table

MOST = 100_000


@click.command("get")
@queue_argument
@click.option("--count", type=click.IntRange(1, MOST), default=1, show_default=True, help="Take up to so many jobs.")
@click.option("--wait", is_flag=True, help="Wait until there is one.")
@click.option("--timeout", type=LENGTH, help="Wait so long at most: 10s, 5m.")
@json_option
@on_queues
def get_command(pq: PQ, queue: str, count: int, wait: bool, timeout: timedelta | None, as_json: bool) -> int | None:
    """Take jobs from a queue, and print their data.

    The jobs leave the queue when they are printed, in one transaction: if that fails, or is interrupted, they
    stay. Text and JSON are printed as lines, bytes as they are.

    \b
        $ pgq-py get apples
        $ pgq-py get apples --json | jq .data.kind
        $ pgq-py get apples --count 100 --timeout 10s
        $ while job=$(pgq-py get apples --wait); do echo "$job"; done

    Exit code 3 if there is none.
    """
    failure: Exception | None = None
    raw = pq.queue(queue, raw=True)
    seconds = None if timeout is None else timeout.total_seconds()
    with suppress(psycopg.Rollback), raw.take(block=wait or timeout is not None, timeout=seconds) as job:
        if job is None:
            return NOTHING
        jobs = [job, *(raw.get_many(count - 1) if count > 1 else [])]
        try:
            print_jobs(jobs, as_json)
        except Exception as error:
            # A full disk, an output that lacks a character: not the job's fault, and no failed attempt of it.
            failure = error
            raise psycopg.Rollback from None
    if failure is not None:
        raise failure
    return None


@click.command("peek")
@queue_argument
@click.option("--count", type=click.IntRange(1, MOST), default=1, show_default=True, help="Up to so many jobs.")
@json_option
@on_queues
def peek_command(pq: PQ, queue: str, count: int, as_json: bool) -> int | None:
    """Print what `get` would take next, and leave it where it is.

    \b
        $ pgq-py peek apples
        $ pgq-py peek apples --count 3 --json

    Exit code 3 if there is none.
    """
    jobs = pq.queue(queue, raw=True).list(count=count)
    print_jobs(jobs, as_json)
    return None if jobs else NOTHING


def print_jobs(jobs: Iterable[Job], as_json: bool) -> None:
    """The jobs' data, to the last byte."""
    for job in jobs:
        if as_json:
            click.echo(job_json(job))
        else:
            print_data(job.data)
    sys.stdout.flush()


@click.command("list")
@queue_argument
@click.option("--scheduled", is_flag=True, help="Also those that wait: scheduled, backing off or leased.")
@click.option("--count", type=click.IntRange(1), default=100, show_default=True, help="So many at most.")
@click.option("--all", "unlimited", is_flag=True, help="All of them.")
@json_option
@on_queues
def list_command(pq: PQ, queue: str, scheduled: bool, count: int, unlimited: bool, as_json: bool) -> None:
    """List the jobs of a queue in the order in which they would be taken.

    \b
        $ pgq-py list apples
        $ pgq-py list apples --scheduled --all --json

    It is what there is at one moment: a transaction is open until the last line is read, as it is with
    `| less`, and vacuum spares what was deleted meanwhile. Write a long list to a file.
    """
    with pq.transaction():
        jobs = pq.queue(queue, raw=True)._list_in_pages(scheduled, None if unlimited else count + 1)
        shown = jobs if unlimited else islice(jobs, count)
        if as_json:
            for job in shown:
                click.echo(job_json(job, "ready_at"))
        else:
            headings = ("id", "priority", "put", "due", "attempts", "data")
            print_table(
                headings,
                [(job.id, job.priority, job.enqueued_at, job.ready_at, job.attempts, brief(job.data)) for job in shown],
            )
        if next(jobs, None) is not None:
            say(f"These are the first {count}: --all lists all")


@click.command("count")
@queue_argument
@click.option("--scheduled", is_flag=True, help="All that are in the queue, also those that wait.")
@json_option
@on_queues
def count_command(pq: PQ, queue: str, scheduled: bool, as_json: bool) -> None:
    """Print how many jobs could be taken now.

    \b
        $ pgq-py count apples
        $ pgq-py count apples --scheduled
    """
    count = pq[queue].count(scheduled)
    click.echo(json_line({"queue": queue, "count": count}) if as_json else count)


@click.command("cancel")
@queue_argument
@click.argument("ids", nargs=-1, required=True, type=int, metavar="ID...")
@on_queues
def cancel_command(pq: PQ, queue: str, ids: tuple[int, ...]) -> int | None:
    """Remove jobs before anybody takes them. The consumer of a leased job is told at its next call.

    \b
        $ pgq-py cancel apples 17 18

    Exit code 3 if one of them is not in the queue, or is being taken at this moment.
    """
    missing = [id for id in ids if not pq[queue].cancel(id)]
    for id in missing:
        say(f"no job {id} to cancel in {queue!r}")
    return NOTHING if missing else None
