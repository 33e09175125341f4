"""The commands about whole queues: their settings, and what removes all of it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Any

import click

from .. import PQ
from . import NOTHING, confirm, json_option, on_queues, queue_argument, say, yes_option
from .options import DEFAULT, LENGTH, Setting
from .output import json_line, print_table

AMOUNT, TIME = Setting(click.IntRange(1)), Setting(LENGTH)


@click.command("create")
@queue_argument
@on_queues
def create_command(pq: PQ, queue: str) -> None:
    """Make a queue known by name before its first job. No queue needs it.

    \b
        $ pgq-py create apples
    """
    say(f"the queue {queue!r} was " + ("created" if pq[queue].create() else "there already"))


@click.command("configure")
@queue_argument
@click.option("--max-attempts", type=AMOUNT, help="How often a job may be tried; 5 by default.")
@click.option("--lease-for", type=TIME, help="How long a lease lasts; 5m by default.")
@click.option("--retry-in", type=TIME, help="The pause after a first failure, doubled with each; 10s by default.")
@click.option("--max-depth", type=AMOUNT, help="How many jobs the queue may hold; no limit by default.")
@click.option("--max-bytes", type=AMOUNT, help="How large the data of a job may be; no limit by default.")
@click.option("--keep-dead-for", type=TIME, help="How long dead jobs are kept; for ever by default.")
@on_queues
def configure_command(pq: PQ, queue: str, **settings: Any) -> None:
    """Change settings of a queue, for all its users. What is not named stays as it is.

    \b
        $ pgq-py configure apples --max-attempts 3 --retry-in 1m
        $ pgq-py configure apples --max-depth default
    """
    given = {name: None if value is DEFAULT else value for name, value in settings.items() if value is not None}
    if not given:
        raise click.UsageError("name a setting to change; `pgq-py settings` shows them")
    pq[queue].configure(**given)


@click.command("settings")
@queue_argument
@json_option
@on_queues
def settings_command(pq: PQ, queue: str, as_json: bool) -> None:
    """Show the settings that hold for a queue, the defaults among them.

    \b
        $ pgq-py settings apples

    With --json lengths of time are in seconds.
    """
    settings = asdict(pq[queue].settings())
    if as_json:
        click.echo(json_line({"queue": queue, **settings}))
    else:
        print_table(("setting", "value"), [(name, _shown(name, value)) for name, value in settings.items()])


def _shown(name: str, value: Any) -> str:
    """A setting in words: none is no limit, or no end."""
    if value is None:
        return "for ever" if name == "keep_dead_for" else "no limit"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value.total_seconds():g}s" if isinstance(value, timedelta) else str(value)


@click.command("pause")
@queue_argument
@on_queues
def pause_command(pq: PQ, queue: str) -> None:
    """Let nothing be taken from a queue until it is resumed. Puts go on.

    What consumers have already they may finish.

    \b
        $ pgq-py pause apples
    """
    say(f"the queue {queue!r} " + ("is paused" if pq[queue].pause() else "was paused already"))


@click.command("resume")
@queue_argument
@on_queues
def resume_command(pq: PQ, queue: str) -> None:
    """End the pause of a queue, and wake its consumers.

    \b
        $ pgq-py resume apples
    """
    say(f"the queue {queue!r} " + ("is resumed" if pq[queue].resume() else "was not paused"))


@click.command("clear")
@queue_argument
@yes_option
@on_queues
def clear_command(pq: PQ, queue: str, yes: bool) -> None:
    """Remove all jobs of a queue, and print how many: the scheduled and the leased ones, too.

    Its settings and its dead jobs stay.

    \b
        $ pgq-py clear apples
        $ pgq-py clear apples --yes
    """
    confirm(f"Remove all jobs of {queue!r}?", yes)
    click.echo(pq[queue].clear())


@click.command("drop")
@queue_argument
@yes_option
@on_queues
def drop_command(pq: PQ, queue: str, yes: bool) -> int | None:
    """Remove a queue with all that is in it: jobs, dead jobs, settings, totals. Rights on the name stay.

    \b
        $ pgq-py drop apples --yes

    Exit code 3 if there was nothing.
    """
    confirm(f"Remove the queue {queue!r} with its jobs, dead jobs and settings?", yes)
    if pq[queue].drop():
        return None
    say(f"there is no queue {queue!r}")
    return NOTHING
