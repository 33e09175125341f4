"""The command `pgq-py`: which commands there are, where they find their database, and how they fail.

A command is in the module that COMMANDS names, under the name NAME_command. The module is imported when the
command is run, and for its help: on its top level it imports nothing large.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import wraps
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

OK, FAILED, USAGE, NOTHING, FINDINGS, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 4, 130, 141
"""The exit codes. A command gives one by returning it."""

EXIT_CODES = {
    OK: "done",
    FAILED: "an error, said in a line on stderr",
    USAGE: "called with wrong arguments; or something would be destroyed, and --yes is missing",
    NOTHING: "there was nothing: no job to get or to peek at, nothing of that name or number",
    FINDINGS: "`check` or `health` found something",
    INTERRUPTED: "Control-C",
    BROKEN_PIPE: "nobody reads the output any more, as in `pgq-py list apples | head`",
}

# The commands by subject, as the help lists them; for each its module here.
COMMANDS = {
    "Jobs": {
        "put": "put",
        "get": "jobs",
        "peek": "jobs",
        "list": "jobs",
        "count": "jobs",
        "cancel": "jobs",
        "dead": "dead",
        "work": "work",
    },
    "Queues": {
        "stats": "stats",
        "create": "queues",
        "configure": "queues",
        "settings": "queues",
        "pause": "queues",
        "resume": "queues",
        "clear": "queues",
        "drop": "queues",
        "export": "transfer",
        "import": "transfer",
    },
    "Rights": {
        "grant": "rights",
        "revoke": "rights",
        "rights": "rights",
    },
    "The database": {
        "migrate": "schema",
        "sql": "schema",
        "version": "schema",
        "check": "schema",
        "health": "operation",
        "maintain": "operation",
        "metrics": "metrics",
        "bench": "bench",
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
        """The commands by subject, and the exit codes."""
        for subject, names in COMMANDS.items():
            with formatter.section(subject):
                commands = [(name, self.get_command(ctx, name)) for name in names]
                formatter.write_dl([(name, command.get_short_help_str(100)) for name, command in commands if command])
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Click would make a broken pipe an error."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            return BROKEN_PIPE

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
        open_streams()
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted", err=True)
            code = INTERRUPTED
        except BrokenPipeError:  # by the flush
            code = BROKEN_PIPE
        except (Error, psycopg.Error, OSError) as error:
            click.echo(f"Error: {one_line(error)}", err=True)
            code = FAILED
        except Exception as error:
            if os.environ.get("PGQ_PY_TRACEBACK"):
                raise
            click.echo(f"Error: {type(error).__name__}: {one_line(error)} (PGQ_PY_TRACEBACK=1 tells more)", err=True)
            code = FAILED
        leave(code or OK)


def open_streams() -> None:
    """Give a process the streams that its caller closed, so that no connection takes their numbers.

    To write to a closed stdout is an error, as in other commands, so that no job is taken that nobody sees.
    """
    modes = {"stdin": ("r", os.O_RDONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    for name, (mode, flags) in modes.items():
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def one_line(error: BaseException) -> str:
    """What an error says, in a line."""
    return " ".join(str(error).split())


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
    "--schema",
    default="public",
    show_default=True,
    envvar="PGQ_PY_SCHEMA",
    help="Where the queue is, or shall be, installed; PGQ_PY_SCHEMA names it, too.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON: an object a line.")
yes_option = click.option("--yes", is_flag=True, help="Don't ask. Needed where there is no terminal to ask on.")


def on_queues(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options for the database; it is called with the PQ first."""

    @dsn_option
    @schema_option
    @wraps(function)
    def run(dsn: str | None, schema: str, **given: Any) -> Any:
        with opened(dsn, schema) as pq:
            return function(pq, **given)

    return run


def complete_queue(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of queues for the shell, of a database that is named and answers at once; else none."""
    from psycopg.conninfo import make_conninfo

    from .. import PQ

    named = migrate.named_dsn(ctx.params.get("dsn"))
    try:
        if named is None:
            return []
        with PQ(make_conninfo(named, connect_timeout=2), schema=ctx.params.get("schema") or "public") as pq:
            return [stats.queue for stats in pq.stats() if stats.queue.startswith(incomplete)]
    except (Error, psycopg.Error):
        return []


queue_argument = click.argument("queue", shell_complete=complete_queue)


def say(text: str) -> None:
    """A word to the user, on stderr: it is no data."""
    click.echo(text, err=True)


def confirm(question: str, yes: bool) -> None:
    """Go on only if the user has said so, or says so now.

    Raises:
        click.UsageError: there is no terminal to ask on.
        click.ClickException: the answer was no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError(f"{question} There is no terminal to ask on: say --yes")
    if not click.confirm(question, err=True):
        raise click.ClickException("nothing was done")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def main() -> None:
    """A queue that lives in PostgreSQL.

    \b
        $ pgq-py migrate
        $ pgq-py put apples '{"kind": "Cox"}' --in 5m
        $ pgq-py stats
        $ pgq-py get apples

    `pgq-py COMMAND --help` explains a command, with examples. What is asked for comes on stdout, all else on
    stderr; what reads takes --json, which prints an object a line.

    The database is named by --dsn, PGQ_PY_DSN, DATABASE_URL, or PGHOST and so on, in this order; with none of
    them, a server of our own is started. The commands complete in bash, zsh and fish; for bash, in ~/.bashrc:

    \b
        eval "$(_PGQ_PY_COMPLETE=bash_source pgq-py)"

    NO_COLOR, and an output that is no terminal, mean no colours.
    """
