"""The accounts: what the ledgers say beside what the database says. Each rule is a method that yields violations.

The rules of Jepsen's total-queue (nothing lost, nothing from nowhere, nothing twice) for each mode, and ours. A put
whose outcome nobody knows may be there or not; everything else has to balance.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from statistics import median
from typing import Any

from .actors import LEASE, MAX_ATTEMPTS, STALL, mode_of
from .ledger import FAILED, OK, UNKNOWN, Operation

# Seconds between the clock of the server and the moment a client writes its line, on one machine.
SLACK = 0.25

# Seconds for which a statement may be on its way, and be executed, when its client has given up: the kernel sends
# it again until tcp_user_timeout, and then it may wait for a lock.
ON_ITS_WAY = 5.0

# How the names of errors end that say that the connection is gone.
LOST = ("ConnectionLost", "AdminShutdown", "OperationalError")

# Faults that end an actor's process at once.
KILLS = ("kill worker", "end worker")

# Whoever is woken has a job within some milliseconds, or tens of them on a busy machine; when all look by themselves
# only, it is hundreds. The median of this many waits lies between the two, whatever a few of them are.
WOKEN_WITHIN = 0.1
FEW_WAITS = 5

# How the errors of calls are called that lost their connection, or got none.
LOST_LINK = ("ConnectionLost", "CommitUnknown", "OperationalError")


@dataclass
class State:
    """What the database holds at the end."""

    # queue, id, key, actor, op
    effects: list[tuple[str, int, str | None, str, int]] = field(default_factory=list)
    sales: set[str] = field(default_factory=set)
    # queue, id, key, and where it is
    jobs: list[tuple[str, int, str | None, str]] = field(default_factory=list)
    # queue_stats: by queue, column by column.
    stats: dict[str, dict[str, Any]] = field(default_factory=dict)
    # How many jobs there are by the queue's totals, the dead among them: put, and not taken for good.
    totals: dict[str, int] = field(default_factory=dict)
    # What is still open when all have left, and what amcheck says.
    leaks: list[str] = field(default_factory=list)
    damages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Violation:
    rule: str
    text: str
    operations: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.text}"]
        lines += [f"    {operation.actor} {line.strip()}" for operation in self.operations for line in operation.lines]
        return "\n".join(lines)


# A job: the name of its queue and its id.
JobName = tuple[str, int]


class Accounts:
    """The accounts of one run.

    Args:
        operations: of all ledgers, in the order in which they began.
        state: the database's.
        late: how many seconds a job may wait in the calm.
    """

    def __init__(self, operations: Iterable[Operation], state: State, late: float = 2.0) -> None:
        self.state = state
        self.late_after = late
        self.puts: dict[str, list[Operation]] = defaultdict(list)
        # Which jobs carry a key, as everybody who had the job says.
        self.ids: dict[str | None, set[JobName]] = defaultdict(set)
        self.effects: dict[JobName, list[tuple[str, int]]] = defaultdict(list)
        self.by_job: dict[JobName, list[Operation]] = defaultdict(list)
        self.by_place: dict[tuple[str, int], Operation] = {}
        # How each job was handed over: a checksum of its data, its priority and its attempts.
        self.handed: dict[tuple[JobName, str, int], tuple[int, int, int]] = {}
        self.gets: list[Operation] = []
        self.faults: list[Operation] = []
        # The calls of each process whose connection was lost.
        self.cut_off: dict[str, list[Operation]] = defaultdict(list)
        self.errors: Counter[str] = Counter()
        self.figures: Counter[str] = Counter()
        for operation in operations:
            self._enter(operation)
        for queue, id, key, actor, op in state.effects:
            self.ids[key].add((queue, id))
            self.effects[queue, id].append((actor, op))
        for queue, id, key, _ in state.jobs:
            self.ids[key].add((queue, id))

    def _enter(self, operation: Operation) -> None:
        if (error := operation.get("error")) is not None:
            self.errors[error] += 1
            if error.endswith(LOST_LINK):
                self.cut_off[operation.actor].append(operation)
        if operation.do == "fault":
            self.faults.append(operation)
            return
        self.by_place[operation.actor, operation.op] = operation
        if operation.do == "put":
            for key in operation["keys"]:
                self.puts[key].append(operation)
            # A repeated put may have been answered with the id of the job that was there.
            if operation.out == OK:
                for key, id in zip(operation["keys"], operation["ids"], strict=True):
                    self.ids[key].add((operation["queue"], id))
        else:
            if operation.do == "get":
                self.gets.append(operation)
            for queue, id, key in operation.get("jobs", ()):
                self.by_job[queue, id].append(operation)
                self.ids[key].add((queue, id))
            if operation.do in TAKEN:
                for (queue, id, _), handed in zip(operation.get("jobs", ()), operation.get("as", ()), strict=True):
                    self.handed[(queue, id), operation.actor, operation.op] = handed

    # Small questions

    def outcome(self, key: str) -> str:
        outs = {operation.out for operation in self.puts[key]}
        return next((out for out in (OK, UNKNOWN) if out in outs), FAILED)

    @cached_property
    def left(self) -> set[JobName]:
        return {(queue, id) for queue, id, _, _ in self.state.jobs}

    def seen(self, job: JobName) -> bool:
        """Whether it ever was where others could see it."""
        return job in self.left or job in self.effects or bool(self.by_job[job])

    def of(self, job: JobName, *kinds: str) -> list[Operation]:
        return [operation for operation in self.by_job[job] if operation.do in kinds]

    def handed_as(self, job: JobName, operation: Operation) -> tuple[int, int, int]:
        return self.handed[job, operation.actor, operation.op]

    def accepted(self, job: JobName) -> list[Operation]:
        return [operation for operation in self.of(job, "complete") if is_done(operation)]

    def finished(self, job: JobName) -> bool:
        """Whether it may be gone, in the way its mode has jobs go."""
        mode = mode_of(job[0])
        if mode == "transactional":
            return job in self.effects
        if mode == "leased":
            return any(self.may_be_completed(operation) for operation in self.of(job, "complete"))
        return bool(self.of(job, "get"))

    @cached_property
    def places(self) -> set[tuple[str, int]]:
        """Where the effects come from that are there."""
        return {place for places in self.effects.values() for place in places}

    def is_surely_done(self, operation: Operation) -> bool:
        """Acknowledged; or its outcome is unknown, but the effect of its transaction is there."""
        return is_done(operation) or (
            operation.out == UNKNOWN and has_effect(operation) and (operation.actor, operation.op) in self.places
        )

    def may_be_completed(self, completion: Operation) -> bool:
        """With an unknown outcome it is not where its effect is missing, or where the job was leased once more."""
        if completion.out != UNKNOWN or has_effect(completion):
            return self.is_surely_done(completion)
        lease = self.lease_of(completion)
        return not any(
            other.began > lease.ended for queue, id, _ in lease["jobs"] for other in self.of((queue, id), "lease")
        )

    # The rules

    RULES = (
        "lost",
        "never_put",
        "failed_but_there",
        "put_twice",
        "altered",
        "miscounted",
        "early",
        "torn",
        "effect_twice",
        "effect_against_ledger",
        "completed_twice",
        "taken_when_done",
        "completed_outdated",
        "not_worked_on",
        "taken_while_leased",
        "delivered_without_cause",
        "got_twice",
        "late",
        "unwoken",
        "undrained",
        "leaked",
        "damaged",
        "stats_disagree",
    )

    def violations(self) -> Iterator[Violation]:
        for rule in self.RULES:
            yield from getattr(self, rule)()

    def lost(self) -> Iterator[Violation]:
        """A job was put, and is neither done nor there. A get with no answer may have taken one."""
        missing = []
        for key, puts in self.puts.items():
            if self.outcome(key) == FAILED:
                continue
            # Of those that were acknowledged, and those that somebody had.
            gone = [job for job in self.ids[key] if job not in self.left and not self.finished(job)]
            if mode_of(puts[0]["queue"]) == "fleeting":
                # The row of the same transaction tells that the job was put.
                is_told = not self.ids[key] and key in self.state.sales
                missing += [key] * (len(gone) + is_told)
            elif gone:
                history = [operation for job in self.ids[key] for operation in self.by_job[job]]
                yield Violation("lost", f"{key} in {puts[0]['queue']}", (*puts, *history))
        # Each such get may have taken as many as it asked for, of those that were put before it ended.
        room = sorted(self._over(get) for get in self.gets if get.out == UNKNOWN for _ in range(get["count"]))
        for key in sorted(missing, key=lambda key: self.puts[key][0].began, reverse=True):
            (*_, put) = self.puts[key]
            # The latest put has the fewest gets to choose from.
            if room and room[-1] >= put.began:
                room.pop()
                self.figures["lost with a get of unknown outcome"] += 1
            else:
                yield Violation("lost", f"{key} in {put['queue']}", tuple(self.puts[key]))

    def _over(self, get: Operation) -> float:
        """When it can take nothing any more, wherever on its way it was cut off."""
        killed = (f.ended for f in self.faults if f["kind"] in KILLS and get.actor in f.get("actors", ()))
        return min(get.ended, *killed, float("inf")) + ON_ITS_WAY

    def never_put(self) -> Iterator[Violation]:
        for key, jobs in self.ids.items():
            if key not in self.puts:
                for job in jobs:
                    yield Violation("never_put", f"{job} with the key {key}", tuple(self.by_job[job]))

    def failed_but_there(self) -> Iterator[Violation]:
        for key, puts in self.puts.items():
            if self.outcome(key) == FAILED:
                for job in self.ids[key]:
                    yield Violation("failed_but_there", f"{key} is {job}", (*puts, *self.by_job[job]))

    def put_twice(self) -> Iterator[Violation]:
        """A key is two jobs. With a dedupe key that may be, if the first may have gone before the put was repeated."""
        for key, jobs in self.ids.items():
            if len(jobs) < 2 or key not in self.puts:
                continue
            puts = self.puts[key]
            *earlier, _ = sorted(jobs, key=lambda job: job[1])
            if all(put.get("dedupe") is not None for put in puts) and all(
                any(may_be_done(had) and had.began < puts[-1].ended for had in self.of(job, *ENDS)) for job in earlier
            ):
                self.figures["put again after it was done"] += 1
            else:
                history = [operation for job in sorted(jobs) for operation in self.by_job[job]]
                yield Violation("put_twice", f"{key} is {sorted(jobs)}", (*puts, *history))

    def altered(self) -> Iterator[Violation]:
        """Handed over with other data, or at another priority, than it was put with."""
        for key, jobs in self.ids.items():
            puts = self.puts.get(key or "", ())
            was_put = {(put["data"][put["keys"].index(key)], put["priority"]) for put in puts}
            for job in jobs if was_put else ():
                for taken in self.of(job, *TAKEN):
                    data, priority, _ = self.handed_as(job, taken)
                    if (data, priority) not in was_put:
                        yield Violation("altered", f"{key}", (*puts, taken))

    def miscounted(self) -> Iterator[Violation]:
        """Somebody was told of more attempts than there can have been, or of a lease's, of fewer."""
        for key, jobs in self.ids.items():
            for job in jobs if key in self.puts else ():
                earlier = None
                for taken in self.leases(job) or self.of(job, *TAKEN):
                    *_, attempts = self.handed_as(job, taken)
                    if taken.do == "lease":
                        allowed = self._attempts(job, earlier, taken, self.puts[key][0].began)
                        earlier = taken
                    else:
                        allowed = set(range(1 + sum(other.began < taken.began for other in self.of(job, "effect"))))
                    if attempts not in allowed:
                        history = (*self.puts[key], *self.by_job[job])
                        yield Violation("miscounted", f"{job}: {attempts}, not one of {sorted(allowed)}", history)

    def _attempts(self, job: JobName, earlier: Operation | None, lease: Operation, put: float) -> set[int]:
        """What a lease may count: the one before it, if that was not released, those nobody knows of, and itself.

        Of a lease nobody knows when its answer was lost: then it ran out. A job that has used up its attempts was
        among the dead, from where it came back as new.
        """
        before, since, releases = 0, put, []
        if earlier is not None:
            *_, before = self.handed_as(job, earlier)
            mine = self.belonging_to(earlier)
            releases = [operation for operation in mine if operation.do == "release"]
            ends = (self._asked(operation, earlier) for operation in mine if may_be_given_back(operation))
            since = min([self.until(earlier), *ends])
        low = before + (not any(may_be_done(release) for release in releases))
        unknown = max(0, int((handed_since(lease) - since) / LEASE))
        high = before + (not any(is_done(release) for release in releases)) + unknown
        return {(n - 1) % MAX_ATTEMPTS + 1 for n in range(low, high + 1)}

    def early(self) -> Iterator[Violation]:
        """Somebody had a scheduled job before its time."""
        for key, puts in self.puts.items():
            if (delay := puts[0].get("delay")) is not None:
                due = puts[0].began + delay
                taken = [op for job in self.ids[key] for op in self.of(job, *TAKEN) if self._reached(op) < due]
                if taken:
                    yield Violation("early", f"{key} was due at {due:.3f}", (*puts, *taken))

    def torn(self) -> Iterator[Violation]:
        """A job and a row that were written in one transaction: one of them is there."""
        for key, puts in self.puts.items():
            if not puts[0].get("sale"):
                continue
            has_job, has_row = any(self.seen(job) for job in self.ids[key]), key in self.state.sales
            if mode_of(puts[0]["queue"]) == "fleeting" and self.outcome(key) != FAILED:
                # That nobody saw it means little here: see `lost`.
                has_job = has_row or has_job or self.outcome(key) == OK
            if has_job != has_row and not (has_job and self.outcome(key) == FAILED):
                which = "the job" if has_job else "the row"
                yield Violation("torn", f"{key}: {which} is there alone", tuple(puts))

    def effect_twice(self) -> Iterator[Violation]:
        for job, places in self.effects.items():
            if len(places) > 1:
                yield Violation("effect_twice", f"{job} has {len(places)}", tuple(self.by_job[job]))

    def effect_against_ledger(self) -> Iterator[Violation]:
        """The effect of a transaction that failed is there, or that of one that was acknowledged is not."""
        for place, operation in self.by_place.items():
            if has_effect(operation):
                if operation.out == FAILED and place in self.places:
                    yield Violation("effect_against_ledger", "failed, but its effect is there", (operation,))
                if operation.out == OK and place not in self.places:
                    yield Violation("effect_against_ledger", "acknowledged, but has no effect", (operation,))

    def completed_twice(self) -> Iterator[Violation]:
        for job in self.by_job:
            if len(accepted := self.accepted(job)) > 1:
                yield Violation("completed_twice", f"{job}", tuple(accepted))

    def taken_when_done(self) -> Iterator[Violation]:
        """Handed over after somebody was told that it was done, and not done twice, which has a rule of its own."""
        for job in self.by_job:
            ends = [operation for operation in self.of(job, "effect", "complete") if self.is_surely_done(operation)]
            if len(ends) == 1:
                later = (op for op in self.of(job, *TAKEN) if handed_since(op) > ends[0].ended)
                taken = [operation for operation in later if not self._heard_late(operation)]
                if taken:
                    yield Violation("taken_when_done", f"{job}", (*ends, *taken))

    def _heard_late(self, operation: Operation) -> bool:
        """Whether it may have had the job long before. A lease says when it began, an effect does not.

        It, or its link, stood still. Or it was handed the job by a server that then ended its transaction, and got to
        write its line when the next one had done the job: tens of milliseconds on a busy machine.
        """
        if operation.do != "effect":
            return False
        if str(operation.get("error")).endswith(LOST) and self.fault_of(
            operation, operation.began - STALL, operation.began
        ):
            return True
        return any(
            operation.actor in fault.get("actors", ())
            and fault.get("since", fault.began) < operation.began < fault.ended + ON_ITS_WAY
            for fault in self.faults
        )

    def completed_outdated(self) -> Iterator[Violation]:
        """A call was accepted from one whose lease had run out, or was given to another meanwhile."""
        for job in self.by_job:
            calls = self.of(job, "complete", "error", "release", "progress")
            for completion in (call for call in calls if is_done(call)):
                lease = self.lease_of(completion)
                # By the server's order and by ours: whoever was stopped writes late, and has a lease of before.
                later = [
                    other
                    for other in self.of(job, "lease")
                    if other["until"] > lease["until"] and other.ended > lease.ended
                ]
                asked = self._asked(completion, lease)
                if any(other.ended < asked for other in later):
                    yield Violation("completed_outdated", f"{job} was leased anew", (lease, *later, completion))
                elif not completion.get("kept_alive") and self.until_at_most(lease, asked) + SLACK < asked:
                    yield Violation("completed_outdated", f"{job}: the lease had run out", (lease, completion))

    def _asked(self, completion: Operation, lease: Operation) -> float:
        """Since when the completion was under way: in a block (`with job`), since its work was done."""
        works = (work for work in self.belonging_to(lease) if work.do == "work" and work.ended < completion.ended)
        return max(completion.began, *(work.ended for work in works), 0.0)

    def not_worked_on(self) -> Iterator[Violation]:
        """Completed, and the work was never done."""
        for job in self.by_job:
            works = self.of(job, "work")
            if self.accepted(job) and not any(work.out == OK for work in works):
                yield Violation("not_worked_on", f"{job}", tuple(self.by_job[job]))

    def lease_of(self, operation: Operation) -> Operation:
        return self.by_place[operation.actor, operation["of"]]

    def until(self, lease: Operation, at: float = float("inf")) -> float:
        """When it runs out, by what its holder knows before this time."""
        found: float = lease["until"]
        for operation in self.belonging_to(lease):
            if operation.do == "progress" and is_done(operation) and operation.began < at:
                found = max(found, operation.began + operation["lease"])
        return found

    def until_at_most(self, lease: Operation, at: float) -> float:
        """The same by what the server may know: it counts from when it has the call, answered or not."""
        found: float = lease["until"]
        for operation in self.belonging_to(lease):
            if operation.do == "progress" and may_be_done(operation) and operation.began < at:
                reached = operation.ended + (ON_ITS_WAY if operation.out == UNKNOWN else 0)
                found = max(found, reached + operation["lease"])
        return found

    def belonging_to(self, lease: Operation) -> list[Operation]:
        return [
            operation
            for name in lease["jobs"]
            for operation in self.by_job[name[0], name[1]]
            if operation.actor == lease.actor and operation.get("of") == lease.op
        ]

    def _leases_in_a_row(self) -> Iterator[tuple[JobName, Operation, Operation]]:
        for job in self.by_job:
            for earlier, later in pairwise(self.leases(job)):
                yield job, earlier, later

    def leases(self, job: JobName) -> list[Operation]:
        """In their order."""
        found = sorted(self.of(job, "lease"), key=lambda lease: lease["until"])
        for n in range(1, len(found)):
            if self._was_first(job, found[n], found[n - 1]):
                found[n - 1 : n + 1] = found[n], found[n - 1]
        return found

    def _was_first(self, job: JobName, lease: Operation, other: Operation) -> bool:
        """A lease may end after the one that follows it: its end is counted from the call, which may wait for locks.

        So it was if it was given back while the other was called. But an answer may also come late, of a lease that
        had run out by then: the attempts tell which of the two it is.
        """
        if self.handed_as(job, lease)[-1] > self.handed_as(job, other)[-1]:
            return False
        return lease.began < other.ended and any(
            is_given_back(operation) and operation.began < other.ended for operation in self.belonging_to(lease)
        )

    def taken_while_leased(self) -> Iterator[Violation]:
        """Handed over while somebody had it, and had not given it back."""
        for job, earlier, later in self._leases_in_a_row():
            if later.ended < self.until(earlier) - SLACK and not self.given_back(earlier, later.ended):
                history = (earlier, *self.belonging_to(earlier), later)
                yield Violation("taken_while_leased", f"{job}", history)

    def given_back(self, lease: Operation, before: float) -> bool:
        """Or that was tried, and nobody knows what came of it."""
        return any(
            may_be_given_back(operation) and self._asked(operation, lease) < before
            for operation in self.belonging_to(lease)
        )

    def delivered_without_cause(self) -> Iterator[Violation]:
        """Delivered once more, and nothing explains why: no failure, no fault."""
        for job, earlier, later in self._leases_in_a_row():
            mine = self.belonging_to(earlier)
            if any(is_given_back(operation) for operation in mine):
                self.figures["delivered again, as was asked for"] += 1
                continue
            self.figures["extra deliveries"] += 1
            if fault := self.fault_of(earlier, handed_since(earlier), max(self.until(earlier), earlier.ended)):
                self.figures[f"extra deliveries after: {fault['kind']}"] += 1
            elif any(operation.out != OK for operation in mine):
                self.figures["extra deliveries after a call that failed, or nobody knows"] += 1
            elif self._was_cut_off(earlier):
                self.figures["extra deliveries as its process had lost a connection"] += 1
            else:
                yield Violation("delivered_without_cause", f"{job}", (earlier, *mine, later))

    def _was_cut_off(self, lease: Operation) -> bool:
        """A connection of its process was lost while it had the lease.

        A worker has several: one may hang from a cut that is over, while the next lease comes by another.
        """
        end = max(self.until(lease), lease.ended)
        return any(lost.began < end and lost.ended > handed_since(lease) for lost in self.cut_off[lease.actor])

    def fault_of(self, operation: Operation, begin: float, end: float) -> Operation | None:
        """What went wrong with the operation's actor, or with all, in that time. What names the actor says most."""
        found: dict[str, Operation] = {}
        for fault in self.faults:
            if fault.get("since", fault.began) > end or fault.ended < begin:
                continue
            if operation.actor in fault.get("actors", ()) or operation.name == fault.get("of"):
                found["stall" if fault["kind"] == "stall" else "named"] = fault
            elif fault["scope"] == "server":
                found["server"] = fault
        return next((found[by] for by in ("named", "server", "stall") if by in found), None)

    def got_twice(self) -> Iterator[Violation]:
        for job in self.by_job:
            if len(gets := self.of(job, "get")) > 1:
                yield Violation("got_twice", f"{job}", tuple(gets))

    @cached_property
    def waits(self) -> list[tuple[float, Operation]]:
        """How long jobs waited that were put in the calm, one at a time."""
        found = []
        for puts in self.puts.values():
            for put in puts:
                if put.name.startswith("probe") and put.out == OK:
                    for id in put["ids"]:
                        taken = [self._reached(operation) for operation in self.of((put["queue"], id), *TAKEN)]
                        if taken:
                            found.append((min(taken) - put.ended, put))
        return found

    def _reached(self, operation: Operation) -> float:
        """When somebody had the job: an effect begins with it, a get and a lease end with it."""
        return operation.began if operation.do == "effect" else operation.ended

    def late(self) -> Iterator[Violation]:
        for wait, put in self.waits:
            if wait > self.late_after and self._stalled(put.began, put.ended + wait):
                self.figures["long waits while a process stood still"] += 1
            elif wait > self.late_after:
                history = [operation for id in put["ids"] for operation in self.by_job[put["queue"], id]]
                yield Violation("late", f"{put['keys'][0]} waited {wait:.2f} s in {put['queue']}", (put, *history))

    def unwoken(self) -> Iterator[Violation]:
        """In the calm, half of the jobs, or half of a queue's, waited so long that it seems that nobody was woken."""
        waits = defaultdict(list)
        for wait, put in self.waits:
            if not self._stalled(put.began, put.ended + wait):
                for where in (put["queue"], "all queues"):
                    waits[where].append(wait)
        for where, found in waits.items():
            if len(found) >= FEW_WAITS and median(found) > WOKEN_WITHIN:
                yield Violation("unwoken", f"{where}: half of {len(found)} jobs waited {median(found):.3f} s or longer")

    def _stalled(self, begin: float, end: float) -> bool:
        stalls = (fault for fault in self.faults if fault["kind"] == "stall")
        return any(stall["since"] < end and begin < stall.ended for stall in stalls)

    def undrained(self) -> Iterator[Violation]:
        for queue, id, key, where in self.state.jobs:
            yield Violation("undrained", f"{key} is still {where}", tuple(self.by_job[queue, id]))

    def leaked(self) -> Iterator[Violation]:
        for leak in self.state.leaks:
            yield Violation("leaked", leak)

    def damaged(self) -> Iterator[Violation]:
        for damage in self.state.damages:
            yield Violation("damaged", damage)

    def stats_disagree(self) -> Iterator[Violation]:
        """The queue's own totals beside ours, wherever the ledgers know what they must be."""
        there = Counter(queue for queue, _, _, _ in self.state.jobs)
        for queue, jobs in self.state.totals.items():
            if jobs != there[queue]:
                yield Violation("stats_disagree", f"{queue}: {jobs} jobs by the totals, and there are {there[queue]}")
        for queue, stats in self.state.stats.items():
            for name, low, high in self._totals(queue):
                if not low <= stats[name] <= high:
                    yield Violation("stats_disagree", f"{queue}: {name} is {stats[name]}, not {low} to {high}")

    def _totals(self, queue: str) -> Iterator[tuple[str, int, int]]:
        there, open_ones = 0, 0
        for key, puts in self.puts.items():
            if puts[0]["queue"] == queue:
                # Of an unknown put we know that it was done if somebody saw the job.
                known = len([job for job in self.ids[key] if self.seen(job)])
                acknowledged = self.outcome(key) == OK
                there += max(known, acknowledged)
                open_ones += sum(put.out == UNKNOWN for put in puts) if not known else len(puts) - 1
        yield "put", there, there + open_ones
        if mode_of(queue) == "leased":
            completions = [operation for operation in self.by_place.values() if operation.do == "complete"]
            done = sum(self.is_surely_done(operation) for operation in completions)
            open_completions = (o for o in completions if o.out == UNKNOWN and not has_effect(o))
            yield "completed", done, done + sum(1 for _ in open_completions)
        if not any(name == queue for name, _, _, _ in self.state.jobs):
            for name in ("ready", "scheduled", "retrying", "leased", "dead"):
                yield name, 0, 0

    def summary(self) -> dict[str, Any]:
        """Figures by mode, and of all. After `violations`, which counts what is explained."""
        modes: dict[str, Counter[str]] = {name: Counter() for name in ("transactional", "leased", "fleeting")}
        for key, puts in self.puts.items():
            modes[mode_of(puts[0]["queue"])][f"put {self.outcome(key)}"] += 1
        for job in self.by_job:
            mode = modes[mode_of(job[0])]
            mode["taken"] += len(self.of(job, *TAKEN))
            mode["done"] += self.finished(job)
        modes["leased"]["done by workers"] = sum(
            is_done(operation) and operation.name.startswith("work")
            for operation in self.by_place.values()
            if operation.do == "complete"
        )
        unknown = Counter(operation.do for operation in self.by_place.values() if operation.out == UNKNOWN)
        for do in ("born", "trouble", "keep"):
            unknown.pop(do, None)
        return {
            "modes": {mode: dict(counts) for mode, counts in modes.items()},
            "faults": dict(Counter(fault["kind"] for fault in self.faults)),
            "unknown outcomes": dict(unknown),
            "explained": dict(self.figures),
            "errors": dict(self.errors),
            "probes": len(self.waits),
            "median wait": round(median(wait for wait, _ in self.waits), 4) if self.waits else 0.0,
            "longest wait": round(max((wait for wait, _ in self.waits), default=0.0), 3),
        }


# How a job reaches somebody.
TAKEN = ("effect", "lease", "get")
# How a job leaves the queue.
ENDS = ("effect", "complete", "get")


def handed_since(operation: Operation) -> float:
    """Since when somebody may have had the job: a lease is counted from the server's call, an effect begins with it."""
    return operation["until"] - LEASE if operation.do == "lease" else operation.began


def is_done(operation: Operation) -> bool:
    """Acknowledged; `done` is what a call that may be refused returned."""
    return operation.out == OK and operation.get("done") is not False


def has_effect(operation: Operation) -> bool:
    """Whether its transaction writes an effect into the database, which tells whether it was done."""
    return operation.do == "effect" or bool(operation.get("effect"))


def is_given_back(operation: Operation) -> bool:
    """By an error or a release that was accepted, or by an actor's own exception out of a block."""
    return (operation.do in ("error", "release") and is_done(operation)) or operation.get("error") == "RolledBack"


def may_be_given_back(operation: Operation) -> bool:
    """By error, release or any exception out of a block."""
    return (operation.do in ("error", "release") and may_be_done(operation)) or (
        bool(operation.get("block")) and operation.out != OK
    )


def may_be_done(operation: Operation) -> bool:
    return operation.out == UNKNOWN or is_done(operation)
