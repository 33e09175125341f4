"""The commands about the schema: to install it, to print it, to tell its version, to check all around it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict

import click

from .. import __version__, migrate
from . import FINDINGS, confirm, database, dsn_option, json_option, schema_option, yes_option
from .output import json_line


@click.command("migrate")
@click.option("--revision", help="The version to go to; by default the newest.")
@click.option("--down", is_flag=True, help="Go back. --revision base removes the queue and all its jobs.")
@yes_option
@dsn_option
@schema_option
def migrate_command(dsn: str | None, schema: str, revision: str | None, down: bool, yes: bool) -> None:
    """Install the queue, or bring it to another version. If nothing is to be done, that is fine.

    All in one transaction; several may do it at once.

    \b
        $ pgq-py migrate
        $ pgq-py migrate --dsn postgresql://localhost/example --schema billing
        $ pgq-py migrate --down --revision base --yes
    """
    if down and revision is None:
        raise click.UsageError("--down needs to know how far: --revision base removes the queue and all its jobs")
    if down:
        what = "Remove the queue and all its jobs" if revision == migrate.BASE else f"Go back to version {revision}"
        confirm(f"{what} in the schema {schema!r}?", yes)
    where = database(dsn)
    move: Callable[[str, str, str], None] = migrate.downgrade if down else migrate.upgrade
    move(where, schema, revision or "head")
    version = migrate.current(where, schema)
    click.echo(f"schema {schema}: " + (f"the queue at version {version}" if version else "no queue"))


@click.command("sql")
@click.option("--revision", default="head", show_default=True, help="The version to go to.")
@click.option("--since", default=migrate.BASE, show_default=True, help="The version that is there.")
@schema_option
def sql_command(schema: str, revision: str, since: str) -> None:
    """Print what `migrate` would run, as a script for psql. Needs no database.

    \b
        $ pgq-py sql | psql --set ON_ERROR_STOP=1 postgresql://localhost/example
        $ pgq-py sql --since 0001 > upgrade.sql
    """
    click.echo(migrate.standalone(schema, revision, since), nl=False)


@click.command("version")
@json_option
@dsn_option
@schema_option
def version_command(dsn: str | None, schema: str, as_json: bool) -> None:
    """Print the versions of the package, of its schema, and of what is installed.

    \b
        $ pgq-py version

    With --json `installed` is null where nothing is, and "unknown" where the role may not see it.
    """
    from ..check import installed_version

    if not as_json:
        click.echo(f"pgq-py     {__version__}")
        click.echo(f"schema     {migrate.HEAD}")
    with migrate.connect(database(dsn)) as conn:
        found = installed_version(conn, schema)
    if as_json:
        click.echo(
            json_line(
                {"package": __version__, "schema": migrate.HEAD, "installed": "unknown" if found == "" else found}
            )
        )
    elif found is None:
        click.echo("installed  nothing: run pgq-py migrate")
    elif found == "":
        click.echo("installed  unknown: the role has no right on any queue")
    elif found == migrate.HEAD:
        click.echo(f"installed  {found}")
    else:
        remedy = "run pgq-py migrate" if found < migrate.HEAD else "run pip install --upgrade pgq-py"
        click.echo(f"installed  {found}, which does not fit: {remedy}")


@click.command("check")
@click.option("--strict", is_flag=True, help="Warnings count, too.")
@json_option
@dsn_option
@schema_option
def check_command(dsn: str | None, schema: str, strict: bool, as_json: bool) -> int | None:
    """Check whether all fits: server, schema and package, the role's rights, settings that hurt, health.

    \b
        $ pgq-py check
        $ pgq-py check --strict --json

    Exit code 4 if there is a problem; with --strict also if there is a warning.
    """
    from ..check import check

    found = check(database(dsn), schema)
    for one in found:
        if as_json:
            click.echo(json_line(asdict(one)))
            continue
        color = {"ok": "green", "warning": "yellow", "problem": "red"}[one.state]
        click.echo(f"{styled(one.state, color)}{' ' * (8 - len(one.state))} {one.what}: {one.detail}")
        if one.remedy:
            click.echo(f"         {one.remedy}")
    bad = {"problem", "warning"} if strict else {"problem"}
    return FINDINGS if any(one.state in bad for one in found) else None


def styled(text: str, color: str) -> str:
    """Coloured, unless NO_COLOR says otherwise. What is no terminal gets no colours from click."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=color)
