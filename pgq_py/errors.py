"""What can go wrong, each with what to do next.

Everything the package raises derives from `Error`. What came from PostgreSQL also derives
from psycopg's class for its SQLSTATE, so that `except psycopg.errors.QueryCanceled` works
as well as `except pgq_py.Error`; psycopg's error is the `__cause__`.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

import psycopg
from psycopg import errors as pg


class Error(Exception):
    """The base of all errors of this package."""


class Empty(Error, queue.Empty):
    """`get_nowait` found nothing to take. Also a `queue.Empty` of the standard library."""


class BadName(Error, ValueError):
    """A queue's name is not 1 to 255 bytes of text without NUL."""


class TimeError(Error, ValueError):
    """A time that has no zone, is infinite, out of range or not understood."""


class PayloadError(Error, ValueError, TypeError):
    """The data can't be stored: not JSON, or what a serializer returned is not text or bytes.

    Of a job that a worker has: its data is no call of a task.
    """


class PayloadTooLarge(PayloadError):
    """The data is larger than the queue's max_bytes, or than any job's may be (QU002)."""


class QueueFull(Error, queue.Full):
    """The queue holds as many jobs as its max_depth allows (QU001). Also a `queue.Full` of the standard library."""


class LeaseLost(Error):
    """The lease ran out, or the job was cancelled: somebody else may have the job, and nothing was changed."""


class NotLeased(Error, RuntimeError):
    """The job is not held under a lease, so there is nothing to complete, fail, extend or return."""


class DecodeError(Error, ValueError):
    """The data of a job can't be read by this queue's serializer. The job goes to the dead."""


class UnknownTask(Error, LookupError):
    """No task has the name that a job says. The job goes to the dead."""


class TransferError(Error, ValueError):
    """What is imported is not what an export has written, or not all of it."""


class NotInTransaction(Error, RuntimeError):
    """What would be lost outside of a transaction was called outside of one."""


class Closed(Error):
    """The PQ was closed, or its connection was, while or before this call used it."""


class CannotWait(Error, RuntimeError):
    """Waiting inside a transaction above READ COMMITTED, which sees nothing that was put after it began."""


class ConnectionBusy(Error):
    """Another thread or task has a transaction open on the only connection."""


class Forked(Error):
    """The connection belongs to the parent of this process."""


class BadAddress(Error, psycopg.ProgrammingError):
    """The address of the database can't be read: neither a URL nor key=value pairs."""


class NotInstalled(Error, psycopg.ProgrammingError):
    """The queue's functions are not in the schema."""


class VersionMismatch(Error):
    """The installed schema is older or newer than this package can use."""


class NotAllowed(Error, pg.InsufficientPrivilege):
    """The role lacks a right on the queue (42501)."""


class ReadOnly(Error, pg.ReadOnlySqlTransaction):
    """Connected to a standby, or in a read-only transaction (25006)."""


class TransactionConflict(Error, pg.SerializationFailure):
    """Another transaction was first; roll back and repeat yours (40001)."""


class TransactionAborted(Error, pg.InFailedSqlTransaction):
    """An error inside the transaction was swallowed; the transaction was rolled back (25P02)."""


class Canceled(Error, pg.QueryCanceled):
    """The statement was cancelled, by statement_timeout or by a person (57014)."""


class LockTimeout(Error, pg.LockNotAvailable):
    """A lock could not be had within lock_timeout (55P03)."""


class DiskFull(Error, pg.DiskFull):
    """The server has no room left (53100); what was to be stored was not."""


class NotifyQueueFull(Error, pg.ProgramLimitExceeded):
    """The server's queue of notifications is full, and the transaction rolled back (54000)."""


class ConnectionLost(Error, psycopg.OperationalError):
    """The connection to PostgreSQL is gone."""


class CommitUnknown(ConnectionLost):
    """The connection was lost while something was being committed: it may be done, or not.

    Attributes:
        dedupe_key: of the put that was lost, if it had one. A put with the same key stores nothing, as long as the
            job is in the queue.
    """

    dedupe_key: str | None = None


_READ_ONLY = (
    "this server or transaction is read-only: connect to the primary "
    "(target_session_attrs=read-write among the connection's parameters)"
)
_UNKNOWN = (
    "the connection to PostgreSQL was lost while this was being committed: it may be done, or not. "
    "Repeat a put with the same dedupe_key: as long as the job is in the queue, that gives its id and stores nothing"
)
_LOST = (
    "the connection to PostgreSQL is gone; what it had not committed was rolled back, and jobs taken are back. "
    "If it was closed for idling in a transaction, the work is too long for one: keep transactions short, or lease "
    "the job (queue.lease)"
)
_UNREACHED = "there is no connection to PostgreSQL: check the address, and whether the server runs and lets you in"
_PREPARED = "through a pooler such as PgBouncer, connect with prepare_threshold=None"
# By SQLSTATE: our class, where there is one, and what to do.
_KNOWN: dict[str, tuple[type[Error] | None, str]] = {
    "3F000": (NotInstalled, ""),
    "42883": (NotInstalled, ""),
    "42501": (NotAllowed, ""),
    "25006": (ReadOnly, _READ_ONLY),
    "40001": (
        TransactionConflict,
        "another transaction was first: roll back and repeat the whole transaction",
    ),
    "25P02": (TransactionAborted, "an earlier error has aborted the transaction: roll it back"),
    "57014": (Canceled, "the statement was cancelled; a transaction it belonged to must be rolled back"),
    "55P03": (LockTimeout, "somebody else holds the lock: repeat later, or raise lock_timeout"),
    "22P02": (PayloadError, "data that is not JSON, or text where a number belongs"),
    "22P05": (PayloadError, "the data has a character that PostgreSQL can't store as JSON"),
    "54001": (PayloadError, "the data is nested too deep"),
    "53100": (DiskFull, "what was committed is safe, this was not stored: make room on the server's disk"),
    # Of our statements and commits only a NOTIFY that finds no room gives it.
    "54000": (
        NotifyQueueFull,
        "rolled back: a session listens and does not end its transaction; queue_health names it. End that, then "
        "`select pg_notification_queue_usage()`, which also makes the room free. Until then put with notify=False, in "
        "SQL notify => false: consumers look now and then all the same",
    ),
    "42P05": (None, _PREPARED),
    "26000": (None, _PREPARED),
    "QU001": (QueueFull, "in Python: queue.configure(max_depth=...)"),
    "QU002": (PayloadTooLarge, "in Python: queue.configure(max_bytes=...)"),
    "22007": (TimeError, "not a time"),
    "22008": (TimeError, "the time is out of range"),
}
# Sessions that these end had not begun to commit.
_ROLLED_BACK = {"25P03", "25P04"}
# The link is gone, whatever the statement was: administrator shutdown, crash, and the
# timeouts that end the session (idle in transaction, whole transaction).
_GONE = {"57P01", "57P02", "57P03", "25P03", "25P04", "08000", "08003", "08006"}

_combined: dict[type[psycopg.Error], type[Error]] = {}


def _class_for(error: psycopg.Error) -> type[Error]:
    """A class that is both `Error` and psycopg's class, for errors without a class of their own here."""
    kind = type(error)
    if kind not in _combined:
        _combined[kind] = type(kind.__name__, (Error, kind), {"__module__": __name__, "__doc__": kind.__doc__})
    return _combined[kind]


def translate(
    error: psycopg.Error,
    *,
    schema: str,
    lost: bool = False,
    committing: bool = False,
    dedupe_key: str | None = None,
    advice: Callable[[], str] | None = None,
) -> Exception:
    """Our error for psycopg's.

    Args:
        error: what psycopg raised.
        schema: where the queue is installed, for the message of `NotInstalled`.
        lost: the connection was found closed after the error.
        committing: what was sent may have been committed all the same.
        dedupe_key: of the put, if that is what it was.
        advice: whom a role without the right should ask for what. Our functions say it themselves; PostgreSQL,
            which refuses those who may not even call them, does not.
    """
    if isinstance(error, Error):
        return error
    state = error.sqlstate or ""
    # The primary message and the hint: the server's DETAIL and CONTEXT may quote the data.
    text = error.diag.message_primary or str(error).split("\n", 1)[0]
    known, remedy = _KNOWN.get(state, (None, ""))
    if error.diag.message_hint and known is not NotInstalled:  # to whom PostgreSQL speaks of type casts
        text = f"{text}: {error.diag.message_hint}"
    if state in ("22P02", "22P05"):  # their primary messages may quote the data
        text = "PostgreSQL refused a value"
    if known is NotInstalled:
        remedy = f"the queue is not installed in the schema {schema!r}: run `pgq-py migrate`, or pq.create()"
    elif state in _GONE or (lost and known is None):
        unknown = committing and state not in _ROLLED_BACK
        known, remedy = (CommitUnknown, _UNKNOWN) if unknown else (ConnectionLost, _LOST)
        if error.pgconn is not None:  # of an attempt to connect
            remedy = _UNREACHED
    elif known is NotAllowed and advice is not None and not error.diag.message_hint:
        remedy = advice()
    ours = _class_for(error) if known is None else known
    made = ours(f"{text} ({remedy})" if remedy else text)
    if isinstance(made, CommitUnknown):
        made.dedupe_key = dedupe_key
    # What psycopg knows about the error: diag and sqlstate stay readable on ours.
    if isinstance(made, psycopg.Error):
        made.__dict__.update({key: value for key, value in vars(error).items() if key != "__notes__"})
        if error.sqlstate:
            made.sqlstate = error.sqlstate
    return made
