"""Where it plays: a server of its own, processes, a network link that can be cut, a disk that can be filled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psycopg
from servers import Server

from pgq_py import PQ

from .actors import KINDS, MAX_ATTEMPTS, Part

TESTS = Path(__file__).parent.parent
DISK_BYTES = 24 * 1024 * 1024

# fsync stays off (servers.py): what PostgreSQL wrote is in the kernel's page cache, which a killed process does
# not take with it; only a machine that loses power would. What it had not written yet is lost, and so must have been
# written before a commit was acknowledged: that is what synchronous_commit=on does, and what a kill tests.
#
# A client whose link is cut says no goodbye. Until the server notices, its transaction holds the job.
CONF = """
synchronous_commit = on
tcp_keepalives_idle = 1
tcp_keepalives_interval = 1
tcp_keepalives_count = 3
tcp_user_timeout = 4000
idle_in_transaction_session_timeout = 10s
log_line_prefix = '%m %p %a '
log_min_duration_statement = 2000
restart_after_crash = on
deadlock_timeout = 500ms
"""
CLIENT = (
    "connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=4000 "
    "dbname=soak user=postgres"
)
TABLES = """
create table effect (
    queue text not null, id bigint not null, key text, actor text not null, op bigint not null,
    at timestamptz not null default clock_timestamp()
);
create table sale (key text primary key);
create extension amcheck;
"""


class Place(Server):
    """The server."""

    def begin(self, link: Link | None) -> None:
        """Make it, with the queue installed in the database `soak`."""
        self.create()
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(CONF)
            if link is not None:
                conf.write(f"listen_addresses = '{link.server}'\n")
        if link is not None:
            with (self.data / "pg_hba.conf").open("a") as hba:
                hba.write(f"host all all {link.clients}/32 trust\n")
        self.stop()
        self.start()
        with self.admin("postgres") as conn:
            conn.execute("create database soak")
        with PQ(self.dsn("soak")) as pq:
            pq.create()
            pq["leased"].configure(max_attempts=MAX_ATTEMPTS, retry_in=0.3)
            for name in ("transactional", "transactional too"):
                pq[name].configure(max_attempts=MAX_ATTEMPTS, retry_in=0.3)
        with self.admin() as conn:
            conn.execute(TABLES)

    def admin(self, dbname: str = "soak") -> psycopg.Connection[Any]:
        """A connection that no fault stops."""
        options = "-c statement_timeout=0 -c lock_timeout=0 -c synchronous_commit=local -c idle_session_timeout=0"
        return psycopg.connect(self.dsn(dbname), autocommit=True, application_name="nemesis", options=options)

    def processes(self) -> list[int]:
        """The postmaster, and whatever it has started."""
        try:
            postmaster = int((self.data / "postmaster.pid").read_text().split()[0])
        except (FileNotFoundError, IndexError):
            return []
        return [postmaster, *(pid for pid in all_processes() if parent_of(pid) == postmaster)]

    def kill_all(self) -> None:
        """Kill the postmaster and all that it has started with -9. Stopped before, it starts nobody meanwhile."""
        with suppress(ProcessLookupError):
            for pid in self.processes()[:1]:
                os.kill(pid, signal.SIGSTOP)
            killed = self.processes()
            for pid in killed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not any(is_alive(pid) for pid in killed), "the server's processes are gone", 10)
            self._forget(killed[0])

    def _forget(self, postmaster: int) -> None:
        """Its lock files stay, as after any crash, but for a container whose first process buries no dead.

        There the number of a dead process is in use for ever, and the next postmaster takes it for a living one.
        """
        try:
            wait_until(lambda: not Path(f"/proc/{postmaster}").exists(), "the postmaster is buried", 0.2)
        except TimeoutError:
            for name in (self.data / "postmaster.pid", self.folder / f".s.PGSQL.{self.port}.lock"):
                name.unlink(missing_ok=True)

    def is_up(self) -> bool:
        try:
            self.admin().close()
        except psycopg.OperationalError:
            return False
        return True


def all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _stat(pid: int) -> list[str]:
    """State, parent and so on; what comes before may contain anything."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ["X", "0"]


def parent_of(pid: int) -> int:
    return int(_stat(pid)[1])


def is_alive(pid: int) -> bool:
    return _stat(pid)[0] not in "XZ"


def wait_until(condition: Any, what: str, seconds: float) -> None:
    until = monotonic() + seconds
    while not condition():
        if monotonic() > until:
            raise TimeoutError(f"not within {seconds} s: {what}")
        sleep(0.02)


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


class Link:
    """Two network interfaces tied together, one of them in a namespace where those live whose link is cut.

    Cut, packets vanish without a word: they are sent to an Ethernet address that nobody has.
    """

    NOBODY = "02:00:00:00:00:01"

    def __init__(self) -> None:
        self.name = f"soak{os.getpid()}"
        net = f"10.213.{os.getpid() % 250}"
        self.server, self.clients = f"{net}.1", f"{net}.2"
        run("ip", "netns", "add", self.name)
        try:
            # At most 15 characters.
            self.here, there = f"s{os.getpid()}", "c0"
            run("ip", "link", "add", self.here, "type", "veth", "peer", "name", there, "netns", self.name)
            run("ip", "addr", "add", f"{self.server}/30", "dev", self.here)
            run("ip", "link", "set", self.here, "up")
            self.inside = ("ip", "-n", self.name)
            run(*self.inside, "addr", "add", f"{self.clients}/30", "dev", there)
            run(*self.inside, "link", "set", there, "up")
            run(*self.inside, "link", "set", "lo", "up")
            self.addresses = {
                "here": self._address(("ip",), self.here),
                "there": self._address(self.inside, there),
            }
            self.join()
        except BaseException:
            self.remove()
            raise

    def _address(self, ip: tuple[str, ...], device: str) -> str:
        shown = subprocess.run([*ip, "-o", "link", "show", device], capture_output=True, text=True, check=True)
        words = shown.stdout.split()
        return words[words.index("link/ether") + 1]

    def _send_to(self, requests: str, answers: str) -> None:
        run(*self.inside, "neigh", "replace", self.server, "lladdr", requests, "dev", "c0", "nud", "permanent")
        run("ip", "neigh", "replace", self.clients, "lladdr", answers, "dev", self.here, "nud", "permanent")

    def cut(self, requests: bool = True, answers: bool = True) -> None:
        """Nothing comes through; or nothing in one direction."""
        self._send_to(
            self.NOBODY if requests else self.addresses["here"],
            self.NOBODY if answers else self.addresses["there"],
        )

    def join(self) -> None:
        self._send_to(self.addresses["here"], self.addresses["there"])

    @property
    def prefix(self) -> list[str]:
        """Before a command that is to run on the other side."""
        return ["ip", "netns", "exec", self.name]

    def remove(self) -> None:
        with suppress(OSError):
            run("ip", "link", "del", self.here)
        with suppress(OSError):
            run("ip", "netns", "del", self.name)


class Disk:
    """A small file system in memory, for the queue's table."""

    def __init__(self, place: Server) -> None:
        self.path = place.folder / "disk"
        self.path.mkdir()
        run("mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0777", "soak", str(self.path))
        self.space = self.path / "space"
        self.space.mkdir()
        os.chown(self.space, place.identity["user"], place.identity["group"])
        self.ballast = self.path / "ballast"

    def hold(self, conn: psycopg.Connection[Any]) -> None:
        """Move the queue's table here."""
        conn.execute(f"create tablespace small location '{self.space}'")
        conn.execute("alter table queue_job set tablespace small")

    def fill(self) -> None:
        with self.ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        self.ballast.unlink(missing_ok=True)

    def remove(self) -> None:
        with suppress(OSError):
            run("umount", "--lazy", str(self.path))


@dataclass
class Process:
    """An actor's process; a new one when it was killed."""

    part: Part
    command: list[str]
    life: int = 0
    popen: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        self.life += 1
        self.part.life = self.life
        # Its output is ours: a traceback belongs in the log of the run. Its input tells it when we die.
        self.popen = subprocess.Popen(
            [*self.command, sys.executable, "-m", "soak.actors", self.part.text()], cwd=TESTS, stdin=subprocess.PIPE
        )

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()

    @property
    def name(self) -> str:
        return f"{self.part.name}#{self.life}"

    def signal(self, number: signal.Signals) -> None:
        self.popen.send_signal(number)

    def end(self) -> None:
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)

    def end_within(self, seconds: float) -> bool:
        """End it; killed, and False, if it takes longer."""
        self.end()
        try:
            self.wait(seconds)
        except TimeoutError:
            return False
        return True

    def wait(self, seconds: float) -> None:
        try:
            self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} did not end within {seconds} s of SIGTERM") from None
        finally:
            self.kill()
        # Or by the signal itself, before it was ready for it.
        if self.popen.returncode not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{self.name} ended with {self.popen.returncode}")


class Stage:
    """All of it."""

    def __init__(self, version: str, programs: Path, ledgers: Path) -> None:
        self.ledgers = ledgers
        self.place = Place(version, programs)
        self.link: Link | None = None
        self.disk: Disk | None = None
        self.absent: dict[str, str] = {}
        self.actors: list[Process] = []

    def build(self) -> None:
        # Where `ip` is; a plain `su` to root leaves it out.
        os.environ["PATH"] = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        try:
            self.link = Link()
        except OSError as error:
            self.absent["cut link"] = str(error)
        self.place.begin(self.link)
        try:
            self.disk = Disk(self.place)
        except OSError as error:
            self.absent["disk full"] = str(error)
        else:
            with self.place.admin() as conn:
                self.disk.hold(conn)

    def add(self, kind: str, name: str, seed: int, **options: Any) -> Process:
        """Start an actor. Some live behind the link that can be cut; all have one timeout or another."""
        number = len(self.actors)
        behind = self.link is not None and kind not in ("put", "put-sql", "probe", "keep") and number % 2 == 0
        host = self.link.server if self.link is not None and behind else self.place.host
        timeout = "lock_timeout=400" if number % 3 else "statement_timeout=800"
        dsn = f"{CLIENT} host={host} port={self.place.port} application_name='{name}' options='-c {timeout}'"
        part = Part(kind, name, 0, seed, dsn, str(self.ledgers), **options)
        command = self.link.prefix if self.link is not None and behind else []
        actor = Process(part, command)
        actor.start()
        self.actors.append(actor)
        return actor

    def of(self, *kinds: str) -> list[Process]:
        assert set(kinds) <= set(KINDS)
        return [actor for actor in self.actors if actor.part.kind in kinds]

    def is_behind(self, actor: Process) -> bool:
        return bool(actor.command)

    def wait_for_all(self) -> None:
        """Until all actors have begun: on a busy machine a start takes seconds."""

        def begun() -> bool:
            self.check()
            return all((self.ledgers / f"{actor.name}.jsonl").exists() for actor in self.actors)

        wait_until(begun, "all actors have begun", 60)

    def check(self) -> None:
        """Nobody died but by the nemesis."""
        for actor in self.actors:
            if actor.popen.poll() is not None:
                raise RuntimeError(f"{actor.name} ended by itself with {actor.popen.returncode}")

    def end(self, actors: list[Process], seconds: float = 15) -> None:
        for actor in actors:
            actor.end()
        for actor in actors:
            actor.wait(seconds)
            self.actors.remove(actor)

    def remove(self) -> None:
        for actor in self.actors:
            actor.kill()
        with suppress(OSError):
            self.place.kill_all()
        if self.disk is not None:
            self.disk.remove()
        self.place.remove()
        if self.link is not None:
            self.link.remove()


@contextmanager
def stage(version: str, programs: Path, ledgers: Path) -> Iterator[Stage]:
    made = Stage(version, programs, ledgers)
    try:
        made.build()
        yield made
    finally:
        made.remove()
