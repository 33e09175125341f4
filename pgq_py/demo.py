"""`pgq-py demo`: a job for every file of Python's standard library, done by processes of which one is killed.

Every result is stored in the transaction that takes its job. So, at the end, the table of results
has to be what a plain walk over the same files gives, killed worker or not; `main` compares the two.
"""

from __future__ import annotations

import ast
import hashlib
import multiprocessing
import os
import signal
import sys
import sysconfig
import warnings
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import namedtuple_row

from . import PQ, Queue, resources
from . import migrate as migrations

SCHEMA = "pgq_py_demo"
QUEUE = "stdlib"
TABLE = f"{SCHEMA}.stdlib_file"
QUERY = f"select path, lines, imports, worker from {TABLE} order by lines desc limit 9"
WORKERS = 4
DELAY = timedelta(seconds=1)
PRIORITY = 10
# Without any progress for this long, something is broken.
PATIENCE = 30

# No unique constraint on the path: a file that is done twice shall be seen, not prevented.
CREATE_TABLE = f"""
    drop table if exists {TABLE};
    create table {TABLE} (
        path text not null,
        sha256 text not null,
        lines integer not null,
        imports text[] not null,
        unreadable text,
        job bigint not null,
        priority integer not null,
        enqueued_at timestamptz not null,
        schedule_at timestamptz,
        begun_at timestamptz not null,
        taken_at timestamptz not null,
        worker integer not null
    );
    comment on column {TABLE}.unreadable is 'why Python''s parser refuses the file; some are meant to be refused';
    comment on column {TABLE}.begun_at is 'when the transaction that took the job began';
"""
INSERT = f"insert into {TABLE} values ({', '.join(['%s'] * 9)}, now(), %s, %s)"

# A worker's session that is in a transaction and holds a job: the row it deleted, not yet for good.
HELD_JOB = f"""
    select a.state, j.data->>'path' as path
    from pg_stat_activity a
    left join {SCHEMA}.queue_job j on j.queue = %s and j.xmax = a.backend_xid
    where a.application_name = %s and a.datname = current_database()
    order by j.id
"""


class DemoError(Exception):
    """The demo can't go on, or found a difference."""


class Findings(NamedTuple):
    """What is worked out about a file."""

    sha256: str
    lines: int
    imports: list[str]
    unreadable: str | None


@dataclass
class Run:
    """What `main` has to know of a run to judge it."""

    root: Path
    paths: list[str]
    seconds: float = 0.0
    victim: int = 0
    """The number of the worker that was killed."""
    held: str = ""
    """The path of the job it held."""
    workers: dict[int, BaseProcess] = field(default_factory=dict)


def library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def source_files(root: Path, limit: int | None = None) -> list[str]:
    """The paths of its Python files, relative to it; of what others installed into it, none."""
    others = {"site-packages", "dist-packages"}
    paths = (path.relative_to(root) for path in root.rglob("*.py"))
    found = sorted(str(path) for path in paths if not others & set(path.parts) and (root / path).is_file())
    # With a limit, files from all over the library.
    return found if limit is None else found[:: max(1, len(found) // limit)][:limit]


def examine(path: Path) -> Findings:
    """SHA-256, number of lines and imported modules of a file."""
    data = path.read_bytes()
    imports, unreadable = [], None
    try:
        with warnings.catch_warnings():
            # The library's own tests are full of doubtful escapes.
            warnings.simplefilter("ignore")
            imports = imported(ast.parse(data))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        unreadable = type(error).__name__
    return Findings(hashlib.sha256(data).hexdigest(), len(data.splitlines()), imports, unreadable)


def imported(tree: ast.AST) -> list[str]:
    """The names of the modules that a program imports anywhere, relative ones with their dots."""
    names: set[str] = set()
    for node in statements(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return sorted(names)


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """The statements within a node, at any depth. Expressions hold none, and are most of a tree."""
    for block in ("body", "orelse", "finalbody", "handlers", "cases"):
        for statement in getattr(node, block, ()):
            yield statement
            yield from statements(statement)


# The workers. Each is a process of its own, with a connection of its own.


def work(dsn: str, root: Path, number: int, begun: bool) -> None:
    """Do jobs until none is left; a job that another worker holds still counts as left.

    Unless the run has begun, the jobs are still to come.
    """
    with PQ(make_conninfo(dsn, application_name=worker_name(number)), schema=SCHEMA) as pq:
        queue = pq[QUEUE]
        while not begun or queue.count(scheduled=True):
            begun = work_off(queue, root, number) or begun


def work_off(queue: Queue, root: Path, number: int) -> bool:
    """Do jobs until none comes for a moment; False if there were none."""
    for count in range(sys.maxsize):
        # `take` waits outside of any transaction, and opens one for the job it found.
        with queue.take(timeout=0.2) as job:
            if job is None:
                return count > 0
            # In it, `with queue` gives a cursor on the same connection: one commit for both.
            with queue as cursor:
                cursor.execute("select clock_timestamp()")
                (taken_at,) = cursor.fetchone() or (None,)
                found = examine(root / job.data["path"])
                about = (job.id, job.priority, job.enqueued_at, job.schedule_at, taken_at, number)
                cursor.execute(INSERT, (job.data["path"], *found, *about))
    raise AssertionError("the range has no end")


def worker_name(number: int) -> str:
    """Of a worker's session: how the server, and we, tell them apart."""
    return f"pgq-py demo, worker {number}"


@contextmanager
def running_workers(dsn: str, run: Run) -> Iterator[Callable[[], None]]:
    """Workers that are ready for jobs; gives a function that starts one more."""

    def start() -> None:
        number = len(run.workers) + 1
        process = multiprocessing.get_context("spawn").Process(
            target=work, args=(dsn, run.root, number, number > WORKERS), name=worker_name(number), daemon=True
        )
        process.start()
        run.workers[number] = process

    for _ in range(WORKERS):
        start()
    try:
        yield start
    finally:
        for process in run.workers.values():
            process.kill()
            process.join()


def wait_until_ready(conn: psycopg.Connection[Any], run: Run) -> None:
    """Wait until every worker has connected: starting Python is not what the demo measures."""
    wanted = {worker_name(number) for number in run.workers}
    until = monotonic() + PATIENCE
    while wanted - {row[0] for row in conn.execute("select application_name from pg_stat_activity")}:
        refuse_dead(run)
        if monotonic() > until:
            raise DemoError(f"the workers did not connect within {PATIENCE} seconds")
        sleep(0.02)


def refuse_dead(run: Run) -> None:
    """Raises `DemoError` if a worker failed that we did not kill."""
    for number, process in run.workers.items():
        if process.exitcode and number != run.victim:
            raise DemoError(f"worker {number} ended with exit code {process.exitcode}")


# The run.


def put_all(queue: Queue, paths: list[str]) -> None:
    """One job for each file, all in one transaction: some a second ahead, some of higher priority."""
    jobs = [{"path": path} for path in paths]
    with queue:
        queue.put_many(jobs[0::10], schedule_at=DELAY)
        queue.put_many(jobs[1::10], priority=PRIORITY)
        queue.put_many(job for n, job in enumerate(jobs) if n % 10 > 1)


def kill_one(conn: psycopg.Connection[Any], run: Run) -> bool:
    """Kill a worker with SIGKILL while it is in a transaction that has taken a job; False if none was.

    To be sure of that, the worker is stopped first: a stopped one does not commit behind our back.
    """
    for number, process in run.workers.items():
        if process.pid is None or not process.is_alive():
            continue
        os.kill(process.pid, signal.SIGSTOP)
        sleep(0.02)
        state, path = next(iter(conn.execute(HELD_JOB, (QUEUE, worker_name(number)))), ("gone", None))
        if state == "idle in transaction" and path is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            run.victim, run.held = number, path
            return True
        os.kill(process.pid, signal.SIGCONT)
    return False


def watch(conn: psycopg.Connection[Any], run: Run, start: Callable[[], None], show: Callable[[int, str], None]) -> None:
    """Wait until every job is done; half-way, kill a worker and start another one."""
    done, moved = 0, monotonic()
    queue_left = f"select (select count(*) from {TABLE}), {SCHEMA}.queue_count(%s, scheduled => true)"
    while True:
        before = done
        done, left = conn.execute(queue_left, (QUEUE,)).fetchone() or (0, 0)
        show(done, "")
        if not left:
            return
        refuse_dead(run)
        if done >= len(run.paths) / 2 and not run.victim and kill_one(conn, run):
            show(done, f"Worker {run.victim} killed (SIGKILL) in the middle of {run.held}; another one takes its place")
            start()
        moved = monotonic() if done > before else moved
        if monotonic() - moved > PATIENCE:
            raise DemoError(f"nothing was done for {PATIENCE} seconds; {left} jobs are left")
        sleep(0.03)


@contextmanager
def progress(total: int) -> Iterator[Callable[[int, str], None]]:
    """A function that shows how far it is: a bar on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        yield lines_of_progress(total)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("Files"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("", total=total)

        def show(done: int, message: str) -> None:
            bar.update(task, completed=done)
            if message:
                bar.console.print(message, highlight=False, markup=False)

        yield show


def lines_of_progress(total: int) -> Callable[[int, str], None]:
    """A function that prints a line for each quarter."""
    quarters = iter(range(1, 5))
    following = next(quarters)

    def show(done: int, message: str) -> None:
        nonlocal following
        if message:
            print(message, flush=True)
        while following and done * 4 >= following * total:
            print(f"{following * total // 4} of {total} files done", flush=True)
            following = next(quarters, 0)

    return show


# The judgement.


def differences(conn: psycopg.Connection[Any], run: Run) -> Iterator[str]:
    """Everything in which the table is not what it should be, a sentence each."""
    cursor = conn.cursor(row_factory=namedtuple_row)
    rows: list[Any] = list(cursor.execute(f"select * from {TABLE} order by taken_at"))
    yield from wrong_files(rows, run)
    yield from wrong_times(rows)
    yield from wrong_order(rows, run)
    if not run.victim:
        yield "no worker could be killed inside a transaction: the run was too short"
    elif any(row.path == run.held and row.worker == run.victim for row in rows):
        yield f"{run.held} was stored by worker {run.victim}, which was killed before its commit"


def wrong_files(rows: list[Any], run: Run) -> Iterator[str]:
    """Every file once, and about each what a plain walk finds."""
    counts = Counter(row.path for row in rows)
    yield from (f"{path} is missing" for path in run.paths if not counts[path])
    yield from (f"{path} was done {count} times" for path, count in counts.items() if count > 1)
    yield from (f"{path} was never put" for path in counts.keys() - set(run.paths))
    expected = {path: examine(run.root / path) for path in run.paths}
    for row in rows:
        stored = Findings(row.sha256, row.lines, row.imports, row.unreadable)
        for name, here, there in zip(Findings._fields, stored, expected.get(row.path, stored), strict=True):
            if here != there:
                yield f"{row.path}: {name} is {here} in the table, {there} in the walk"


def wrong_times(rows: list[Any]) -> Iterator[str]:
    """No scheduled job before its time."""
    if not any(row.schedule_at for row in rows):
        yield "no job was scheduled"
    for row in rows:
        if row.schedule_at is not None and row.taken_at < row.schedule_at:
            yield f"{row.path} was taken {row.schedule_at - row.taken_at} before its time"


def wrong_order(rows: list[Any], run: Run) -> Iterator[str]:
    """Nobody had taken an ordinary job before a transaction began that then got one of high priority.

    Not judged: the job that came back from the killed worker, which was not there to be taken.
    """
    high = [row.begun_at for row in rows if row.priority == PRIORITY and row.path != run.held]
    for row in rows:
        if high and row.priority == 0 and row.taken_at < max(high):
            yield f"{row.path} was taken before files of higher priority"


def report(conn: psycopg.Connection[Any], run: Run) -> None:
    """The figures of a run, and where to look further."""
    [row] = conn.execute(
        f"""
        select percentile_cont(array[0.5, 0.99]) within group (
            order by extract(epoch from taken_at - greatest(enqueued_at, schedule_at)))
        from {TABLE}
        """
    ).fetchall()
    half, most = row[0]
    total = len(run.paths)
    print(f"{total} files done in {run.seconds:.1f} s by {WORKERS} workers: {total / run.seconds:.0f} jobs per second")
    print(f"From put (or from being due) to taken: p50 {half:.3f} s, p99 {most:.3f} s, most of it waiting in line,")
    print("as all jobs are put at once.")


def main(dsn: str, limit: int | None = None) -> int:
    """Run the demo in a database; the exit code.

    Args:
        dsn: of the database. The queue is installed into a schema of its own, `pgq_py_demo`.
        limit: take so many files only.
    """
    run = Run(library(), source_files(library(), limit))
    try:
        with psycopg.connect(dsn, autocommit=True, application_name="pgq-py demo") as conn:
            hold_alone(conn)
            migrate(dsn)
            perform(conn, dsn, run)
            print("Comparing with a plain walk over the same files ...", flush=True)
            wrong = list(differences(conn, run))
            report(conn, run)
    except DemoError as error:
        wrong = [str(error)]
    for sentence in wrong[:10]:
        print(f"Difference: {sentence}", file=sys.stderr)
    if wrong:
        print(f"The demo failed: {len(wrong)} differences.", file=sys.stderr)
        return 1
    print("Every file exactly once, and the table equals the walk.")
    print(f"The results stay in the table {TABLE}. To look at them, here or with psql:")
    print(f"    {sys.executable} -m pgq_py.demo '{QUERY}'")
    return 0


def look(query: str) -> None:
    """Print what a query gives in the database that the environment names, or that of the embedded server."""
    dsn = migrations.named_dsn()
    if dsn is None:
        from .embedded import start

        dsn = start()
    with psycopg.connect(dsn) as conn:
        for row in conn.execute(query.encode()):
            print(*row, sep=" | ")


def migrate(dsn: str) -> None:
    """Install the queue with alembic, as `alembic -x schema=... upgrade head` does."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(resources.migrations()).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    with psycopg.connect(dsn, autocommit=True) as conn:
        # The demo's own. Before a release the same version may come with other functions.
        conn.execute(f"drop schema if exists {SCHEMA} cascade")
    config.cmd_opts = Namespace(x=[f"dsn={dsn}", f"schema={SCHEMA}"])
    command.upgrade(config, "head")
    print(f"Migrated the schema {SCHEMA} with alembic")


def hold_alone(conn: psycopg.Connection[Any]) -> None:
    """Refuse to run twice at once in a database: both would use the same table."""
    if conn.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", (SCHEMA,)).fetchone() != (True,):
        raise DemoError("another demo is running in this database: wait for its end")


def perform(conn: psycopg.Connection[Any], dsn: str, run: Run) -> None:
    """The run itself: from an empty table to one with every file."""
    conn.execute(CREATE_TABLE)
    queue = PQ(conn, schema=SCHEMA)[QUEUE]
    queue.drop()
    with running_workers(dsn, run) as start:
        wait_until_ready(conn, run)
        put_all(queue, run.paths)
        began = monotonic()
        print(f"Put {len(run.paths)} jobs in one transaction; {WORKERS} workers take them", flush=True)
        with progress(len(run.paths)) as show:
            watch(conn, run, start, show)
        run.seconds = monotonic() - began
        for number, process in run.workers.items():
            process.join(PATIENCE)
            if process.is_alive():
                raise DemoError(f"worker {number} does not end, though no job is left")
        refuse_dead(run)


if __name__ == "__main__":
    look(sys.argv[1] if len(sys.argv) > 1 else QUERY)
