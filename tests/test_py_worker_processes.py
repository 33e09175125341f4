"""`pgq-py work` as processes: signals, crashes, several of them, and what a service manager sees."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import signal
import socket
import subprocess
import sys
import termios
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest
from conftest import ROOT
from working import wait_for
from worlds import PATIENCE

from pgq_py import PQ, health, supervisor
from pgq_py._sync.feeder import RAN_OUT
from pgq_py._sync.listener import POLL

TESTS = Path(__file__).parent
APPS = ["worker_app", "worker_app_async"]
# How often a worker is stopped at a random moment: WORKER_STOPS=50 make test args="-k random_moment" says more.
STOPS = int(os.environ.get("WORKER_STOPS", "3"))
GRACE = 10.0


class Process:
    """A `pgq-py work`."""

    def __init__(self, folder: Path, dsn: str, args: tuple[str, ...], env: dict[str, str], **options: Any) -> None:
        self.log_file = folder / f"log {random.getrandbits(64):x}"
        with self.log_file.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgq_py.cli", "work", *args],
                env=os.environ | {"TEST_DSN": dsn, "PYTHONPATH": f"{ROOT}:{TESTS}"} | env,
                cwd=folder,
                stderr=log,
                **options,
            )

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def wait_for(self, text: str) -> None:
        """Until its log says so."""
        wait_for(lambda: text in self.log or self.process.poll() is not None, repr(text))
        assert text in self.log, self.log

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.log) from None

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.end()


class Processes:
    def __init__(self, folder: Path, dsn: str) -> None:
        self._folder, self._dsn = folder, dsn
        self._started: list[Process] = []

    def __call__(self, *args: str, **env: str) -> Process:
        self._started.append(Process(self._folder, self._dsn, args, env))
        return self._started[-1]

    def in_terminal(self, *args: str) -> tuple[Process, Callable[[], None]]:
        """In a session whose terminal is closed by what this gives."""
        ours, theirs = pty.openpty()
        process = Process(
            self._folder, self._dsn, args, {}, stdin=theirs, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self._started.append(process)
        os.close(theirs)
        return process, lambda: os.close(ours)

    def close(self) -> None:
        for started in self._started:
            started.process.kill()
            started.process.wait()


@pytest.fixture
def work(database: Any, tmp_path: Path) -> Iterator[Processes]:
    """Starts `pgq-py work` with these arguments."""
    processes = Processes(tmp_path, database.dsn)
    yield processes
    processes.close()


@pytest.fixture
def queue(database: Any) -> Iterator[Any]:
    with PQ(database.dsn) as pq:
        yield pq["apples"]


@pytest.fixture
def ledger(conn: psycopg.Connection[Any]) -> Any:
    """What was done: rows of id, process and what, in their order."""
    conn.execute("create table ledger (id bigint, pid int, what text)")

    def read(what: str = "done") -> list[Any]:
        return conn.execute("select id, pid from ledger where what = %s order by ctid", [what]).fetchall()

    return read


def notes(count: int, seconds: float = 0) -> list[Any]:
    return [{"task": "note", "args": [seconds] if seconds else []} for _ in range(count)]


def account(conn: Any, ledger: Any, ids: list[int]) -> tuple[int, int]:
    """Each job was done once and is gone, or is back as if it had not been taken. Gives how many of each."""
    done = Counter(id for id, _ in ledger())
    left = conn.execute("select id, attempts, receipt is null from queue_job").fetchall()
    assert set(done.values()) <= {1}
    assert {row[1:] for row in left} <= {(0, True)}
    assert sorted(done) + sorted(row[0] for row in left) == sorted(ids) or {*done, *(row[0] for row in left)} == {*ids}
    assert len(done) + len(left) == len(ids)
    return len(done), len(left)


# Signals.


@pytest.mark.parametrize("app", APPS)
def test_stopped_at_a_random_moment_each_job_is_done_once_or_back_uncounted(work, queue, conn, ledger, app):
    stopped_inside = 0
    for _ in range(STOPS):
        conn.execute("truncate queue_job, ledger")
        ids = queue.put_many(notes(1000))
        process = work(app, "--grace", str(GRACE))
        process.wait_for("works on")
        sleep(random.uniform(0, 0.7))  # what is tested: any moment
        begun = monotonic()
        assert process.stop() == 0, process.log
        assert monotonic() - begun < GRACE
        done, left = account(conn, ledger, ids)
        stopped_inside += done > 0 and left > 0
    assert stopped_inside > 0 or STOPS < 10


@pytest.mark.parametrize("app", APPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_lets_end_what_runs_and_returns_the_rest(work, queue, conn, ledger, app, number):
    ids = queue.put_many(notes(10, 1.0))
    process = work(app, "--concurrency", "2")
    wait_for(lambda: len(ledger("begun")) == 2)
    process.signal(number)
    assert process.end() == 0, process.log
    assert account(conn, ledger, ids) == (2, 8)


@pytest.mark.parametrize("app", APPS)
def test_what_outlasts_the_grace_is_returned_and_the_exit_code_is_0(work, queue, conn, ledger, app):
    ids = queue.put_many(notes(3, 10 * PATIENCE))
    process = work(app, "--concurrency", "2", "--grace", "0.3")
    wait_for(lambda: len(ledger("begun")) == 2)
    assert process.stop() == 0
    assert account(conn, ledger, ids) == (0, 3)


@pytest.mark.parametrize("app", APPS)
def test_a_second_signal_returns_all_at_once(work, queue, conn, ledger, app):
    ids = queue.put_many(notes(3, 10 * PATIENCE))
    process = work(app, "--concurrency", "2", "--grace", str(10 * PATIENCE))
    wait_for(lambda: len(ledger("begun")) == 2)
    process.signal(signal.SIGTERM)
    process.wait_for("ends: stop")
    process.signal(signal.SIGTERM)
    assert process.end() == 0
    assert account(conn, ledger, ids) == (0, 3)


@pytest.mark.parametrize("app", APPS)
def test_killed_its_job_is_taken_by_another_within_the_lease_and_the_poll_interval(work, queue, conn, ledger, app):
    queue.put(notes(1, 10 * PATIENCE)[0])
    first = work(app, "--lease-for", "3")
    wait_for(lambda: len(ledger("begun")) == 1)
    other = work(app, "--lease-for", "3", "--grace", "0")
    other.wait_for("works on")
    # So that it has lived from heartbeats.
    extended = "select lease_until > enqueued_at + '4.5 s' from queue_job"
    wait_for(lambda: conn.execute(extended).fetchone() == (True,))
    first.process.kill()
    (killed_at,) = conn.execute("select clock_timestamp()").fetchone()
    wait_for(lambda: len(ledger("begun")) == 2)
    (took,) = conn.execute("select extract(epoch from clock_timestamp() - %s)", [killed_at]).fetchone()
    assert took < 3 + POLL + 1  # and a machine that is busy with other things
    assert other.stop() == 0
    # The attempt of the one that was killed counts, and that of the other does not.
    assert conn.execute("select attempts, last_error from queue_job").fetchall() == [(1, RAN_OUT)]


@pytest.mark.parametrize("app", APPS)
def test_a_job_that_crashes_its_worker_dies_alone(work, queue, conn, ledger, app):
    """A hundred beside it, and one worker, started again each time."""
    ids = queue.put_many(notes(50))
    poison = queue.put({"task": "crash"})
    ids += queue.put_many(notes(50))
    codes = []
    while queue.count(scheduled=True):
        process = work(app, "--lease-for", "1", "--concurrency", "4")
        while process.process.poll() is None and queue.count(scheduled=True):
            sleep(0.01)
        codes.append(process.end() if process.process.poll() is not None else process.stop())
        assert len(codes) < 10
    (dead,) = queue.dead()
    assert (dead.id, dead.reason) == (poison, "attempt 5 of 5 failed: the lease ran out")
    assert codes[:5] == [9] * 5
    # Beside a crash a job may be done, and not have been told.
    assert {id for id, _ in ledger()} == {*ids}


# Several processes.


def test_processes_share_the_work_and_end_together(work, queue, conn, ledger):
    process = work("worker_app", "--processes", "3", "--concurrency", "2")
    wait_for(lambda: process.log.count("works on") == 3)
    ids = queue.put_many(notes(60, 0.02))
    wait_for(lambda: queue.count(scheduled=True) == 0)
    assert len({pid for _, pid in ledger()}) == 3
    assert process.stop() == 0, process.log
    assert account(conn, ledger, ids) == (60, 0)
    for pid in {pid for _, pid in ledger()}:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_process_that_dies_has_a_successor(work, queue, conn, ledger):
    process = work("worker_app", "--processes", "2", "--lease-for", "0.5")
    queue.put({"task": "crash"}, max_attempts=1)
    wait_for(lambda: queue.dead())
    ((_, crashed),) = ledger("begun")
    process.wait_for("the next starts in")
    wait_for(lambda: process.log.count("works on") == 3)
    queue.put_many(notes(16, 0.5))
    wait_for(lambda: queue.count(scheduled=True) == 0)
    pids = {pid for _, pid in ledger()}
    assert (len(pids), crashed in pids) == (2, False)
    assert process.stop() == 0


def test_processes_whose_supervisor_was_killed_end(work, queue, ledger):
    process = work("worker_app", "--processes", "2")
    wait_for(lambda: process.log.count("works on") == 2)
    queue.put_many(notes(16, 0.5))
    wait_for(lambda: len({pid for _, pid in ledger()}) == 2)
    process.process.kill()
    process.end()

    def is_gone(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        except FileNotFoundError:
            return True

    try:
        wait_for(lambda: all(is_gone(pid) for _, pid in ledger()))
    finally:
        for pid in {pid for _, pid in ledger()}:
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)


def test_a_burst_of_processes_ends_with_exit_code_0(work, queue, conn, ledger):
    ids = queue.put_many(notes(100))
    assert work("worker_app", "--processes", "2", "--burst").end() == 0
    assert account(conn, ledger, ids) == (100, 0)


def test_a_process_with_too_much_memory_has_a_successor(work, queue, conn, ledger):
    process = work("worker_app", "--max-memory", "150M", "--concurrency", "1")
    queue.put({"task": "grow", "args": [200 * 2**20]})
    process.wait_for("more than 157286400 bytes in memory")
    wait_for(lambda: process.log.count("works on") == 2)
    assert "has failed" not in process.log
    queue.put({"task": "grow", "args": [1]})
    wait_for(lambda: len(ledger()) == 2)
    assert len({pid for _, pid in ledger()}) == 2
    assert process.stop() == 0


def test_a_changed_file_is_run_by_a_successor(work, queue, conn, ledger, tmp_path):
    text = (TESTS / "worker_app.py").read_text()
    app = tmp_path / "changing_app.py"
    app.write_text(text.replace('write(job, "done")', 'write(job, "old")'))
    process = work("changing_app", "--reload")
    queue.put(notes(1)[0])
    wait_for(lambda: ledger("old"))
    app.write_text(text.replace('write(job, "done")', 'write(job, "new")'))
    process.wait_for("changing_app.py has changed")
    queue.put(notes(1)[0])
    wait_for(lambda: ledger("new"))
    assert process.stop() == 0


def test_code_that_was_broken_and_is_mended_is_run_soon(work, queue, ledger, tmp_path):
    """Not after pauses that have grown meanwhile, and each of them with the same traceback."""
    text = (TESTS / "worker_app.py").read_text()
    app = tmp_path / "changing_app.py"
    app.write_text(text)
    process = work("changing_app", "--reload")
    process.wait_for("works on")
    for number in range(1, 4):
        app.write_text(text + f"def f({number}:\n")
        wait_for(lambda count=number: process.log.count("can't be imported") == count)
    app.write_text(text)
    queue.put(notes(1)[0])
    wait_for(lambda: ledger())
    assert process.log.count("can't be imported") == 3
    assert "has failed" not in process.log
    assert process.stop() == 0


def test_files_named_as_modules_of_python_are_in_nobodys_way(work, queue, conn, ledger, tmp_path):
    """`pgq-py work` alone runs beside them, so its processes do."""
    (tmp_path / "queue.py").write_text("1 / 0\n")
    pgq_py = Path(sys.executable).with_name("pgq-py")
    env = os.environ | {"TEST_DSN": work._dsn, "PYTHONPATH": f"{ROOT}:{TESTS}"}
    ids = queue.put_many(notes(3))
    for args in (["--max-jobs", "1"], ["--max-jobs", "1", "--processes", "2"]):
        done = subprocess.run(
            [pgq_py, "work", "worker_app", *args], cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
    assert account(conn, ledger, ids) == (3, 0)


def test_a_hang_up_gives_each_process_a_successor(work, queue, ledger):
    process = work("worker_app", "--processes", "2")
    wait_for(lambda: process.log.count("works on") == 2)
    queue.put_many(notes(16, 0.5))
    wait_for(lambda: len({pid for _, pid in ledger()}) == 2)
    before = {pid for _, pid in ledger()}
    process.signal(signal.SIGHUP)
    wait_for(lambda: process.log.count("works on") == 4)
    queue.put_many(notes(16, 0.5))
    wait_for(lambda: queue.count(scheduled=True) == 0)
    assert len({pid for _, pid in ledger()} - before) == 2
    assert process.stop() == 0


@pytest.mark.parametrize("more", [(), ("--processes", "2")], ids=["one", "two"])
def test_when_the_terminal_is_closed_it_ends(work, queue, conn, ledger, more):
    ids = queue.put_many(notes(1, 1.0))
    process, close = work.in_terminal("worker_app", *more)
    wait_for(lambda: ledger("begun"))
    close()
    assert process.end() == 0
    assert account(conn, ledger, ids) == (1, 0)


def test_a_hang_up_does_not_shorten_the_grace(work, queue, conn, ledger):
    """A terminal that is closed says both."""
    ids = queue.put_many(notes(1, 1.0))
    process = work("worker_app", "--processes", "1", "--max-memory", "1G")
    wait_for(lambda: ledger("begun"))
    process.signal(signal.SIGTERM)
    process.wait_for("ends: stop")
    process.signal(signal.SIGHUP)
    assert process.end() == 0
    assert account(conn, ledger, ids) == (1, 0)


def test_code_that_became_wrong_replaces_no_process_more(work, queue, ledger, tmp_path):
    app = tmp_path / "changing_app.py"
    app.write_text((TESTS / "worker_app.py").read_text())
    process = work("changing_app", "--processes", "2")
    wait_for(lambda: process.log.count("works on") == 2)
    app.write_text("")  # no PQ: exit code 2
    process.signal(signal.SIGHUP)
    process.wait_for("has failed with exit code 2; the next starts in")
    queue.put_many(notes(2))
    wait_for(lambda: len(ledger()) == 2)
    assert process.stop() == 0


def test_a_process_that_asks_for_the_next_at_once_waits_ever_longer(tmp_path):
    """As with a limit of memory below what the imports need."""
    child = supervisor.Child(0, tmp_path)
    parent, ours = os.pipe()
    try:
        for _ in range(8):
            child.start([sys.executable, "-S", "-c", f"raise SystemExit({supervisor.AGAIN})"], os.environ, parent)
            assert child.process is not None
            child.process.wait(PATIENCE)
            child.look(is_stopping=False)
    finally:
        child.close()
        os.close(parent)
        os.close(ours)
    assert not child.is_over
    assert child.start_at > monotonic() + 1


def test_a_process_that_does_not_end_is_killed_after_the_grace(tmp_path):
    deaf = "import pathlib, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); pathlib.Path('deaf').touch()"
    code = f"""
import sys
import termios
from pgq_py import supervisor
supervisor.EXTRA = 0.1
sys.exit(supervisor.Supervisor([sys.executable, "-c", {deaf + "; signal.pause()"!r}], 1, 0.1).run())
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        wait_for((tmp_path / "deaf").exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 1
    finally:
        process.kill()


@pytest.mark.parametrize("args", [(), ("--processes", "2")])
def test_told_to_stop_before_it_works_its_exit_code_is_0(work, tmp_path, args):
    (tmp_path / "slow_app.py").write_text(
        "import pathlib, os, time\npathlib.Path(f'begun {os.getpid()}').touch()\ntime.sleep(600)\n"
    )
    process = work("slow_app", *args)
    wait_for(lambda: len(list(tmp_path.glob("begun *"))) == (2 if args else 1))
    assert process.stop() == 0, process.log


@pytest.mark.parametrize("app", APPS)
def test_a_handler_that_forks_may_end_its_child_and_nobody_else(work, queue, ledger, conn, app):
    """Forked with the worker's handlers, the child was deaf, or its signal was the worker's."""
    ids = queue.put_many([{"task": "fork"}, *notes(1)])
    process = work(app, "--concurrency", "1", "--burst", "--grace", "1")
    assert process.end() == 0, process.log
    assert "ends: stop" not in process.log
    assert ledger(f"child {-signal.SIGTERM}")
    assert account(conn, ledger, ids) == (2, 0)


def test_a_handler_that_can_not_be_ended_may_have_closed_stdout(work, queue, conn, ledger):
    id = queue.put({"task": "close"})
    process = work("worker_app", "--grace", "0")
    wait_for(lambda: ledger("begun"))
    assert process.stop() == 0, process.log
    assert account(conn, ledger, [id]) == (0, 1)


@pytest.mark.parametrize(
    ("app", "task"), [("worker_app", "thread"), ("worker_app_async", "thread"), ("worker_app", "process")]
)
def test_what_a_handler_leaves_behind_does_not_hold_up_the_end(work, queue, conn, ledger, app, task):
    """A thread of asyncio's, for which Python would wait; a process, for which multiprocessing would."""
    id = queue.put({"task": task})
    process = work(app, "--grace", "0.1")
    wait_for(lambda: ledger("begun"))
    assert process.stop() == 0, process.log
    assert account(conn, ledger, [id]) == (0, 1)


@pytest.mark.parametrize(
    ("app", "task"),
    [("worker_app", "thread"), ("worker_app_async", "thread"), ("worker_app", "process")],
)
def test_nor_does_it_where_the_worker_has_failed(work, queue, conn, ledger, app, task):
    """Otherwise nobody would start another one, and nobody be told why."""
    id = queue.put({"task": task})
    process = work(app, "--grace", "0.1")
    wait_for(lambda: ledger("begun"))
    conn.execute("alter function queue_lease rename to queue_lease_is_gone")
    assert process.end() == 1
    assert "NotInstalled: function public.queue_lease" in process.log
    assert account(conn, ledger, [id]) == (0, 1)


# What a service manager sees.


def test_a_service_manager_that_does_not_listen_holds_nobody_up(manager, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", manager.path)
    told = 0
    while told < 100_000 and health.notify("WATCHDOG=1"):
        told += 1
    assert 0 < told < 100_000
    assert manager.hear() == "WATCHDOG=1"


class Manager:
    """The socket of systemd."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.settimeout(PATIENCE)

    def hear(self) -> str:
        return self._socket.recv(4096).decode().partition("\n")[0]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize("more", [(), ("--processes", "2")])
def test_systemd_is_told_when_it_is_ready_lives_and_stops(work, queue, ledger, manager, more):
    process = work("worker_app", *more, NOTIFY_SOCKET=manager.path, WATCHDOG_USEC="1000000")
    assert manager.hear() == "READY=1"
    assert process.log.count("works on") == (2 if more else 1)
    assert [manager.hear(), manager.hear()] == ["WATCHDOG=1"] * 2
    process.signal(signal.SIGTERM)
    while (said := manager.hear()) == "WATCHDOG=1":
        pass
    assert said == "STOPPING=1"
    assert process.end() == 0


def test_health_is_told_on_the_port(work, queue, ledger):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = work("worker_app", "--health-port", str(port))
    process.wait_for("works on")
    assert f"answers /live and /ready on 127.0.0.1, port {port}" in process.log
    other = work("worker_app", "--health-port", str(port))
    assert other.end() == 1
    assert f"Error: [Errno 98] can't listen on 127.0.0.1, port {port}: Address already in use\n" in other.log
    for path in ("/live", "/ready"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            assert answer.status == 200
    assert process.stop() == 0


def test_a_function_may_be_the_handler_of_a_queue(work, queue, ledger):
    queue.put({"kind": "Cox"})
    assert work("worker_app:handle", "--queue", "apples", "--burst").end() == 0
    assert len(ledger("{'kind': 'Cox'}")) == 1


def test_the_log_can_be_json_and_has_no_data(work, queue, ledger):
    id = queue.put({"task": "unknown", "args": ["secret"]})
    process = work("worker_app", "--burst", "--log-json")
    assert process.end() == 0
    lines = [json.loads(line) for line in process.log.splitlines()]
    (line,) = [line for line in lines if line["level"] == "WARNING"]
    assert (line["queue"], line["job_id"], line["attempt"]) == ("apples", id, 1)
    assert "secret" not in process.log


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nowhere",), "there is no module 'nowhere'"),
        (("worker_app:nothing",), "there is no 'nothing' in worker_app"),
        (("worker_app:DSN",), "worker_app:DSN is neither a PQ nor a function"),
        (("json",), "there is no PQ in json"),
        (("worker_app:note",), "worker_app:note is a task: write worker_app"),
        (("worker_app", "--queue", "mail=much"), "'mail=much' is no NAME=WEIGHT: 'much' is no number"),
        (("worker_app", "--queue", "mail=0"), "the weight of 'mail' is 0.0"),
        (("worker_app", "--max-memory", "much"), "'much' is no size"),
        (("worker_app", "--dsn", "host=/nowhere"), "leave one of them out"),
        (("worker_app", "--schema", "billing"), "--schema says where to work, and so does the PQ"),
        (("working:wait_for",), "which queue?"),
    ],
)
def test_what_is_asked_for_in_vain_is_said_in_a_line_with_exit_code_2(work, queue, args, words):
    process = work(*args, PGQ_PY_DSN=work._dsn)
    assert process.end() == 2
    assert words in process.log
    assert "Traceback" not in process.log


def test_code_that_can_not_be_imported_is_told_with_its_traceback(work, queue, tmp_path):
    (tmp_path / "broken_app.py").write_text("import pgq_py\n1 / 0\n")
    process = work("broken_app")
    assert process.end() == 1
    assert "ZeroDivisionError" in process.log
    assert 'broken_app.py", line 2' in process.log


def test_a_program_in_place_of_a_module_is_an_error(work, tmp_path):
    (tmp_path / "program.py").write_text("import sys\nsys.exit(0)\n")
    process = work("program")
    assert process.end() == 1
    assert 'program.py", line 2' in process.log


def test_a_server_that_is_not_there_at_the_beginning_is_an_error(work):
    process = work("worker_app", TEST_DSN="host=/nowhere")
    assert process.end() == 1
    assert "Traceback" not in process.log
