"""What a worker asks the server, and what that answers, written into its ledger call by call.

A worker settles its jobs in the background, many in one call, and repeats a call whose outcome nobody knows. So its
ledger is written here, at the seam where calls can be traced, with an operation for each job of a call.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from time import time
from typing import Any, TypeVar

from pgq_py import AsyncJob, Job
from pgq_py.calls import Call, Calls, Taken
from pgq_py.times import Duration, length

from .ledger import OK, Ledger

T = TypeVar("T")


def named(*jobs: Job | AsyncJob) -> list[list[Any]]:
    return [[job.queue, job.id, job.data["key"]] for job in jobs]


def handed(*given: Job | AsyncJob | None) -> dict[str, Any]:
    """What a ledger says of jobs that somebody is given."""
    jobs = [job for job in given if job is not None]
    return {"jobs": named(*jobs), "as": [[checksum(job.data), job.priority, job.attempts] for job in jobs]}


def checksum(data: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(data, sort_keys=True).encode())


class WrittenCalls(Calls):
    """The calls of a PQ; those that lease jobs, or tell what became of leased ones, are written down."""

    def __init__(self, schema: str, ledger: Ledger) -> None:
        super().__init__(schema)
        self._ledger = ledger
        # By id and receipt, which the jobs of a call share: which operation leased it, and what job.
        self._leases: dict[tuple[int, bytes], dict[str, Any]] = {}

    def of(self, job: Job | AsyncJob) -> dict[str, Any]:
        """What all operations on a leased job say."""
        return self._leases[job.id, job._held()]

    def lease(
        self,
        queues: Sequence[str],
        count: int,
        lease_for: Duration | None,
        consumer: str,
        promote: bool,
        unlisten: Sequence[str] = (),
    ) -> Call[list[Taken]]:
        call = super().lease(queues, count, lease_for, consumer, promote, unlisten)

        @contextmanager
        def writing() -> Iterator[Call[list[Taken]]]:
            began = round(time(), 6)
            with self._ledger.operation("lease", queue=queues[0]):
                yield watched(call, lambda rows: self._leased(rows, began))

        return replace(call, traced=writing)

    def _leased(self, rows: Sequence[Taken], began: float) -> None:
        """Each job of a call has a lease of its own; it begins with the call."""
        for row in rows:
            data = json.loads(row.payload.json or "")
            jobs = [[row.queue, row.id, data["key"]]]
            op = self._ledger.begin("lease", at=began, queue=row.queue)
            given = [[checksum(data), row.value("priority"), row.value("attempts")]]
            self._leases[row.id, row.raw("receipt") or b""] = {"of": op, "jobs": jobs}
            until = row.value("lease_until").timestamp()
            self._ledger.end(op, OK, jobs=jobs, until=until, **{"as": given})

    def error(
        self,
        queue: str,
        id: int,
        receipt: bytes | None,
        message: str | None,
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[bool]:
        call = super().error(queue, id, receipt, message, retry_in, bury)
        return call if receipt is None else self._settling("error", [id], [receipt], call, one)

    def release(self, queue: str, id: int, receipt: bytes) -> Call[bool]:
        return self._settling("release", [id], [receipt], super().release(queue, id, receipt), one)

    def complete_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        return self._settling("complete", ids, receipts, super().complete_many(queue, ids, receipts), list)

    def error_many(
        self,
        queue: str,
        ids: Sequence[int],
        receipts: Sequence[bytes],
        messages: Sequence[str],
        retry_in: Duration | None = None,
        bury: bool = False,
    ) -> Call[list[bool]]:
        call = super().error_many(queue, ids, receipts, messages, retry_in, bury)
        return self._settling("error", ids, receipts, call, list)

    def release_many(self, queue: str, ids: Sequence[int], receipts: Sequence[bytes]) -> Call[list[bool]]:
        return self._settling("release", ids, receipts, super().release_many(queue, ids, receipts), list)

    def progress_many(
        self, queue: str, ids: Sequence[int], receipts: Sequence[bytes], lease_for: Duration | None
    ) -> Call[list[bool | None]]:
        call = super().progress_many(queue, ids, receipts, lease_for)
        lease = length("lease_for", lease_for)
        assert lease is not None  # a worker's heartbeat says for how long
        return self._settling("progress", ids, receipts, call, extended, lease=lease.total_seconds())

    def _settling(
        self,
        do: str,
        ids: Sequence[int],
        receipts: Sequence[bytes],
        call: Call[T],
        each: Callable[[T], list[bool]],
        **more: Any,
    ) -> Call[T]:
        @contextmanager
        def writing() -> Iterator[Call[T]]:
            with ExitStack() as stack:
                entries = [
                    stack.enter_context(self._ledger.operation(do, **self._leases[lease], **more))
                    for lease in zip(ids, receipts, strict=True)
                ]

                def note(result: T) -> None:
                    for entry, done in zip(entries, each(result), strict=True):
                        entry.note(done=done)

                yield watched(call, note)

        return replace(call, traced=writing)


def one(done: bool) -> list[bool]:
    return [done]


def extended(dones: list[bool | None]) -> list[bool]:
    """Of a job that somebody else had locked (None) the lease was not extended."""
    return list(map(bool, dones))


def watched(call: Call[T], note: Callable[[T], None]) -> Call[T]:
    """The call; its result is noted as it is read."""

    def read(answer: Any) -> T:
        result = call.read(answer)
        note(result)
        return result

    return replace(call, read=read)
