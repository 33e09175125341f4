"""The commands about dead jobs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from .. import PQ
from . import NOTHING, confirm, json_option, on_queues, queue_argument, say, yes_option
from .options import MOMENT
from .output import brief, job_json, print_data, print_table, shortened, when

KEPT = ("died_at", "reason", "history")


def choosing(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose among the dead."""
    for option in (
        click.option("--count", type=click.IntRange(1), help="So many at most, those that died first."),
        click.option("--before", "died_before", type=MOMENT, help="Only those that died before this time."),
        click.option("--after", "died_after", type=MOMENT, help="Only those that died at this time or later."),
        click.option("--like", "reason_like", metavar="PATTERN", help="Only those with a reason like '%timeout%'."),
    ):
        function = option(function)
    return function


ids_argument = click.argument("ids", nargs=-1, type=int, metavar="[ID]...")


@click.group("dead")
def dead_command() -> None:
    """Look at dead jobs, put them back, or delete them.

    A job is dead when its attempts are used up, when it can't be read, or when a consumer said so. It is kept with
    the reason and with the history of its attempts.
    """


@dead_command.command("list")
@queue_argument
@choosing
@json_option
@on_queues
def dead_list(pq: PQ, queue: str, as_json: bool, **choice: Any) -> None:
    """List dead jobs in the order in which they died.

    \b
        $ pgq-py dead list apples
        $ pgq-py dead list apples --like '%timeout%' --after 2026-11-27 --json
    """
    jobs = pq.queue(queue, raw=True).dead(**choice)
    if as_json:
        for job in jobs:
            click.echo(job_json(job, *KEPT))
        return
    print_table(
        ("id", "died", "attempts", "reason", "data"),
        [(job.id, job.died_at, job.attempts, shortened(job.reason), brief(job.data, 40)) for job in jobs],
    )


@dead_command.command("show")
@queue_argument
@click.argument("id", type=int)
@json_option
@on_queues
def dead_show(pq: PQ, queue: str, id: int, as_json: bool) -> int | None:
    """Show all that is known of a dead job.

    \b
        $ pgq-py dead show apples 17

    Exit code 3 if it is not among the dead.
    """
    jobs = pq.queue(queue, raw=True).dead(ids=[id])
    for job in jobs:
        if as_json:
            click.echo(job_json(job, *KEPT))
            continue
        click.echo(f"job {job.id} of {shortened(job.queue, 255)}: {shortened(job.reason, 2000)}")
        click.echo(f"put {when(job.enqueued_at)}, died {when(job.died_at)}, priority {job.priority}")
        for attempt in job.history:
            at = when(datetime.fromisoformat(attempt["at"]))
            by = shortened(str(attempt.get("consumer") or "somebody"), 255)
            click.echo(f"attempt {attempt['attempt']}, by {by}, ended {at}:")
            for line in str(attempt.get("error") or "").splitlines():
                click.echo(f"    {shortened(line, 2000)}")
        click.echo("data:")
        print_data(job.data)
    if not jobs:
        say(f"no job {id} among the dead of {queue!r}")
    return None if jobs else NOTHING


@dead_command.command("redrive")
@queue_argument
@ids_argument
@choosing
@on_queues
def dead_redrive(pq: PQ, queue: str, ids: tuple[int, ...], **choice: Any) -> int | None:
    """Put dead jobs back into the queue, and print how many.

    All of them, or those of the IDs or options. They may be tried as often as new ones. A job whose dedupe key is in
    the queue again stays among the dead.

    \b
        $ pgq-py dead redrive apples
        $ pgq-py dead redrive apples 17 18
        $ pgq-py dead redrive apples --like '%timeout%' --count 10

    Exit code 3 if it were none.
    """
    count = pq[queue].redrive(ids=ids or None, **choice)
    click.echo(count)
    return None if count else NOTHING


@dead_command.command("delete")
@queue_argument
@ids_argument
@choosing
@yes_option
@on_queues
def dead_delete(pq: PQ, queue: str, ids: tuple[int, ...], yes: bool, **choice: Any) -> int | None:
    """Delete dead jobs for good, and print how many.

    Those of the IDs; or, after a question, all of them, or those of the options.

    \b
        $ pgq-py dead delete apples 17
        $ pgq-py dead delete apples --before 2026-10-01 --yes

    Exit code 3 if it were none.
    """
    if not ids:
        which = "the dead jobs that the options choose" if any(choice.values()) else "all dead jobs"
        confirm(f"Delete {which} of {queue!r}?", yes)
    count = pq[queue].delete_dead(ids=ids or None, **choice)
    click.echo(count)
    return None if count else NOTHING
