"""The command `pgq-py`: which commands there are, where they find their database, and how they fail.

A command is in the module that COMMANDS names, under the name NAME_command. The module is imported when the
command is run, and for its help: on its top level it imports nothing large.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

import psycopg

from .. import migrate
from ..errors import Error

try:
    import click
except ImportError:
    raise SystemExit("pgq-py: the command line needs click: pip install 'pgq-py[cli]'") from None

if TYPE_CHECKING:
    from .. import PQ

OK, FAILED, USAGE, EMPTY, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 130, 141
"""The exit codes. A command gives one by returning it, or by `ctx.exit`."""

# The commands by subject, as the help lists them; for each its module here.
COMMANDS = {
    "The schema": {
        "migrate": "schema",
        "sql": "schema",
        "version": "schema",
    },
    "To work": {
        "work": "work",
        "metrics": "metrics",
    },
    "To see it work": {
        "demo": "demo",
    },
}


class Commands(click.Group):
    """The commands, each imported when it is needed. Errors are said in a line, without a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, as the help lists them."""
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, if there is one."""
        for names in COMMANDS.values():
            if cmd_name in names:
                command = getattr(import_module(f"{__name__}.{names[cmd_name]}"), f"{cmd_name}_command")
                assert isinstance(command, click.Command)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands by subject."""
        for subject, names in COMMANDS.items():
            with formatter.section(subject):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(name, command.get_short_help_str(80)) for name, command in commands if command])

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run the command that the user named, and exit."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:
            code = BROKEN_PIPE
        except (Error, psycopg.Error, OSError) as error:
            click.echo("Error: " + " ".join(str(error).split()), err=True)
            code = FAILED
        leave(code or OK)


def leave(code: int) -> NoReturn:
    """Exit, without a word about output that nobody reads any more."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            # Python would flush once more at its end, and say that it failed.
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(code)


def database(dsn: str | None) -> str:
    """The DSN to use: --dsn, PGQ_PY_DSN, DATABASE_URL, libpq's PG*; with none of them, the embedded server.

    Raises EmbeddedError if it has to be the embedded server, and that can't be had.
    """
    named = migrate.named_dsn(dsn)
    if named is not None:
        return named
    from ..embedded import start

    return start()


def opened(dsn: str | None, schema: str) -> PQ:
    """The queues there. To be used as `with opened(dsn, schema) as pq:`."""
    from .. import PQ

    return PQ(database(dsn), schema=schema)


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
