"""What the specs' steps must answer: the queue, transactions and snapshots as a few rules, in plain Python.

A job has committed versions, and at most one transaction that has changed it and is still open: its holder.

* READ COMMITTED: a call sees what is committed when it begins. Above: what was when its transaction's first call began.
* Who takes passes over a job that somebody holds, and never waits: get, lease, clear, cancel. So does the heartbeat.
* Who has a receipt, or puts a key, waits for the holder, and looks again.
* Above READ COMMITTED, to change a job that has changed since the snapshot is an error, 40001.
* SERIALIZABLE refuses more than that. What, is not told here: the steps that were refused are given.
* A transaction that was refused has changed nothing, and holds nothing from then on.
* A migration waits for all who have touched the queue in an open transaction; who comes later waits behind it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import count

from isolation import Outcome, Spec


@dataclass(frozen=True)
class Job:
    """A version of a job. `lease_until` is in hours of the specs' clock."""

    key: str = ""
    attempts: int = 0
    receipt: str = ""
    # When it comes due: at once for one that is ready, None.
    due_at: float | None = None


@dataclass
class Transaction:
    snapshot: float | None = None
    # None: deleted.
    changes: dict[int, Job | None] = field(default_factory=dict)
    notes: list[tuple[str, int]] = field(default_factory=list)
    failed: bool = False
    locked: bool = False


class Wait(Exception):
    """The call waits for the end of another transaction."""


class Refused(Exception):
    """An error with this SQLSTATE."""


class World:
    """The state of one permutation as it goes."""

    def __init__(self, jobs: list[Job], key: str, level: str, refused: Collection[str] = ()) -> None:
        self.level = level
        self.key = key
        # Steps that are refused whatever the rows say.
        self.refused = refused
        self.time = count(1)
        self.now = 0
        self.clock = 0
        self.ids = count(len(jobs) + 1)
        self.versions: dict[int, list[tuple[int, Job | None]]] = {n: [(0, job)] for n, job in enumerate(jobs, 1)}
        self.open: dict[str, Transaction] = {}
        self.notes: list[tuple[str, int]] = []
        # Migrations that wait.
        self.queued: set[str] = set()
        self.migrating = ""
        self.reserved: dict[str, int] = {}
        self.waited: set[str] = set()
        # When a call began, by the clock, before it waited.
        self.called: dict[str, int] = {}

    # What a session sees

    def latest(self, id: int) -> Job | None:
        return self.versions[id][-1][1] if id in self.versions else None

    def seen(self, session: str, id: int) -> Job | None:
        transaction = self.open[session]
        if id in transaction.changes:
            return transaction.changes[id]
        before = [job for time, job in self.versions.get(id, []) if time <= self.snapshot(session)]
        return before[-1] if before else None

    def snapshot(self, session: str) -> float:
        since = self.open[session].snapshot
        return self.now if self.level == "read committed" or since is None else since

    def holder(self, session: str, id: int) -> str | None:
        return next((other for other, t in self.open.items() if other != session and id in t.changes), None)

    def visible(self, session: str) -> list[int]:
        ids = {*self.versions, *self.open[session].changes}
        return sorted(id for id in ids if self.seen(session, id) is not None)

    def lock(self, session: str, id: int) -> None:
        """Of a job that is seen and that nobody else holds."""
        if id not in self.open[session].changes and self.versions[id][-1][0] > self.snapshot(session):
            raise Refused("40001")

    def free(self, session: str) -> list[int]:
        """What a taker may lock, in order. The call fails when it comes to one that has changed since."""
        return [id for id in self.visible(session) if self.holder(session, id) is None]

    # The calls: what they answer

    def put(self, session: str) -> str:
        if not self.key:
            new = next(self.ids)
            self.open[session].changes[new] = Job()
            return self.note(session, "put", new)
        # An id is drawn once, before it waits.
        if session not in self.reserved:
            self.reserved[session] = next(self.ids)
        for id in sorted({*self.versions, *(id for t in self.open.values() for id in t.changes)}):
            holder = self.holder(session, id)
            if holder is not None:
                changed = self.open[holder].changes[id]
                if self.key in {job.key for job in (changed, self.latest(id)) if job is not None}:
                    raise Wait
            own = self.open[session].changes.get(id, self.latest(id))
            if own is not None and own.key == self.key:
                if self.seen(session, id) is None:
                    raise Refused("40001")
                return self.note(session, "put", id)
        self.open[session].changes[self.reserved[session]] = Job(self.key)
        return self.note(session, "put", self.reserved[session])

    def get(self, session: str, promote: bool = False) -> str:
        due = [id for id in self.free(session) if self.is_due(session, id)]
        if promote and due:
            self.promote(session, due)
        for id in self.free(session):
            job = self.seen(session, id)
            assert job is not None
            if job.due_at is None or (not promote and self.is_due(session, id)):
                self.lock(session, id)
                self.open[session].changes[id] = None
                return self.note(session, "get", id)
        return ""

    def promote(self, session: str, due: list[int]) -> None:
        for id in due:
            job = self.seen(session, id)
            assert job is not None
            self.lock(session, id)
            self.open[session].changes[id] = replace(job, due_at=None, receipt="")

    def is_due(self, session: str, id: int) -> bool:
        job = self.seen(session, id)
        return job is not None and job.due_at is not None and job.due_at <= self.clock

    def lease(self, session: str) -> str:
        self.promote(session, [id for id in self.free(session) if self.is_due(session, id)])
        for id in self.free(session):
            job = self.seen(session, id)
            assert job is not None
            if job.due_at is None:
                self.lock(session, id)
                self.open[session].changes[id] = Job(job.key, job.attempts + 1, session, self.clock + 0.08)
                return self.note(session, "lease", id)
        return ""

    def held(self, session: str, receipt: str) -> bool:
        """Whether the receipt of job 1 is good, once nobody else has the job: then it is locked."""
        job = self.seen(session, 1)
        if job is None or job.receipt != receipt or job.due_at is None or job.due_at <= self.called[session]:
            # Who has waited for a job has locked it before seeing that it is not what it was.
            if job is not None and session in self.waited:
                self.open[session].changes[1] = job
            return False
        if self.holder(session, 1) is not None:
            self.waited.add(session)
            raise Wait
        self.lock(session, 1)
        return True

    def complete(self, session: str, receipt: str) -> str:
        if not self.held(session, receipt):
            return "f"
        self.open[session].changes[1] = None
        self.note(session, "complete", 1)
        return "t"

    def error(self, session: str, receipt: str) -> str:
        if not self.held(session, receipt):
            return "f"
        job = self.seen(session, 1)
        assert job is not None
        self.open[session].changes[1] = Job(job.key, job.attempts)
        self.note(session, "error", 1)
        return "t"

    def progress(self, session: str, receipt: str) -> str:
        job = self.seen(session, 1)
        if job is None or job.receipt != receipt or job.due_at is None or job.due_at <= self.clock:
            return "f"
        answer = ""
        if self.holder(session, 1) is None:
            self.lock(session, 1)
            self.open[session].changes[1] = job
            answer = "t"
        self.note(session, "progress", 1)
        return answer

    def cancel(self, session: str) -> str:
        if 1 not in self.free(session):
            return "f"
        self.lock(session, 1)
        self.open[session].changes[1] = None
        self.note(session, "cancel", 1)
        return "t"

    def clear(self, session: str) -> str:
        ids = self.free(session)
        for id in ids:
            self.lock(session, id)
            self.open[session].changes[id] = None
        return self.note(session, "clear", len(ids))

    def migrate(self, session: str) -> None:
        if any(t.locked for other, t in self.open.items() if other != session):
            self.queued.add(session)
            raise Wait
        self.queued.discard(session)
        self.migrating = session

    # Transactions

    def note(self, session: str, what: str, id: int) -> str:
        self.open[session].notes.append((what, id))
        return str(id)

    def end(self, session: str, commit: bool) -> None:
        transaction = self.open.pop(session)
        self.now = next(self.time)
        if commit and not transaction.failed:
            for id, job in transaction.changes.items():
                self.versions.setdefault(id, []).append((self.now, job))
            self.notes += transaction.notes
        if self.migrating == session:
            self.migrating = ""

    def call(self, session: str, verb: str, receipt: str) -> str:
        """What a call in a transaction answers; or it raises Wait or Refused."""
        transaction = self.open[session]
        if verb == "look":
            return "1"
        if verb in ("up", "down"):
            self.migrate(session)
            return verb
        if (self.queued or self.migrating) and not transaction.locked:
            raise Wait
        transaction.locked = True
        match verb:
            case "put":
                return self.put(session)
            case "get" | "promote":
                return self.get(session, promote=verb == "promote")
            case "lease":
                return self.lease(session)
            case "complete":
                return self.complete(session, receipt)
            case "error":
                return self.error(session, receipt)
            case "progress":
                return self.progress(session, receipt)
            case "cancel":
                return self.cancel(session)
            case "clear":
                return self.clear(session)
        raise AssertionError(verb)

    def do(self, session: str, step: Step) -> Outcome:
        """Do a step, or raise Wait."""
        if step.verb in ("commit", "rollback"):
            is_refused = step.name in self.refused
            self.end(session, step.verb == "commit" and not is_refused)
            return Outcome(sqlstate="40001" if is_refused else "")
        if step.verb == "on":
            self.clock += 1
            return Outcome("0")
        transaction = self.open.setdefault(session, Transaction())
        if transaction.failed:
            return Outcome(sqlstate="25P02")
        if transaction.snapshot is None:
            transaction.snapshot = self.now
        self.called.setdefault(session, self.clock)
        try:
            outcome = Outcome(self.call(session, step.verb, step.receipt))
            if step.name in self.refused:
                raise Refused("40001")
        except Refused as refused:
            outcome = Outcome(sqlstate=str(refused))
            self.open[session] = Transaction(snapshot=transaction.snapshot, failed=True)
        del self.called[session]
        if step.is_alone:
            self.end(session, commit=True)
        return outcome


@dataclass(frozen=True)
class Step:
    """A step of a spec, which its name tells: SESSION_VERB."""

    name: str
    session: str
    verb: str
    # Of a complete or an error: that of the session's own lease, or the one which was there at the beginning.
    receipt: str
    # A transaction of its own.
    is_alone: bool


def steps(spec: Spec) -> dict[str, Step]:
    found = {}
    for session, names in spec.sessions.items():
        verbs = [name.split("_")[1] for name in names]
        ends = [n for n, verb in enumerate(verbs) if verb in ("commit", "rollback")]
        for n, (name, verb) in enumerate(zip(names, verbs, strict=True)):
            receipt = session if "lease" in verbs else "known"
            found[name] = Step(name, session, verb, receipt, is_alone=not ends or n > ends[-1])
    return found


def play(spec: Spec, order: tuple[str, ...], world: World, latest_first: bool = False) -> dict[str, Outcome] | None:
    """What each step answers in this order. None where a session would have to go on that waits: it can't happen.

    Of several that wait for the same transaction, which is next is open.
    """
    waiting: dict[str, Step] = {}
    outcomes: dict[str, Outcome] = {}
    known = steps(spec)
    for name in order:
        step = known[name]
        if step.session in waiting:
            return None
        waiting[step.session] = step
        # Whoever goes on may let others go on.
        while ready := try_all(world, waiting, outcomes, latest_first):
            for session in ready:
                del waiting[session]
        if step.session in waiting:
            outcomes.setdefault(name, Outcome(waited=True))
    assert not waiting, f"a deadlock: {order}"
    return outcomes


def try_all(world: World, waiting: dict[str, Step], outcomes: dict[str, Outcome], latest_first: bool) -> list[str]:
    """The sessions whose step has ended. The first of them only: it may be what the next has to wait for."""
    for session in list(waiting)[:: -1 if latest_first else 1]:
        step = waiting[session]
        try:
            outcome = world.do(session, step)
        except Wait:
            continue
        outcome.waited = step.name in outcomes
        outcomes[step.name] = outcome
        return [session]
    return []
