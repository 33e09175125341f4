"""The commands that look after the queues."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta

import click

from .. import PQ
from . import FINDINGS, json_option, on_queues, say
from .options import LENGTH
from .output import json_line, print_table


@click.command("health")
@click.option("--older-than", type=LENGTH, default="1m", show_default=True, help="What is younger is not named.")
@click.option("--critical", is_flag=True, help="Only what is critical.")
@json_option
@on_queues
def health_command(pq: PQ, older_than: timedelta, critical: bool, as_json: bool) -> int | None:
    """Name what hurts the queues, each with the remedy: for a person, and for monitoring.

    \b
        $ pgq-py health
        $ pgq-py health --critical --json

    Exit code 4 if there is anything. It takes the right to observe all queues.
    """
    findings = [finding for finding in pq.health(older_than) if finding.severity == "critical" or not critical]
    if as_json:
        for finding in findings:
            click.echo(json_line(asdict(finding)))
    elif findings:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.what}: {finding.subject}: {finding.detail}")
            click.echo(f"    {finding.remedy}")
    else:
        say("all is well")
    return FINDINGS if findings else None


@click.command("maintain")
@json_option
@on_queues
def maintain_command(pq: PQ, as_json: bool) -> None:
    """Do what must be done now and then: delete old dead jobs, make due jobs ready, add up totals.

    Once a minute or so, from cron for example; nothing breaks if nobody does. It takes the right to manage all
    queues.

    \b
        $ pgq-py maintain
    """
    done = pq.maintain()
    if as_json:
        for task, count in done.items():
            click.echo(json_line({"task": task, "done": count}))
    else:
        print_table(("task", "done"), list(done.items()))
