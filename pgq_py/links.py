"""Links to the server: when one counts as cut, and how a consumer that waits gets the next."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from ._compat import jitter
from .errors import BadAddress

log = logging.getLogger("pgq_py")

KEEPALIVES: Mapping[str, int] = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""libpq's parameters by which a cut link is noticed within 25 seconds, over TCP; for connections of your own, too:
`psycopg.connect(address, **KEEPALIVES)`, `ConnectionPool(address, kwargs={**KEEPALIVES})`.

Without them it is two hours where nothing is sent, and a quarter of an hour where something is. A link on which nothing
moves is asked after 10 s, and given up when three questions, 5 s apart, had no answer: 10 + 3 * 5 = 25 s. What was
sent must be acknowledged within the same 25 s; that counts from the statement, for keepalives say nothing while
one is on its way. A consumer that waits sends one every 2 seconds, so it notices within 27. Less would mistake
a switch that restarts for a cut. A server that does not answer at all is given 10 s for each of its addresses.
"""

# How long a consumer pauses before it tries to connect again: at first, and at most. Doubled in between, since it
# is as long as the server has been away. The most is the poll interval: so long may a job wait at any time.
RETRY_FIRST, RETRY_LAST = 0.05, 2.0
# How often a log is reminded that there is no connection yet.
REMIND = 60.0
# When nobody has tried to connect for so long, the next failure is an outage of its own. Longer than a try may take: a
# pool waits for 30 s by default, an address for 10 s for each of the server's.
FORGET = 600.0


def with_keepalives(address: str | Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an address and, where it leaves them open, `KEEPALIVES`.

    They mean nothing on a Unix socket. A service names its parameters in a file that only libpq reads, and
    what stands here would go before it: such an address is left alone.

    Raises:
        BadAddress: it can't be read.
    """
    try:
        given = conninfo_to_dict(address) if isinstance(address, str) else dict(address)
    except psycopg.ProgrammingError:
        # Not chained, and without its text: libpq quotes the address, and with it the password.
        raise BadAddress("the DSN can't be read: neither postgresql://… nor key=value pairs") from None
    if "service" in given or "PGSERVICE" in os.environ:
        return given
    ours = {key: value for key, value in KEEPALIVES.items() if key != "connect_timeout"}
    if "PGCONNECT_TIMEOUT" not in os.environ:
        ours["connect_timeout"] = KEEPALIVES["connect_timeout"]
    return {**ours, **given}


def server_of(address: str, more: Mapping[str, Any]) -> tuple[str, int | None] | None:
    """Which server an address and more parameters mean: its host and port, or its Unix socket and None.

    None if only a connection tells: there are several hosts, a service, or the default of libpq's build counts.
    """
    try:
        given = {**conninfo_to_dict(address), **more}
    except psycopg.ProgrammingError:
        return None
    defaults = {option.keyword.decode(): option.val for option in psycopg.pq.Conninfo.get_defaults()}

    def value(name: str) -> str:
        return str(given.get(name) or (defaults.get(name) or b"").decode())

    host, port = value("host") or value("hostaddr"), value("port")
    if not host or "," in host or "service" in given or not port.isdecimal():
        return None
    return (f"{host}/.s.PGSQL.{port}", None) if host.startswith(("/", "@")) else (host, int(port))


class Outage:
    """Whether the server is out of reach, for all who use one PQ. Of each outage the log hears once, and of its end.

    It begins when somebody who waits for jobs loses a connection, and ends when anybody has one that works, whether
    he waits or not. Who gives up meanwhile ends nothing: the server is still away, for all that is known.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: float | None = None
        self._tried = 0.0
        # When the log last heard of it; None: not yet.
        self._told: float | None = None
        self._first = RETRY_FIRST
        self._ended = -RETRY_LAST
        self.over = 0
        """How many are over."""

    @property
    def is_on(self) -> bool:
        """Whether a connection was lost, and none that works was found since."""
        return self._since is not None

    def begin(self, error: BaseException, over: int) -> float:
        """A connection was lost, or could not be had; gives how long to pause before the next.

        But no longer than until `over` has grown: then somebody has got through.

        Args:
            error: what happened.
            over: how many outages were over when it last worked, or was asked for. If one has ended since, this may
                have happened in that one and be noticed late: the log hears of it if the next try fails, too.
        """
        now, tell = monotonic(), ""
        with self._lock:
            if self._since is None or now - self._tried > FORGET:
                # A connection that worked for a moment only is no reason to hurry.
                self._first = RETRY_LAST if now - self._ended < RETRY_LAST else RETRY_FIRST
                self._since, self._told = now, None
            self._tried = now
            if self._told is None and over == self.over:
                self._told = now
                tell = "lost the connection to PostgreSQL while waiting for jobs; trying to connect"
            elif self._told is not None and now - self._told > REMIND:
                self._told = now
                tell = f"no connection to PostgreSQL for {now - self._since:.0f} s; trying on"
            # Others have had a connection since: try one soon, for the loss may be noticed late.
            longest = RETRY_LAST if over == self.over else RETRY_FIRST
            pause = jitter(min(longest, max(self._first, now - self._since)))
        # Without the lock: a child that was forked while somebody writes to a log would have it locked for ever.
        if tell:
            log.warning("%s: %s", tell, str(error.__cause__ or error).partition("\n")[0])
        return pause

    def end(self) -> None:
        """There is a connection that works."""
        with self._lock:
            if self._since is None:
                return
            since, told, self._ended = self._since, self._told, monotonic()
            self._since = self._told = None
            self.over += 1
            lasted = self._ended - since
        if told is not None:
            log.warning("connected to PostgreSQL again, after %.1f s", lasted)
