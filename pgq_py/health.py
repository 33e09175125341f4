"""How a worker tells others that it works: over HTTP to whoever asks, and to systemd."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg

from .links import with_keepalives

if TYPE_CHECKING:
    from . import AsyncWorker, Worker

# A loop that has not turned for so many seconds does not work. Each turns every 5, but an outage may hold it up for as
# long as a cut link stays unnoticed, 27 s (see KEEPALIVES), and that is no reason to end a worker.
STALE = 60.0
# Seconds that PostgreSQL may take to answer.
PATIENCE = 3.0


class Health:
    """Answers `GET /live` and `GET /ready`, and HEAD, on a port, in a thread.

    /live is 200 while the worker's loops turn, else 503: then start it anew. /ready is 200 while it takes jobs and
    PostgreSQL answers. Both tell in JSON what they found.

    Args:
        worker: that is asked about.
        host, port: where to listen; port 0 is any that is free.

    Raises:
        OSError: the port can't be had.
    """

    def __init__(self, worker: Worker | AsyncWorker, host: str, port: int) -> None:
        self._worker = worker
        self._conn: psycopg.Connection[Any] | None = None
        self._lock = threading.Lock()
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10

            def do_GET(self) -> None:
                found = {"/live": health.live, "/ready": health.ready}.get(self.path.partition("?")[0])
                is_good, told = (False, {"error": "ask for /live or /ready"}) if found is None else found()
                status = HTTPStatus.OK if is_good else HTTPStatus.SERVICE_UNAVAILABLE
                body = json.dumps(told).encode() + b"\n"
                self.send_response(HTTPStatus.NOT_FOUND if found is None else status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, format: str, *args: Any) -> None:
                """A probe each few seconds is nothing for a log."""

        class Server(ThreadingHTTPServer):
            address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
            daemon_threads = True

        try:
            self._server = Server((host, port), Handler)
        except OSError as error:
            raise OSError(error.errno, f"can't listen on {host}, port {port}: {error.strerror}") from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="pgq_py health", daemon=True).start()

    def live(self) -> tuple[bool, dict[str, Any]]:
        """Whether the worker's loops turn, and how many seconds ago each did."""
        idle = self._worker.idle_for()
        ages = {name: round(seconds, 1) for name, seconds in idle.items()}
        return all(seconds < STALE for seconds in idle.values()), {"seconds_since": ages}

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether the worker takes jobs, and PostgreSQL answers."""
        if not self._worker.is_taking:
            return False, {"worker": "takes no jobs"}
        try:
            begun = monotonic()
            self._ask()
            return True, {"postgresql": "answers", "seconds": round(monotonic() - begun, 4)}
        except (psycopg.Error, TimeoutError) as error:
            return False, {"postgresql": f"does not answer: {type(error).__name__}"}

    def _ask(self) -> None:
        """On a connection of its own, kept from one time to the next."""
        if not self._lock.acquire(timeout=PATIENCE):
            raise TimeoutError
        try:
            for is_last in (False, True):
                try:
                    if self._conn is None or self._conn.closed:
                        self._conn = self._connect()
                    self._conn.execute("select 1")
                    return
                except psycopg.Error:
                    if self._conn is not None:
                        self._conn.close()
                        self._conn = None
                    if is_last:
                        raise
        finally:
            self._lock.release()

    def _connect(self) -> psycopg.Connection[Any]:
        parameters = {
            **with_keepalives(self._worker.parameters),
            "connect_timeout": int(PATIENCE),
            "tcp_user_timeout": int(1000 * PATIENCE),
            "application_name": "pgq_py health",
        }
        return psycopg.connect(autocommit=True, **parameters)

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        if self._conn is not None:
            self._conn.close()


def notify(state: str) -> bool:
    """Tell systemd (`Type=notify`), or whoever listens on the socket that NOTIFY_SOCKET names; False if nobody does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as link:
        # Who does not listen must hold nobody up, least of all a loop.
        link.setblocking(False)
        try:
            # "@" stands for the NUL that such names of Linux begin with.
            link.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return False
    return True


def watchdog_interval() -> float | None:
    """Seconds between two signs of life that systemd wants (`WatchdogSec=`), halved; None if it wants none."""
    micros, pid = os.environ.get("WATCHDOG_USEC"), os.environ.get("WATCHDOG_PID")
    if not micros or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 2_000_000


class Notifier:
    """Tells systemd that a worker is ready, that it lives, and that it stops.

    Args:
        is_live: whether it does.
    """

    def __init__(self, is_live: Callable[[], bool]) -> None:
        self._is_live = is_live
        self._interval = watchdog_interval()
        self._told_at = 0.0
        self._is_ready = False

    def __call__(self, event: str) -> None:
        """To be called at "ready", "tick" and "stopping"."""
        if event == "ready":
            self._is_ready = True
            notify("READY=1\nSTATUS=takes jobs")
        elif event == "stopping":
            notify("STOPPING=1\nSTATUS=ends")
        if self._interval is None or not self._is_ready:
            return
        if monotonic() - self._told_at >= self._interval and self._is_live():
            self._told_at = monotonic()
            notify("WATCHDOG=1")
