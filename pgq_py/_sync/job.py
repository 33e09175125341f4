# Generated from pgq_py/_async by tools/make_sync.py (`make sync`): edit that.
"""A job, as it was taken or listed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ..calls import Taken
from ..codecs import JSON, Payload

if TYPE_CHECKING:
    from .queue import Queue


_UNREAD = object()


class Job:
    """A job, taken from a queue or listed in it.

    Attributes:
        id: its number, unique in the queue.
        queue: the name of its queue.
        data: what was put. Of a job that was listed and can't be read: raises `DecodeError`.
        size: of the stored data, in bytes.
        priority: higher comes first.
        enqueued_at, schedule_at, expected_at: aware datetimes; the last two may be None.
        attempts, max_attempts: how often it was tried, and may be (None: as the queue says).
        last_error, progress_count, consumer: from the last attempt.
        dedupe_key, headers: as put.
    """

    __slots__ = (
        "_data",
        "_payload",
        "_queue",
        "attempts",
        "consumer",
        "dedupe_key",
        "enqueued_at",
        "expected_at",
        "headers",
        "id",
        "last_error",
        "max_attempts",
        "priority",
        "progress_count",
        "queue",
        "schedule_at",
    )

    def __init__(self, queue: Queue, taken: Taken) -> None:
        self._queue = queue
        self._payload = taken.payload
        self.id: int = taken.id
        self.queue: str = taken.queue
        self._data: Any = _UNREAD
        self.priority: int = taken.priority
        self.enqueued_at: datetime = taken.enqueued_at
        self.schedule_at: datetime | None = taken.schedule_at
        self.expected_at: datetime | None = taken.expected_at
        self.attempts: int = taken.attempts
        self.max_attempts: int | None = taken.max_attempts
        self.last_error: str | None = taken.last_error
        self.progress_count: int | None = taken.progress_count
        self.consumer: str | None = taken.consumer
        self.dedupe_key: str | None = taken.dedupe_key
        self.headers: Any = None if taken.headers is None else JSON.decode(Payload(json=taken.headers))

    @property
    def data(self) -> Any:
        """What was put."""
        if self._data is _UNREAD:
            self._data = self._queue.codec.decode(self._payload)
        return self._data

    @property
    def size(self) -> int:
        """Of the stored data, in bytes."""
        return self._payload.size

    def __repr__(self) -> str:
        # Without the data: it may be large, or nobody's business in a log.
        return f"<{type(self).__name__} {self.id} of {self.queue!r}>"
