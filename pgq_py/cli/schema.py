"""The commands about the schema: to install it, to print it, to tell its version."""

from __future__ import annotations

from collections.abc import Callable

import click
import psycopg
from psycopg import sql

from .. import __version__, migrate
from . import database, dsn_option, schema_option


@click.command("migrate")
@dsn_option
@schema_option
@click.option("--revision", help="The version to go to; by default the newest.")
@click.option("--down", is_flag=True, help="Go back. --revision base removes the queue and all its jobs.")
def migrate_command(dsn: str | None, schema: str, revision: str | None, down: bool) -> None:
    """Install the queue, or bring it to another version."""
    if down and revision is None:
        raise click.UsageError("--down needs to know how far: --revision base removes the queue and all its jobs")
    where = database(dsn)
    move: Callable[[str, str, str], None] = migrate.downgrade if down else migrate.upgrade
    move(where, schema, revision or "head")
    version = migrate.current(where, schema)
    click.echo(f"schema {schema}: " + (f"the queue at version {version}" if version else "no queue"))


@click.command("sql")
@schema_option
@click.option("--revision", default="head", show_default=True, help="The version to go to.")
@click.option("--since", default=migrate.BASE, show_default=True, help="The version that is there.")
def sql_command(schema: str, revision: str, since: str) -> None:
    """Print what `migrate` would run, as a script for psql. Needs no database."""
    click.echo(migrate.standalone(schema, revision, since), nl=False)


@click.command("version")
@dsn_option
@schema_option
def version_command(dsn: str | None, schema: str) -> None:
    """Print the versions of the package, of its schema, and of what is installed."""
    click.echo(f"pgq-py     {__version__}")
    click.echo(f"schema     {migrate.HEAD}")
    with migrate.connect(database(dsn)) as conn:
        call = sql.SQL("select {}()").format(sql.Identifier(schema, "queue_version"))
        try:
            row = conn.execute(call).fetchone()
        except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
            row = None
    click.echo(f"installed  {row[0]}" if row else "installed  nothing: run pgq-py migrate")
