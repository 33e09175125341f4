# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""Where connections come from, and one connection in use."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from .._compat import Lock, jitter, sleep
from ..calls import Call
from ..driver import Cursor
from ..errors import Closed, Forked, TransactionConflict, translate
from ..hosts import Host

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from .transaction import Transaction

T = TypeVar("T")
Connection = psycopg.Connection[Any]


class Session:
    """One connection, for one operation or one transaction."""

    def __init__(self, source: Source, conn: Connection | None, lock: Lock | None = None) -> None:
        self.source = source
        self._conn = conn
        # Of a connection that threads or tasks share: between looking at its state and acting on it.
        self._lock = lock or nullcontext()

    def connection(self) -> Connection:
        """Psycopg's connection. A host may open it or begin its transaction now."""
        if self._conn is not None:
            return self._conn
        assert self.source.host is not None  # only a hosted source gives sessions without a connection
        conn: Connection = self.source.host.raw()
        return conn

    def is_own(self) -> bool:
        """Whether a statement now would be a transaction of its own, committed when it returns."""
        conn = self.connection()
        if conn.info.transaction_status != TransactionStatus.IDLE:
            return False
        return conn.autocommit or self._conn is not None

    def run(self, call: Call[T]) -> T:
        """Run a call: on an idle connection in one round trip and durable, else in the open transaction.

        A transaction of our own that lost against another one is repeated a few times.
        """
        for attempt in range(10):
            try:
                return self._run_once(call)
            except TransactionConflict:
                if not self.is_own():
                    raise
                sleep(jitter(0.01 * 2**attempt))
        return self._run_once(call)

    def _run_once(self, call: Call[T]) -> T:
        with self._lock:
            conn = self.connection()
            # Toggling autocommit costs nothing on the wire; BEGIN and COMMIT would cost two round
            # trips (5,138 calls/s became 40,646).
            toggle = (
                self._conn is not None
                and not conn.autocommit
                and conn.info.transaction_status == TransactionStatus.IDLE
                and conn.pgconn.pipeline_status == PipelineStatus.OFF
            )
            if not toggle:
                return self._execute(conn, call)
            conn.set_autocommit(True)
            try:
                return self._execute(conn, call)
            finally:
                if conn.info.transaction_status == TransactionStatus.IDLE:
                    conn.set_autocommit(False)
                else:
                    # Interrupted half-way: left in autocommit, it would betray its owner's transactions.
                    conn.close()

    def _execute(self, conn: Connection, call: Call[T]) -> T:
        try:
            cursor = Cursor(conn)
            cursor.execute(call.statement, call.params)
            return call.read(cursor.fetchall() if cursor.description else [])
        except psycopg.Error as error:
            raise translate(error, schema=self.source.schema, lost=conn.closed) from error

    def begin(self) -> AbstractContextManager[Any]:
        """A transaction, or a savepoint in the open one; by the host where there is one."""
        if self.source.host is not None:
            return self.source.host.transaction()
        assert self._conn is not None  # sessions without a connection have a host
        return self._conn.transaction()


class Source:
    """Gives out connections: here always the same one, the caller's, or the host's."""

    def __init__(self, schema: str, conn: Connection | None = None, host: Host | None = None) -> None:
        self.schema = schema
        self.host = host
        self._lock = Lock()
        # The transaction that has the only connection for itself.
        self.holder: Transaction | None = None
        self._conn = conn
        self._pid = os.getpid()

    def acquire(self) -> Session:
        """A session; give it back with `release`."""
        if os.getpid() != self._pid:
            raise Forked("this connection belongs to the parent process: open one, and a PQ, in the child")
        if self._conn is not None and self._conn.closed:
            raise Closed("the connection given to PQ is closed")
        return Session(self, self._conn, self._lock)

    def acquire_another(self) -> Session | None:
        """One more while a transaction has the first; None where there is no other."""
        return None

    def hold(self, transaction: Transaction | None) -> None:
        """Note the transaction that now has the only connection for itself."""
        self.holder = transaction

    def release(self, session: Session) -> None:
        """Take a session back, in whatever state its connection is."""

    def close(self) -> None:
        """Close what is ours; the caller's connection and pool are not."""


class PoolSource(Source):
    """Connections from the caller's pool."""

    def __init__(self, schema: str, pool: ConnectionPool[Any]) -> None:
        super().__init__(schema)
        self._pool = pool

    def acquire(self) -> Session:
        """A connection of the pool."""
        if os.getpid() != self._pid:
            raise Forked("this pool belongs to the parent process: open one, and a PQ, in the child")
        return Session(self, self._pool.getconn())

    def hold(self, transaction: Transaction | None) -> None:
        """Nothing to note: there are other connections."""

    def acquire_another(self) -> Session | None:
        """Another connection of the pool."""
        return self.acquire()

    def release(self, session: Session) -> None:
        """Back to the pool, which discards a broken connection."""
        self._pool.putconn(session.connection())


class DialSource(Source):
    """Connections made when needed, kept for reuse: as many as are in use at a time.

    Not a pool of psycopg's: a wrong address shall be an error at once, not after a timeout, and
    there shall be no threads that a fork leaves behind.
    """

    def __init__(self, schema: str, conninfo: str) -> None:
        super().__init__(schema)
        self.conninfo = conninfo
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []
        self._closed = False

    def acquire(self) -> Session:
        """An idle connection, or a new one."""
        if os.getpid() != self._pid:
            # The parent's: not used, not closed, not even collected here.
            self._inherited, self._idle = self._idle, []
            self._pid = os.getpid()
        while self._idle:
            conn = self._idle.pop()
            if _is_alive(conn):
                return Session(self, conn)
            conn.close()
        try:
            conn = psycopg.Connection.connect(self.conninfo, autocommit=True, fallback_application_name="pgq_py")
        except psycopg.Error as error:
            raise translate(error, schema=self.schema, lost=True) from error
        return Session(self, conn)

    def hold(self, transaction: Transaction | None) -> None:
        """Nothing to note: there are other connections."""

    def acquire_another(self) -> Session | None:
        """One more connection."""
        return self.acquire()

    def release(self, session: Session) -> None:
        """Kept if it is idle and whole."""
        conn = session.connection()
        if self._closed or conn.closed or conn.info.transaction_status != TransactionStatus.IDLE:
            conn.close()
        else:
            self._idle.append(conn)

    def close(self) -> None:
        """Close the idle connections; those in use follow when they come back."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


def _is_alive(conn: Connection) -> bool:
    """Whether the server has not hung up on an idle connection. Asks the socket, not the server."""
    try:
        conn.pgconn.consume_input()
    except psycopg.Error:
        return False
    return not conn.closed
