# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""What a call holds until its result has reached the caller: a connection, a listening, jobs."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any

from ..calls import Taken
from ..errors import ConnectionBusy, Error, TransactionAborted
from .listener import Listener
from .session import Outcome, Session, is_alive

if TYPE_CHECKING:
    from .client import PQ

log = logging.getLogger("pgq_py")

_BURIED = "taken by a call that was interrupted before it had the job, and could not be put again: %s"
_KEY_TAKEN = "another job with its dedupe_key is in the queue by now"


class Taking:
    """One take: the jobs that it gave, and where those have gone that shall not reach the caller.

    Args:
        is_own: it was a transaction of its own, not part of an open one.
    """

    __slots__ = ("gone", "is_own", "outcome")

    def __init__(self, is_own: bool) -> None:
        self.is_own = is_own
        self.outcome: Outcome[list[Taken]] = Outcome()
        # By id, noted before the statement is sent: that it was done is known from its outcome.
        self.gone: dict[tuple[str, int], list[Outcome[Any]]] = {}

    def going(self, row: Taken) -> Outcome[Any]:
        """For the outcome of a statement that brings a job to the dead, or back."""
        outcome: Outcome[Any] = Outcome()
        self.gone.setdefault((row.queue, row.id), []).append(outcome)
        return outcome

    def left(self) -> list[Taken]:
        """The jobs that have left the queue and are nowhere else."""
        if not self.outcome.is_done:
            return []
        return [
            row
            for row in self.outcome.result()
            if not any(_has_gone(outcome) for outcome in self.gone.get((row.queue, row.id), ()))
        ]


def _has_gone(outcome: Outcome[Any]) -> bool:
    # A put that found the job's dedupe_key in the queue has stored nothing.
    return outcome.is_done and getattr(outcome.result(), "is_new", True)


class Use:
    """The connection that a call uses, the listening on it, and the jobs that have not reached the caller.

    An interruption (Control-C, a cancellation) can come at any line: after the server has committed and before
    its answer is read, in the middle of an exit. So nothing here rests on a line that follows another.
    What is held is noted before it is had; a call's outermost frame has one handler, and that calls
    `let_go`, which does what is still to be done.
    """

    __slots__ = ("_listener", "_own", "_pq", "_within", "taking")

    def __init__(self, pq: PQ, within: float = math.inf) -> None:
        """For one call.

        Args:
            pq: whose connections.
            within: seconds to wait for one at most, while the server is out of reach.
        """
        self._pq = pq
        self._within = within
        self._own: Session | None = None
        self._listener: Listener | None = None
        self.taking: Taking | None = None

    @property
    def over(self) -> int:
        """How many outages were over when its connection last worked, or was asked for."""
        return self._pq.outage.over if self._own is None else self._own.over

    def open(self) -> Session:
        """The connection to use here and now: the open transaction's, or one until `close`."""
        joined = self._pq._joined()
        if joined is not None:
            return joined
        self._own = self._pq.new_session()
        self._pq.acquire(self._own, within=self._within)
        return self._own

    def listen(self, session: Session, queues: tuple[str, ...]) -> Listener:
        """Listen until `close`."""
        self._listener = Listener(self._pq, session, queues)
        self._listener.start()
        return self._listener

    def close(self, after: BaseException | None = None) -> None:
        """Stop to listen, and give the connection back, after an error or an interruption too. May be repeated."""
        if self._listener is not None:
            self._listener.stop(after)
        if self._own is not None:
            self._own.close()

    def let_go(self, error: BaseException) -> None:
        """After an error or an interruption: close, and give back what has not reached the caller.

        One more interruption meanwhile is borne.
        """
        try:
            self._let_go(error)
        except BaseException:
            self._let_go(error)
            raise

    def _let_go(self, error: BaseException) -> None:
        try:
            if self._listener is not None:
                self._listener.stop(error)
        finally:
            try:
                if self.taking is not None:
                    self._give_back(self.taking, error)
            finally:
                self.close(error)

    def _give_back(self, taking: Taking, error: BaseException) -> None:
        """Put again, or release. What was put again has a new id: the old one went with what took the job."""
        if taking.is_own and taking.outcome.is_unknown and not isinstance(error, Exception):
            _tell(error, "the connection was closed before the server's answer: whether jobs were taken nobody knows")
        if not taking.left():
            return
        try:
            try:
                self._return_all(taking)
            except ConnectionBusy:
                self._return_aside(taking)
        except TransactionAborted:
            pass  # its rollback gives them back
        except Exception as failed:
            jobs = ", ".join(f"{row.id} of queue {row.queue!r}" for row in taking.left())
            _tell(error, f"taken, not delivered, and could not be given back: job {jobs} ({failed})")

    def _return_all(self, taking: Taking) -> None:
        own = self._own
        if own is not None and (own.source.host is not None or (own.raw is not None and is_alive(own.raw))):
            # On the connection that took them: a pool may have no other, and a PQ that was closed has none.
            self._return_on(own, taking)
            return
        use = Use(self._pq)
        try:
            self._return_on(use.open(), taking)
        finally:
            use.close()

    def _return_aside(self, taking: Taking) -> None:
        """Another thread or task has a transaction on the only connection, and might wait for this one to end."""
        source = self._pq.source_aside()
        session = Session(source)
        try:
            source.acquire(session)
            self._return_on(session, taking)
        finally:
            session.close()
            self._pq.close_aside(source)

    def _return_on(self, session: Session, taking: Taking) -> None:
        for row in taking.left():
            self._return(session, taking, row)

    def _return(self, session: Session, taking: Taking, row: Taken) -> None:
        calls, receipt = self._pq.calls, row.raw("receipt")
        if receipt is not None:
            session.run(calls.release(row.queue, row.id, receipt), taking.going(row))
            return
        reason = _BURIED % _KEY_TAKEN
        try:
            if (session.run(calls.put_again(row), taking.going(row))).is_new:
                return
        except ConnectionBusy:
            raise
        except Error as failed:
            # The role may not put, or the queue has become full.
            if not session.is_own():
                raise
            reason = _BURIED % failed
        session.run(calls.bury(row, reason), taking.going(row))
        log.error("job %s of queue %r goes to the dead: %s", row.id, row.queue, reason)


def _tell(error: BaseException, what: str) -> None:
    log.error("%s", what)
    error.add_note(what)
