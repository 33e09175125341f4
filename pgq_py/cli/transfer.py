"""The commands that move a queue: to a file, and from it into another database."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO

import click
import psycopg

from .. import PQ, migrate
from ..errors import CommitUnknown, Error
from ..transfer import Header, read_line
from . import database, dsn_option, json_option, on_queues, queue_argument, say, schema_option
from .output import json_line, watched


@click.command("export")
@queue_argument
@click.option("--output", type=click.Path(path_type=Path), help="The file to write; by default stdout.")
@click.option("--take", is_flag=True, help="Also remove the jobs, when the file is safely on the disk. Takes --output.")
@dsn_option
@schema_option
def export_command(dsn: str | None, schema: str, queue: str, output: Path | None, take: bool) -> None:
    """Write a queue as JSON lines, for `import`: settings, jobs with all that is kept of them, dead jobs.

    It is what there is at one moment, and all stays where it is. With --take the jobs are removed in the same
    transaction, committed when the file is written and synced: so no job is lost, and none is in both places.

    To move a queue, pause it, let the leases end, and take:

    \b
        $ pgq-py pause apples
        $ pgq-py export apples --take --output apples.jsonl
        $ pgq-py import apples.jsonl --dsn postgresql://elsewhere/db

    --take leaves jobs that a consumer has at this moment, and those put meanwhile, and says how many there are: export
    again, into another file, and import that with --append. Without --take a leased job is in the file as one that
    waits for the end of its lease; if its consumer completes it, the copy will be done once more.

    The first line of the file names the queue, the last one tells how many jobs there are; each other line is a job,
    its data under data (JSON), text or bytes (base64). Ids are not kept by `import`.
    """
    if take and output is None:
        raise click.UsageError("--take takes --output FILE: what is taken must be safe before it is removed")
    with migrate.connect(database(dsn)) as conn:
        conn.autocommit = True
        if not take:
            conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        pq = PQ(conn, schema=schema)
        if output is None:
            with pq.transaction():
                _write(pq, queue, take, sys.stdout)
            return
        try:
            file = output.open("x", encoding="utf-8")
        except FileExistsError:
            raise click.ClickException(f"{output} is there already, and could be the only copy of its jobs") from None
        with file:
            _write_safely(pq, queue, take, file, output)
        if take and (left := pq[queue].count(scheduled=True)):
            say(f"{left} jobs stayed: others have them, or they were put meanwhile. Export them into another file")


def _write(pq: PQ, queue: str, take: bool, file: IO[str]) -> None:
    """All lines, in the transaction that is open."""
    lines: Iterable[str] = pq[queue].export_jobs(take=take)
    count = 0
    for line in lines if file.isatty() else watched(lines, "lines written"):
        file.write(line + "\n")
        count += 1
    file.flush()
    if count == 2:  # the first and the last
        say(f"There is no job in queue {queue!r}")


def _write_safely(pq: PQ, queue: str, take: bool, file: IO[str], path: Path) -> None:
    """In one transaction, committed when the file is on the disk.

    A file that is not whole, or whose jobs are still in the queue, does not stay.
    """
    is_only_copy = False
    unknown = f"Whether the jobs were removed can't be said: if they are still in the queue, {path} is a copy"
    try:
        with pq.transaction():
            _write(pq, queue, take, file)
            if take:
                _sync_folder(path)
                os.fsync(file.fileno())
                is_only_copy = True  # from here on it may be, until the commit is known to have failed
    except CommitUnknown as error:
        raise click.ClickException(f"{error} {unknown}") from error
    except BaseException as error:
        if is_only_copy and not isinstance(error, Error | psycopg.Error):  # Control-C
            say(unknown)
        else:
            path.unlink()
        raise


def _sync_folder(path: Path) -> None:
    """Make sure that the file's name outlives a crash, too."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@click.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
@click.option("--queue", help="The queue to import into; by default the one the file is of.")
@click.option("--append", is_flag=True, help="Add to a queue that was used before.")
@json_option
@on_queues
def import_command(pq: PQ, file: IO[str], queue: str | None, append: bool, as_json: bool) -> None:
    """Read what `export` wrote, from a file or from stdin (-): all of it, or nothing.

    \b
        $ pgq-py import apples.jsonl
        $ pgq-py export apples --dsn $OLD | pgq-py import - --dsn $NEW
        $ pgq-py import apples.jsonl --queue pears --append

    The jobs get new ids, and keep all else: times, priorities, attempts, keys, headers, data, and what the dead have.
    A queue that has no settings gets those of the file; a pause is not imported.

    A queue that was ever used is refused, unless --append says otherwise: so when it is not known whether an import
    was done, it can be repeated. With --append, jobs whose dedupe key is in the queue already are left out, and others
    would be there twice. A file that is not whole is refused.
    """
    try:
        lines, first = _begin(file)
        name = queue if queue is not None else first.queue
        moved = pq[name].import_jobs(watched(lines, "lines read"), append=append)
    except psycopg.errors.ObjectNotInPrerequisiteState:
        raise click.ClickException(
            f"the queue {name!r} has been used: what is in the file could be there already. --append adds to it"
        ) from None
    except UnicodeDecodeError:
        raise click.ClickException(f"{file.name} is not UTF-8") from None
    if as_json:
        click.echo(json_line({"queue": name, **moved._asdict()}))
    else:
        there = f"; {moved.skipped} were there already" if moved.skipped else ""
        say(f"{moved.jobs} jobs imported into {name!r}, {moved.dead} of them dead{there}")


def _begin(file: IO[str]) -> tuple[Iterable[str], Header]:
    """All lines, and what the first one says."""
    lines: Iterator[str] = iter(file)
    first = next(lines, "")
    if not first:
        raise click.ClickException("there is nothing to import: the input is empty")
    header = read_line(first, 1)
    if not isinstance(header, Header):
        raise click.ClickException(f"{file.name} does not begin as an export does")
    return chain([first], lines), header
