"""The command that works."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

import click

from . import FAILED, USAGE, database, dsn_option, schema_option
from .options import ParamType

_SIZE = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)


class Size(ParamType):
    """A number of bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """512M means 512 * 2**20 bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is no size: write 512M or 2G, for example")
        return int(match[1]) << 10 * " kmgt".index(match[2].lower() or " ")


def _seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> str | float | None:
    """A length of time: a number is of seconds."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value


@click.command("work")
@click.argument("target", metavar="MODULE[:NAME]")
@click.option(
    "--queue",
    "-q",
    "queues",
    multiple=True,
    metavar="NAME[=WEIGHT]",
    help="A queue to take from; may be repeated. Of mail=3 and reports=1 mail has three of four turns while both have "
    "jobs. By default the queues of the module's tasks.",
)
@click.option("--strict", is_flag=True, help="The first queue goes first as long as it has jobs.")
@click.option("--concurrency", "-c", type=click.IntRange(1), default=8, show_default=True, help="Jobs at a time.")
@click.option(
    "--prefetch",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Jobs leased ahead at most; fewer if they are slow.",
)
@click.option(
    "--lease-for",
    metavar="TIME",
    callback=_seconds,
    help="How long a job stays away if the worker dies: 30s, 5m. By default as the queue says.",
)
@click.option(
    "--grace",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long what runs may take to end, after SIGTERM.",
)
@click.option("--burst", is_flag=True, help="End when nothing is left that can be done now.")
@click.option("--max-jobs", type=click.IntRange(1), help="End after so many jobs, each process for itself.")
@click.option(
    "--max-memory", type=Size(), help="A process with more than this in memory is replaced by another: 512M, 2G."
)
@click.option("--processes", "-p", type=click.IntRange(1), default=1, show_default=True, help="Each a whole worker.")
@click.option("--reload", is_flag=True, help="Start again when a file of the code has changed. For development.")
@click.option(
    "--health-port",
    type=click.IntRange(0, 65535),
    help="Answer GET /live and /ready there. With several processes, the ports from there on.",
)
@click.option("--health-host", metavar="HOST", default="127.0.0.1", show_default=True, help="The address to answer on.")
@click.option(
    "--consumer",
    metavar="NAME",
    help="A name for this worker, seen with the jobs it holds. By default host and process.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="What to tell on stderr, unless the code sets up a log of its own.",
)
@click.option("--log-json", is_flag=True, help="A line of JSON for each record.")
@dsn_option
@schema_option
def work_command(
    target: str, processes: int, reload: bool, max_memory: int | None, grace: float, log_level: str, log_json: bool,
    **options: Any,
) -> int:  # fmt: skip
    """Take jobs and do them: run the tasks of a module.

    MODULE is imported from here or where Python looks; the PQ in it has the tasks. MODULE:NAME is a PQ in it, or a
    function that is called with each job.

    SIGTERM and Control-C stop it: what runs may end within --grace, the rest goes back. A second one returns all
    at once.

    \b
        $ pgq-py work app.tasks
        $ pgq-py work app.tasks --queue mail=3 --queue reports --concurrency 20
        $ pgq-py work app.mail:send --queue mail --processes 4
    """
    from .. import supervisor
    from ..work import log_to_stderr, stoppable

    is_child = supervisor.PARENT in os.environ
    log = log_level.upper(), log_json
    if not is_child and (processes > 1 or reload or max_memory is not None):
        log_to_stderr(*log)
        command = supervisor.this_command(sys.argv[1:])
        pause = supervisor.RELOAD_LAST if reload else supervisor.RETRY_LAST
        return supervisor.Supervisor(command, processes, grace, pause).run()
    with stoppable():
        supervisor.end_with_parent()
        return _work(target, reload, log, {"max_memory": max_memory, "grace": grace, **options})


def _work(target: str, reload: bool, log: tuple[str, bool], options: dict[str, Any]) -> int:
    from .. import supervisor, work

    host, port = options.pop("health_host"), options.pop("health_port")
    if port:
        port += int(os.environ.get("PGQ_PY_NUMBER", 0))
    try:
        worker = _worker(target, **options)
    except (work.NotFound, ValueError, TypeError) as error:
        click.echo(f"Error: {error}", err=True)
        return USAGE
    except work.Broken as error:
        click.echo(f"{error}Error: {target} can't be imported", err=True)
        if reload:
            work.await_change(error)
            return supervisor.AGAIN
        return FAILED
    work.log_to_stderr(*log)
    return work.run(worker, health=None if port is None else (host, port), reload=reload)


def _worker(target: str, queues: tuple[str, ...], dsn: str | None, schema: str, **options: Any) -> Any:
    import inspect

    from .. import PQ, AsyncPQ, AsyncWorker, Worker, work

    pq, handler = work.load(target)
    if pq is None:
        kind = AsyncPQ if inspect.iscoroutinefunction(handler) else PQ
        pq = kind(database(dsn), schema=schema)
    else:
        source = click.get_current_context().get_parameter_source
        for name in ("dsn", "schema"):
            if source(name) == click.core.ParameterSource.COMMANDLINE:
                raise click.UsageError(
                    f"--{name} says where to work, and so does the PQ in {target}: leave one of them out"
                )
    make: Any = AsyncWorker if isinstance(pq, AsyncPQ) else Worker
    return make(pq, work.queues_for(pq, queues), handler=handler, **options)
