"""Where connections come from, and one connection in use."""

from __future__ import annotations

import logging
import math
import os
from contextlib import nullcontext, suppress
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import psycopg
from psycopg.abc import PQGenConn
from psycopg.pq import PipelineStatus, TransactionStatus

from .._compat import AsyncLock, async_sleep, jitter
from ..calls import BACKEND_PID, Call
from ..driver import Answer, Execution, Statement, forget_prepared
from ..errors import Closed, ConnectionBusy, Forked, PayloadError, TransactionConflict, translate
from ..hosts import AsyncHost
from ..links import Outage, with_keepalives
from ..values import Dialect, dialect_of

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

    from .listener import AsyncListener
    from .transaction import AsyncTransaction

log = logging.getLogger("pgq_py")

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

# As plain numbers, which is what libpq gives: enumerations compare slowly.
_IDLE = int(TransactionStatus.IDLE)
_ACTIVE = int(TransactionStatus.ACTIVE)
_IN_TRANSACTION = (int(TransactionStatus.INTRANS), int(TransactionStatus.INERROR))
_NO_PIPELINE = int(PipelineStatus.OFF)
_NO_LOCK = nullcontext()

# How long the server may take to end a statement that was interrupted: as long as psycopg gives it.
CANCEL_WITHIN = 5.0
# How often who waits, for a job or for a connection, looks whether his PQ was closed.
SLICE = 0.25


class AsyncOutcome(Generic[T]):
    """How a call ended, for those too whom an interruption (Control-C, a cancellation) kept from its result."""

    __slots__ = ("_call", "_dialect", "_execution")

    def __init__(self) -> None:
        self._execution: Execution | None = None

    def note(self, call: Call[T], execution: Execution, dialect: Dialect) -> None:
        """The statement is about to be sent."""
        self._call, self._dialect = call, dialect
        self._execution = execution  # last: from now on it can be read

    @property
    def is_done(self) -> bool:
        """Whether the statement was done: for certain."""
        return self._execution is not None and self._execution.is_done

    @property
    def is_unknown(self) -> bool:
        """Whether nobody can say: the connection went away, or was closed, before the answer."""
        return self._execution is not None and self._execution.is_unknown

    def result(self) -> T:
        """What it gave, if it was done."""
        assert self._execution is not None
        return self._call.read(Answer(self._execution.results, self._dialect))


class AsyncListening:
    """What is listened to on a connection: several sleepers may share it."""

    def __init__(self) -> None:
        # Between counting and telling the server.
        self.lock = AsyncLock()
        self.sleepers: set[AsyncListener] = set()
        # Goes up with each notification, for those that it did not reach.
        self.heard = 0


class AsyncSession:
    """One connection, for one operation or one transaction.

    Made before it has its connection, so that whoever is interrupted meanwhile knows what to close.
    """

    def __init__(self, source: AsyncSource) -> None:
        self.source = source
        self._listening: AsyncListening | None = None
        # Psycopg's; None before `acquire`, and for a host's.
        self._conn: Connection | None = None
        self._pid = os.getpid()
        # Of a connection that threads or tasks share: between looking at its state and acting on it.
        self._lock: AsyncLock | None = None
        # How many outages were over when its connection last worked, or was asked for; and whether the server was
        # out of reach then, so that an answer ends that.
        self.over = source.outage.over
        self._ends_outage = source.outage.is_on
        # Whether a statement that the server does not answer in time is given up, as after an interruption.
        self.is_hurried = False

    @property
    def is_shared(self) -> bool:
        """Whether other sessions may use the same connection."""
        return self._lock is not None

    @property
    def listening(self) -> AsyncListening:
        """What is listened to on the connection."""
        if self.is_shared:
            return self.source.listening
        if self._listening is None:
            self._listening = AsyncListening()
        return self._listening

    @property
    def raw(self) -> Connection | None:
        """Psycopg's connection, but None for a host's."""
        return self._conn

    async def connection(self) -> Connection:
        """Psycopg's connection. A host may open it or begin its transaction now.

        Raises:
            Forked: it belongs to the parent of this process.
        """
        self.check_process()
        if self._conn is not None:
            return self._conn
        assert self.source.host is not None  # only a hosted source gives sessions without a connection
        conn: Connection = await self.source.host.raw()
        return conn

    async def is_own(self) -> bool:
        """Whether a statement now would be a transaction of its own, committed when it returns."""
        conn = self._conn
        if conn is not None:
            return conn.pgconn.transaction_status == _IDLE
        conn = await self.connection()
        return conn.pgconn.transaction_status == _IDLE and conn.autocommit

    async def close(self) -> None:
        """Give the connection back to where it came from. May be repeated, after an interruption."""
        await self.source.release(self)

    async def run(self, call: Call[T], outcome: AsyncOutcome[T] | None = None, between: Call[Any] | None = None) -> T:
        """Run a call: on an idle connection in one round trip and durable, else in the open transaction.

        A transaction of our own that lost against another one is repeated a few times.

        Args:
            call: what to run.
            outcome: knows the result, once there is one, whatever happens on the way from here to the caller.
            between: what else to run before it is repeated.
        """
        for attempt in range(10):
            try:
                return await self._run_once(call, outcome)
            except TransactionConflict:
                if not await self.is_own():
                    raise
                await async_sleep(jitter(0.01 * 2**attempt))
                if between is not None:
                    await self._run_once(between, None)
            except psycopg.errors.InvalidSqlStatementName:
                # What was prepared is gone, and psycopg does not know: DISCARD ALL, by a pool that resets
                # its connections, for example. Nothing was done.
                forget_prepared(await self.connection())
                if not await self.is_own():
                    raise
        return await self._run_once(call, outcome)

    async def _run_once(self, call: Call[T], outcome: AsyncOutcome[T] | None) -> T:
        async with self._lock or _NO_LOCK:
            self.source.check_holder(self)
            self.check_process()
            conn = self._conn or await self.connection()
            pgconn = conn.pgconn
            is_idle = pgconn.transaction_status == _IDLE
            try:
                dialect = dialect_of(conn)
                statement, params = call.statement, None
                if isinstance(statement, Statement):
                    params = statement.dump(call.params or (), dialect.encoding)
                execution = Execution(conn, statement, params)
                if outcome is not None:
                    outcome.note(call, execution, dialect)
                async with conn.lock:
                    try:
                        # A host's connection begins a transaction as the host has set it.
                        steps = execution.steps(begins=self._conn is None)
                        await conn.wait(steps, timeout=CANCEL_WITHIN if self.is_hurried else None)
                    except BaseException:
                        await _end(conn, execution)
                        raise
                if pgconn.pipeline_status != _NO_PIPELINE:
                    async with conn.pipeline() as pipeline:
                        await pipeline.sync()  # which commits, if nothing began a transaction
                if self._ends_outage:
                    self._ends_outage = False
                    self.source.outage.end()
                self.over = self.source.outage.over
                return call.read(Answer(execution.results, dialect))
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

    async def begin(self, transaction: AsyncTransaction) -> None:
        """Enter a transaction, or a savepoint in the open one; by the host where there is one.

        Raises:
            ConnectionBusy: another task or thread has a transaction open on the only connection.
        """
        self.check_process()
        async with self._lock or _NO_LOCK:
            self.source.check_holder(self)
            begun: Any
            if self.source.host is not None:
                begun = self.source.host.transaction()
            else:
                conn = await self.connection()
                transaction.is_real = conn.pgconn.transaction_status == _IDLE
                # Not `conn.transaction()`, but for pipelines: that is a generator, and one that a
                # forked child inherits and drops would roll back the parent's transaction.
                is_piped = conn.pgconn.pipeline_status != PipelineStatus.OFF
                begun = conn.transaction() if is_piped else psycopg.AsyncTransaction(conn)
                transaction.begun = None if is_piped else begun
            await begun.__aenter__()
            transaction.begun = begun
            if transaction.is_outermost:
                self.source.hold(transaction, self)

    async def roll_back(self, transaction: AsyncTransaction, error: BaseException) -> None:
        """Undo what an interruption has left of a transaction's beginning or end. May be repeated.

        A connection whose transaction can't be ended is closed.
        """
        begun, conn = transaction.begun, self._conn
        try:
            if not isinstance(begun, psycopg.AsyncTransaction):
                if begun is not None and not transaction.is_ending:  # a host's, or in a pipeline
                    await begun.__aexit__(type(error), error, error.__traceback__)
            elif begun.status is begun.Status.ACTIVE:
                await begun.__aexit__(type(error), error, error.__traceback__)
            elif conn is not None and conn.pgconn.transaction_status in _IN_TRANSACTION:
                # Psycopg's own exit was interrupted. Should that have come to its end after all, the name of the
                # savepoint is unknown: then the whole transaction fails, which is the safe side.
                name = begun.savepoint_name
                await conn.execute(f'rollback to savepoint "{name}"' if name else "rollback")
        except psycopg.Error:
            pass  # the error that brought us here says more
        finally:
            if transaction.is_real and conn is not None and conn.pgconn.transaction_status != _IDLE:
                await conn.close()

    def is_inherited(self) -> bool:
        """Whether the connection belongs to the parent of this process: hands off."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raises `Forked` in a child of the process that the connection belongs to."""
        if os.getpid() != self._pid:
            raise Forked("this transaction or connection belongs to the parent process: open one in the child")


class AsyncSource:
    """Gives out connections: here always the same one, the caller's, or the host's."""

    def __init__(self, schema: str, conn: Connection | None = None, host: AsyncHost | None = None) -> None:
        self.schema = schema
        self.host = host
        self._lock = AsyncLock()
        self.listening = AsyncListening()
        # The transaction that has the only connection for itself, and its session.
        self.holder: AsyncTransaction | None = None
        self._holding: AsyncSession | None = None
        self.outage = Outage()
        # Whether it was connected, and so whatever ends a connection may pass.
        self.can_reconnect = False
        self.is_closed = False
        # Whether a pooler stands between us and the server; None as long as nobody has looked.
        self.is_pooled: bool | None = None
        self._conn = conn
        self._pid = os.getpid()

    async def acquire(self, session: AsyncSession, within: float = math.inf) -> None:
        """A connection for the session; `session.close` gives it back.

        Args:
            session: that has none yet.
            within: seconds to wait for one at most, while the server is out of reach.
        """
        if os.getpid() != self._pid:
            raise Forked("this connection belongs to the parent process: open one, and a PQ, in the child")
        if self._conn is not None and self._conn.closed:
            raise Closed("the connection given to PQ is closed")
        while self.holder is not None and self.holder.abandoned:
            await async_sleep(0.001)  # until the loop has closed the generator, which rolls back
        if self.host is None or not self.host.is_per_thread:
            session._lock = self._lock
        session._conn = self._conn

    async def acquire_another(self, session: AsyncSession) -> bool:
        """One more while a transaction has the first; False where there is no other."""
        return False

    async def look_for_pooler(self, session: AsyncSession) -> bool:
        """Whether a pooler stands between us and the server; said once in the log, with what follows.

        A pooler answers the client's greeting itself, and makes up the number of the process in it. In which mode it
        is can't be told: one that has idle servers hands us the same again in any. So behind each we poll, rather than
        leave locks and LISTENs in sessions that are others' next.
        """
        greeted = (await session.connection()).info.backend_pid
        was_known = self.is_pooled is not None
        self.is_pooled = await session.run(BACKEND_PID) != greeted
        if self.is_pooled and not was_known:
            log.warning(
                "this connection goes through a pooler such as PgBouncer, where LISTEN can't be relied on: whoever "
                "waits for jobs looks for them every half second. Give consumers the address of the server itself"
            )
        return self.is_pooled

    def check_holder(self, session: AsyncSession) -> None:
        """Raises `ConnectionBusy` if a transaction on another session has the only connection."""
        if self._holding is not None and self._holding is not session:
            raise ConnectionBusy(
                "another thread or task has a transaction open on this PQ's only connection: "
                "give PQ a pool, or each of them a PQ of its own"
            )

    def hold(self, transaction: AsyncTransaction | None, session: AsyncSession | None = None) -> None:
        """Note the transaction that now has the only connection for itself."""
        if self.host is None or not self.host.is_per_thread:
            self.holder, self._holding = transaction, session

    def let_go(self, session: AsyncSession) -> None:
        """The transaction on this session, if it had the only connection for itself, is over."""
        if self._holding is session:
            self.hold(None)

    async def release(self, session: AsyncSession) -> None:
        """Take a session back, in whatever state its connection is."""

    @property
    def ends_connections(self) -> bool:
        """Whether a connection that comes back is closed, so that nothing need be undone on it."""
        return False

    def check_open(self) -> None:
        """Raises `Closed` after `close`."""
        if self.is_closed:
            raise Closed("this PQ was closed")

    async def close(self) -> None:
        """Close what is ours, and end who waits for a connection; the caller's connection and pool stay open."""
        self.is_closed = True


class AsyncPoolSource(AsyncSource):
    """Connections from the caller's pool."""

    def __init__(self, schema: str, pool: AsyncConnectionPool[Any]) -> None:
        from psycopg_pool import PoolTimeout  # there is one where a pool is

        super().__init__(schema)
        self._pool = pool
        self._no_connection_yet = PoolTimeout

    async def acquire(self, session: AsyncSession, within: float = math.inf) -> None:
        """A connection of the pool."""
        await self._getconn(session, within, self.outage.is_on)

    async def _getconn(self, session: AsyncSession, within: float, is_lost: bool) -> None:
        """A connection that is not known to be dead.

        Args:
            session: that has none yet.
            within: seconds to wait at most if the server is out of reach; otherwise the pool's own patience counts.
            is_lost: whether it is.
        """
        if os.getpid() != self._pid:
            raise Forked("this pool belongs to the parent process: open one, and a PQ, in the child")
        until, was_on = monotonic() + within, self.outage.is_on
        while True:
            try:
                if is_lost:
                    await self._getconn_in_slices(session, min(until - monotonic(), self._pool.timeout))
                else:
                    session._conn = await self._pool.getconn()
            except psycopg.Error as error:
                self.check_open()
                if was_on and not self.outage.is_on:
                    was_on = False  # others have connections already: this is no outage of its own
                    continue
                # A pool that was closed stays so, whatever the server does.
                raise translate(error, schema=self.schema, lost=is_lost and not self._pool.closed) from error
            conn = await session.connection()
            if is_alive(conn):
                self.can_reconnect = True
                return
            # After the server was away a pool may have as many dead connections as it has any.
            is_lost = True
            await conn.close()
            await self.release(session)

    async def _getconn_in_slices(self, session: AsyncSession, within: float) -> None:
        """A connection, or `Closed` soon after the PQ was closed: the pool is the caller's, and stays open.

        Each slice is a new place at the end of the pool's line; where the server is away nobody in it gets anything.
        """
        until = monotonic() + within
        while (left := until - monotonic()) > SLICE:
            with suppress(self._no_connection_yet):
                session._conn = await self._pool.getconn(SLICE)
                return
            self.check_open()
        session._conn = await self._pool.getconn(max(left, 0.01))

    def hold(self, transaction: AsyncTransaction | None, session: AsyncSession | None = None) -> None:
        """Nothing to note: there are other connections."""

    async def acquire_another(self, session: AsyncSession) -> bool:
        """Another connection of the pool, if it has one to spare: those who wait may all hold one."""
        try:
            await self._getconn(session, 0.01, True)
        except psycopg.OperationalError:
            return False
        return True

    async def release(self, session: AsyncSession) -> None:
        """Back to the pool, which discards a broken connection."""
        conn = session._conn
        if conn is None or session.is_inherited():
            return
        try:
            session._conn = None  # first: a connection given back twice would be in two hands
            await self._pool.putconn(conn)
        except BaseException:
            session._conn = None
            if getattr(conn, "_pool", None) is self._pool:  # interrupted before the pool had it
                await self._pool.putconn(conn)
            raise


# Whose connection is being made here.
_making: ContextVar[AsyncDialSource] = ContextVar("pgq_py_making")


class _AsyncDialled(psycopg.AsyncConnection[Any]):
    """A connection whose making ends soon after its PQ was closed, and not by `connect_timeout` alone."""

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> PQGenConn[Self]:
        # Psycopg's own steps, which it goes on with when the socket is ready and ten times a second.
        steps, source = super()._connect_gen(conninfo), _making.get()
        try:
            awaited = next(steps)
            while not source.is_closed:
                awaited = steps.send((yield awaited))
        except StopIteration as made:
            return made.value  # type: ignore[no-any-return]
        raise psycopg.OperationalError("the PQ was closed")


class AsyncDialSource(AsyncSource):
    """Connections made when needed, kept for reuse: as many as are in use at a time.

    Not a pool of psycopg's: a wrong address shall be an error at once, not after a timeout, and
    there shall be no threads that a fork leaves behind.
    """

    def __init__(self, schema: str, conninfo: str) -> None:
        super().__init__(schema)
        self.conninfo = conninfo
        self._idle: list[Connection] = []
        self._inherited: list[Connection] = []

    async def acquire(self, session: AsyncSession, within: float = math.inf) -> None:
        """An idle connection, or a new one."""
        if os.getpid() != self._pid:
            # The parent's: not used, not closed, not even collected here.
            self._inherited, self._idle = self._idle, []
            self._pid = os.getpid()
        with suppress(IndexError):  # others may take one between a look and a pop
            while True:
                session._conn = self._idle.pop()
                if is_alive(session._conn):
                    return
                await session._conn.close()
        await self._connect(session, within)
        try:
            if await self.look_for_pooler(session):
                # What is prepared stays in one session of the server, and another has something else by that name.
                (await session.connection()).prepare_threshold = None
        except BaseException:
            await (await session.connection()).close()  # or it would be kept, and might prepare
            raise
        self.can_reconnect = True

    async def _connect(self, session: AsyncSession, within: float) -> None:
        making = _making.set(self)
        try:
            parameters = with_keepalives(self.conninfo)
            if self.outage.is_on and within < math.inf:
                patience = float(parameters.get("connect_timeout", 0)) or within
                parameters["connect_timeout"] = max(1, math.ceil(min(within, patience)))
            session._conn = await _AsyncDialled.connect(
                autocommit=True, fallback_application_name="pgq_py", **parameters
            )
        except psycopg.Error as error:
            self.check_open()
            raise translate(error, schema=self.schema, lost=True) from error
        finally:
            _making.reset(making)

    def hold(self, transaction: AsyncTransaction | None, session: AsyncSession | None = None) -> None:
        """Nothing to note: there are other connections."""

    async def acquire_another(self, session: AsyncSession) -> bool:
        """One more connection, if there is one to be had."""
        try:
            await self.acquire(session)
        except psycopg.OperationalError:
            return False
        return True

    async def release(self, session: AsyncSession) -> None:
        """Kept if it is idle and whole."""
        conn = session._conn
        if conn is None or session.is_inherited():
            return
        # Psycopg's count of open transactions is wrong after Control-C in its own lines that begin or end one.
        is_whole = conn.pgconn.transaction_status == _IDLE and not getattr(conn, "_num_transactions", 0)
        if self.is_closed or conn.closed or not is_whole:
            await conn.close()
            return
        try:
            session._conn = None  # first: a connection given back twice would be in two hands
            self._idle.append(conn)
        except BaseException:
            await conn.close()  # interrupted: whether it is in the list nobody knows
            raise
        if self.is_closed:  # meanwhile: then nobody else may look into the list again
            await self._close_idle()

    @property
    def ends_connections(self) -> bool:
        """After `close`."""
        return self.is_closed

    async def close(self) -> None:
        """Close the idle connections; those in use follow when they come back."""
        self.is_closed = True
        await self._close_idle()

    async def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                await self._idle.pop().close()


async def _end(conn: Connection, execution: Execution) -> None:
    """Find out how a statement has ended whose steps were interrupted, under the connection's lock.

    Psycopg has done so where the interruption met it waiting. One that came between two steps has left the
    server at work. One that does not answer (it is stopped, or its host) costs the connection.
    """
    if conn.pgconn.transaction_status != _ACTIVE or conn.pgconn.pipeline_status != _NO_PIPELINE:
        return
    try:
        await conn.cancel_safe(timeout=CANCEL_WITHIN)
        await conn.wait(execution.rest(), timeout=CANCEL_WITHIN)
    except psycopg.Error:
        pass  # the interruption that brought us here says more
    finally:
        if conn.pgconn.transaction_status == _ACTIVE:
            await conn.close()


def is_alive(conn: Connection) -> bool:
    """Whether the server has not hung up on an idle connection. Asks the socket, not the server."""
    try:
        # The first reads the server's farewell, the second finds that the socket is at its end.
        conn.pgconn.consume_input()
        conn.pgconn.consume_input()
    except psycopg.Error:
        return False
    return not conn.closed
