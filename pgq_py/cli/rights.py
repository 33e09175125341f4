"""The commands about rights."""

from __future__ import annotations

from dataclasses import asdict

import click

from .. import PQ
from . import complete_queue, json_option, on_queues, say
from .output import json_line, print_table

PRIVILEGES = ("put", "get", "observe", "manage")

role_argument = click.argument("role")
queues_argument = click.argument("queues", nargs=-1, metavar="[QUEUE]...", shell_complete=complete_queue)
all_option = click.option("--all", "everywhere", is_flag=True, help="On all queues, those to come among them.")


def _check(queues: tuple[str, ...], everywhere: bool) -> None:
    if bool(queues) == everywhere:
        raise click.UsageError("name the queues, or say --all")


@click.command("grant")
@role_argument
@click.argument("privilege", type=click.Choice(PRIVILEGES))
@queues_argument
@all_option
@on_queues
def grant_command(pq: PQ, role: str, privilege: str, queues: tuple[str, ...], everywhere: bool) -> None:
    """Give a role a right on queues. Only the owner of the queue can.

    put: put jobs. get: take, lease and complete them. observe: list, count, look at the dead. manage: the same, and
    configure, pause, cancel, clear, drop, redrive.

    \b
        $ pgq-py grant web put apples pears
        $ pgq-py grant monitoring observe --all
    """
    _check(queues, everywhere)
    with pq.transaction():
        done = [pq.grant(role, privilege)] if everywhere else [pq[name].grant(role, privilege) for name in queues]
    say(f"{role!r} may {privilege}" + ("" if any(done) else ", and could before"))


@click.command("revoke")
@role_argument
@click.argument("privilege", type=click.Choice((*PRIVILEGES, "all")))
@queues_argument
@all_option
@on_queues
def revoke_command(pq: PQ, role: str, privilege: str, queues: tuple[str, ...], everywhere: bool) -> None:
    """Take a right, or all rights, from a role. Only the owner of the queue can.

    With --all: the right on all queues, and on each. A right on all queues stays when one queue is named.

    \b
        $ pgq-py revoke web put apples
        $ pgq-py revoke web all --all
    """
    _check(queues, everywhere)
    which = None if privilege == "all" else privilege
    with pq.transaction():
        done = [pq.revoke(role, which)] if everywhere else [pq[name].revoke(role, which) for name in queues]
    say("it was taken" if any(done) else f"{role!r} had no such right")


@click.command("rights")
@click.argument("queue", required=False, shell_complete=complete_queue)
@json_option
@on_queues
def rights_command(pq: PQ, queue: str | None, as_json: bool) -> None:
    """Show the rights that were given: everybody's to the owner of the queue, one's own to others.

    \b
        $ pgq-py rights
        $ pgq-py rights apples --json

    A right without a queue is on all queues.
    """
    rights = pq.rights() if queue is None else pq[queue].rights()
    if as_json:
        for right in rights:
            click.echo(json_line(asdict(right)))
    else:
        print_table(
            ("queue", "role", "privilege", "granted"),
            [(right.queue or "(all)", right.role, right.privilege, right.granted_at) for right in rights],
        )
