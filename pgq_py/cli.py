"""The command `pgq-py`. Each command finds its database in the same way; see `database`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from . import __version__, embedded, migrate
from .errors import Error

try:
    import click
except ImportError:
    raise SystemExit("pgq-py: the command line needs click: pip install 'pgq-py[cli]'") from None


class Commands(click.Group):
    """The commands. What a user can put right is said in one line, without a traceback; exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that the user named."""
        try:
            return super().invoke(ctx)
        except (Error, psycopg.Error, OSError) as error:
            raise click.ClickException(" ".join(str(error).split())) from error


def database(dsn: str | None) -> str:
    """The DSN to use: --dsn, PGQ_PY_DSN, DATABASE_URL, libpq's PG*; with none of them, the embedded server.

    Raises EmbeddedError if it has to be the embedded server, and that can't be had.
    """
    named = migrate.named_dsn(dsn)
    return embedded.start() if named is None else named


dsn_option = click.option(
    "--dsn",
    metavar="DSN",
    help="The database, as postgresql://… or key=value pairs. Otherwise PGQ_PY_DSN, DATABASE_URL or "
    "PGHOST and so on name it; with none of them, a server of our own is started.",
)
schema_option = click.option(
    "--schema", default="public", show_default=True, help="Where the queue is, or shall be, installed."
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """A queue that lives in PostgreSQL."""


@main.command("migrate")
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


@main.command("sql")
@schema_option
@click.option("--revision", default="head", show_default=True, help="The version to go to.")
@click.option("--since", default=migrate.BASE, show_default=True, help="The version that is there.")
def sql_command(schema: str, revision: str, since: str) -> None:
    """Print what `migrate` would run, as a script for psql. Needs no database."""
    click.echo(migrate.standalone(schema, revision, since), nl=False)


@main.command("version")
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


@main.command("demo")
@dsn_option
@click.pass_context
def demo_command(ctx: click.Context, dsn: str | None) -> None:
    """Do real work, end to end: a job for each file of Python's standard library."""
    from . import demo

    ctx.exit(demo.main(database(dsn)))
