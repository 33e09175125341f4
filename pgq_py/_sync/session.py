# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""Where connections come from, and one connection in use."""

from __future__ import annotations

import logging
import math
import os
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import psycopg
from psycopg.pq import PipelineStatus, TransactionStatus

from .._compat import Lock, jitter, sleep
from ..calls import BACKEND_PID, Call
from ..driver import Answer, Execution, Statement, forget_prepared
from ..errors import Closed, ConnectionBusy, Forked, PayloadError, TransactionConflict, translate
from ..hosts import Host
from ..links import Outage, with_keepalives
from ..values import dialect_of

if TYPE_CHECKING:
    from psycopg_pool import ConnectionPool

    from .transaction import Transaction

log = logging.getLogger("pgq_py")

T = TypeVar("T")
Connection = psycopg.Connection[Any]
Keep: TypeAlias = Callable[[T], object]

# As plain numbers, which is what libpq gives: enumerations compare slowly.
_IDLE = int(TransactionStatus.IDLE)
_NO_PIPELINE = int(PipelineStatus.OFF)
_NO_LOCK = nullcontext()


class Listening:
    """What is listened to on a connection: several sleepers may share it."""

    def __init__(self) -> None:
        # Between counting and telling the server.
        self.lock = Lock()
        self.queues: Counter[str] = Counter()
        # Goes up with each notification, for those that it did not reach.
        self.heard = 0


class Session:
    """One connection, for one operation or one transaction."""

    def __init__(self, source: Source, conn: Connection | None, lock: Lock | None = None) -> None:
        self.source = source
        self._listening: Listening | None = None
        self._conn = conn
        self._pid = os.getpid()
        # Of a connection that threads or tasks share: between looking at its state and acting on it.
        self._lock = lock

    @property
    def is_shared(self) -> bool:
        """Whether other sessions may use the same connection."""
        return self._lock is not None

    @property
    def listening(self) -> Listening:
        """What is listened to on the connection."""
        if self.is_shared:
            return self.source.listening
        if self._listening is None:
            self._listening = Listening()
        return self._listening

    @property
    def raw(self) -> Connection | None:
        """Psycopg's connection, but None for a host's."""
        return self._conn

    def connection(self) -> Connection:
        """Psycopg's connection. A host may open it or begin its transaction now.

        Raises:
            Forked: it belongs to the parent of this process.
        """
        self.check_process()
        if self._conn is not None:
            return self._conn
        assert self.source.host is not None  # only a hosted source gives sessions without a connection
        conn: Connection = self.source.host.raw()
        return conn

    def is_own(self) -> bool:
        """Whether a statement now would be a transaction of its own, committed when it returns."""
        conn = self._conn
        if conn is not None:
            return conn.pgconn.transaction_status == _IDLE
        conn = self.connection()
        return conn.pgconn.transaction_status == _IDLE and conn.autocommit

    def run(self, call: Call[T], keep: Keep[T] | None = None, between: Call[Any] | None = None) -> T:
        """Run a call: on an idle connection in one round trip and durable, else in the open transaction.

        A transaction of our own that lost against another one is repeated a few times.

        Args:
            call: what to run.
            keep: is given the result even when an interruption (asyncio's cancellation, Control-C)
                comes too late to keep the statement from being done.
            between: what else to run before it is repeated.
        """
        for attempt in range(10):
            try:
                return self._run_once(call, keep)
            except TransactionConflict:
                if not self.is_own():
                    raise
                sleep(jitter(0.01 * 2**attempt))
                if between is not None:
                    self._run_once(between, None)
            except psycopg.errors.InvalidSqlStatementName:
                # What was prepared is gone, and psycopg does not know: DISCARD ALL, by a pool that resets
                # its connections, for example. Nothing was done.
                forget_prepared(self.connection())
                if not self.is_own():
                    raise
        return self._run_once(call, keep)

    def _run_once(self, call: Call[T], keep: Keep[T] | None) -> T:
        with self._lock or _NO_LOCK:
            self.source.check_holder(self)
            self.check_process()
            conn = self._conn or self.connection()
            pgconn = conn.pgconn
            is_idle = pgconn.transaction_status == _IDLE
            execution: Execution | None = None
            try:
                dialect = dialect_of(conn)
                statement, params = call.statement, None
                if isinstance(statement, Statement):
                    params = statement.dump(call.params or (), dialect.encoding)
                execution = Execution(conn, statement, params)
                with conn.lock:
                    # A host's connection begins a transaction as the host has set it.
                    conn.wait(execution.steps(begins=self._conn is None))
                if pgconn.pipeline_status != _NO_PIPELINE:
                    with conn.pipeline() as pipeline:
                        pipeline.sync()  # which commits, if nothing began a transaction
                result = call.read(Answer(execution.result, dialect))
            except psycopg.Error as error:
                is_own = is_idle and (self._conn is not None or conn.autocommit)
                raise translate(
                    error,
                    schema=self.source.schema,
                    lost=conn.closed,
                    committing=is_own and conn.closed and call.matters,
                    dedupe_key=call.dedupe_key,
                    advice=lambda: call.advice(self.source.schema, conn.info.user),
                ) from error
            except UnicodeEncodeError:
                # Not chained: Python's error carries the text.
                raise PayloadError("the text has a character that the connection's client_encoding lacks") from None
            except BaseException:
                # Control-C or a cancellation, for which psycopg has waited for the statement's end: it may
                # have been done all the same.
                if keep is not None and execution is not None and execution.result is not None:
                    keep(call.read(Answer(execution.result, dialect)))
                raise
            if keep is not None:
                keep(result)
            return result

    def begin(self, transaction: Transaction) -> AbstractContextManager[Any]:
        """Enter a transaction, or a savepoint in the open one; by the host where there is one.

        Raises:
            ConnectionBusy: another task or thread has a transaction open on the only connection.
        """
        self.check_process()
        with self._lock or _NO_LOCK:
            self.source.check_holder(self)
            begun: AbstractContextManager[Any]
            if self.source.host is not None:
                begun = self.source.host.transaction()
                begun.__enter__()
            else:
                conn = self.connection()
                # Not `conn.transaction()`, but for pipelines: that is a generator, and one that a
                # forked child inherits and drops would roll back the parent's transaction.
                is_piped = conn.pgconn.pipeline_status != PipelineStatus.OFF
                begun = conn.transaction() if is_piped else psycopg.Transaction(conn)
                try:
                    begun.__enter__()
                except BaseException:
                    # Psycopg undoes a BEGIN that Control-C or a cancellation interrupted. Had it failed, nobody
                    # would ever end it.
                    if transaction.is_outermost and conn.info.transaction_status != TransactionStatus.IDLE:
                        conn.close()
                    raise
            if transaction.is_outermost:
                self.source.hold(transaction, self)
            return begun

    def is_inherited(self) -> bool:
        """Whether the connection belongs to the parent of this process: hands off."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raises `Forked` in a child of the process that the connection belongs to."""
        if os.getpid() != self._pid:
            raise Forked("this transaction or connection belongs to the parent process: open one in the child")


class Source:
    """Gives out connections: here always the same one, the caller's, or the host's."""

    def __init__(self, schema: str, conn: Connection | None = None, host: Host | None = None) -> None:
        self.schema = schema
        self.host = host
        self._lock = Lock()
        self.listening = Listening()
        # The transaction that has the only connection for itself, and its session.
        self.holder: Transaction | None = None
        self._holding: Session | None = None
        self.outage = Outage()
        # Whether it was connected, and so whatever ends a connection may pass.
        self.can_reconnect = False
        # Whether a pooler stands between us and the server; None as long as nobody has looked.
        self.is_pooled: bool | None = None
        self._conn = conn
        self._pid = os.getpid()

    def acquire(self, within: float = math.inf) -> Session:
        """A session; give it back with `release`.

        Args:
            within: seconds to wait for one at most, while the server is out of reach.
        """
        if os.getpid() != self._pid:
            raise Forked("this connection belongs to the parent process: open one, and a PQ, in the child")
        if self._conn is not None and self._conn.closed:
            raise Closed("the connection given to PQ is closed")
        while self.holder is not None and self.holder.abandoned:
            sleep(0.001)  # until the loop has closed the generator, which rolls back
        if self.host is not None and self.host.is_per_thread:
            return Session(self, None)
        return Session(self, self._conn, self._lock)

    def acquire_another(self) -> Session | None:
        """One more while a transaction has the first; None where there is no other."""
        return None

    def look_for_pooler(self, session: Session) -> bool:
        """Whether a pooler stands between us and the server; said once in the log, with what follows.

        A pooler answers the client's greeting itself, and makes up the number of the process in it. In which mode it
        is can't be told: one that has idle servers hands us the same again in any. So behind each we poll, rather than
        leave locks and LISTENs in sessions that are others' next.
        """
        greeted = (session.connection()).info.backend_pid
        was_known = self.is_pooled is not None
        self.is_pooled = session.run(BACKEND_PID) != greeted
        if self.is_pooled and not was_known:
            log.warning(
                "this connection goes through a pooler such as PgBouncer, where LISTEN can't be relied on: whoever "
                "waits for jobs looks for them every half second. Give consumers the address of the server itself"
            )
        return self.is_pooled

    def check_holder(self, session: Session) -> None:
        """Raises `ConnectionBusy` if a transaction on another session has the only connection."""
        if self._holding is not None and self._holding is not session:
            raise ConnectionBusy(
                "another thread or task has a transaction open on this PQ's only connection: "
                "give PQ a pool, or each of them a PQ of its own"
            )

    def hold(self, transaction: Transaction | None, session: Session | None = None) -> None:
        """Note the transaction that now has the only connection for itself."""
        if self.host is None or not self.host.is_per_thread:
            self.holder, self._holding = transaction, session

    def release(self, session: Session) -> None:
        """Take a session back, in whatever state its connection is."""

    def close(self) -> None:
        """Close what is ours; the caller's connection and pool are not."""


class PoolSource(Source):
    """Connections from the caller's pool."""

    def __init__(self, schema: str, pool: ConnectionPool[Any]) -> None:
        super().__init__(schema)
        self._pool = pool

    def acquire(self, within: float = math.inf) -> Session:
        """A connection of the pool."""
        if os.getpid() != self._pid:
            raise Forked("this pool belongs to the parent process: open one, and a PQ, in the child")
        return Session(self, self._getconn(within, self.outage.is_on))

    def _getconn(self, within: float, is_lost: bool) -> Connection:
        """A connection that is not known to be dead.

        Args:
            within: seconds to wait at most if the server is out of reach; otherwise the pool's own patience counts.
            is_lost: whether it is.
        """
        while True:
            try:
                timeout = max(within, 0.01) if is_lost and within < math.inf else None
                conn: Connection = self._pool.getconn(timeout)
            except psycopg.Error as error:
                raise translate(error, schema=self.schema, lost=is_lost) from error
            if _is_alive(conn):
                self.can_reconnect = True
                return conn
            # After the server was away a pool may have as many dead connections as it has any.
            is_lost = True
            conn.close()
            self._pool.putconn(conn)

    def hold(self, transaction: Transaction | None, session: Session | None = None) -> None:
        """Nothing to note: there are other connections."""

    def acquire_another(self) -> Session | None:
        """Another connection of the pool, if it has one to spare: those who wait may all hold one."""
        try:
            return Session(self, self._getconn(0.01, True))
        except psycopg.OperationalError:
            return None

    def release(self, session: Session) -> None:
        """Back to the pool, which discards a broken connection."""
        if session.is_inherited():
            return
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

    def acquire(self, within: float = math.inf) -> Session:
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
        session = Session(self, self._connect(within))
        try:
            if self.look_for_pooler(session):
                # What is prepared stays in one session of the server, and another has something else by that name.
                (session.connection()).prepare_threshold = None
        except BaseException:
            (session.connection()).close()
            raise
        self.can_reconnect = True
        return session

    def _connect(self, within: float) -> Connection:
        try:
            parameters = with_keepalives(self.conninfo)
            if self.outage.is_on and within < math.inf:
                patience = float(parameters.get("connect_timeout", 0)) or within
                parameters["connect_timeout"] = max(1, math.ceil(min(within, patience)))
            return psycopg.Connection.connect(autocommit=True, fallback_application_name="pgq_py", **parameters)
        except psycopg.Error as error:
            raise translate(error, schema=self.schema, lost=True) from error

    def hold(self, transaction: Transaction | None, session: Session | None = None) -> None:
        """Nothing to note: there are other connections."""

    def acquire_another(self) -> Session | None:
        """One more connection, if there is one to be had."""
        try:
            return self.acquire()
        except psycopg.OperationalError:
            return None

    def release(self, session: Session) -> None:
        """Kept if it is idle and whole."""
        if session.is_inherited():
            return
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
        # The first reads the server's farewell, the second finds that the socket is at its end.
        conn.pgconn.consume_input()
        conn.pgconn.consume_input()
    except psycopg.Error:
        return False
    return not conn.closed
