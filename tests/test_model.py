"""The SQL functions against a plain model of them, driven by Hypothesis: any calls in any order, over three
connections with transactions that stay open, and time that passes when the test says so.

`make test` runs a small, always equal set of examples; `make model` runs 2,000 new ones.

The machine's database is installed from the files of sql/, unchanged, but with a search_path on which the clock and
random() are found in public: `clock_timestamp()` shows a time that stands still until the test moves it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from model import START, Full, Job, Model, Waits
from psycopg.types.json import Jsonb
from servers import Server

pytestmark = pytest.mark.long

SQL = Path(__file__).parent.parent / "sql"
EXAMPLES = int(os.environ.get("MODEL_EXAMPLES", "0"))
STEPS = 40

CLOCK = f"""
    create sequence model_clock;
    select setval('model_clock', 1);
    create function clock_timestamp() returns timestamptz language sql as $$
        select timestamptz '{START.isoformat()}'
            + (pg_sequence_last_value('public.model_clock') - 1) * interval '1 microsecond'
    $$;
    create function random() returns float8 language sql as 'select 0.25::float8';
"""

EMPTY = """
    with jobs as (delete from queue_job), dead as (delete from queue_dead), settings as (delete from queue_setting)
    select setval(pg_get_serial_sequence('queue_job', 'id'), 1, false)
"""
# A job that breaks one of the conditions is not found, and missed.
JOBS = """
    select
        id, data, -rank, nullif(expected_at, 'infinity'), schedule_at, dedupe_key, max_attempts, attempts,
        greatest(ready_at, lease_until), ready_at, receipt, consumer, progress_count, last_error, history
    from queue_job
    where queue = 'apples' and (receipt is null) = (lease_until is null) and ready_at <= lease_until is not false
    order by id
"""
DEAD = """
    select
        id, data, priority, expected_at, schedule_at, dedupe_key, max_attempts, attempts,
        null, null, null, consumer, progress_count, last_error, history, died_at, reason
    from queue_dead where queue = 'apples' order by id
"""
SETTINGS = "select paused, max_attempts, lease_for, retry_in, max_depth from queue_setting where queue = 'apples'"
STORED = (JOBS, DEAD, SETTINGS)
LOOK = """
    select
        queue_count('apples'), queue_count('apples', scheduled => true),
        array(select id from queue_list('apples')), array(select id from queue_list('apples', scheduled => true)),
        queue_wait('apples'),
        (select array[ready, scheduled, retrying, leased, dead, paused::int] from queue_stats('apples'))
"""

minutes = st.sampled_from([1, 5, 10, 60]).map(lambda n: timedelta(minutes=n))
maybe_minutes = st.none() | minutes
connections = st.integers(0, 2)
# One of the jobs there are, counted round.
which = st.integers(0, 7)
counts = st.sampled_from([1, 1, 2, 5])
keys = st.sampled_from([None, "a", "b"])
receipts = st.sampled_from([*["good"] * 5, "expired", "outdated", "another's", "random", "none"])


def row_of(job: Job) -> tuple[Any, ...]:
    return (
        job.id, job.data, job.priority, job.expected_at, job.schedule_at, job.key, job.max_attempts, job.attempts,
        job.due, job.seen_at, job.receipt, job.consumer, job.progress, job.last_error, job.history,
    )  # fmt: skip


def history_of(stored: list[dict[str, Any]] | None) -> tuple[Any, ...]:
    return tuple((failed["attempt"], failed["consumer"], failed["error"]) for failed in stored or ())


def taken_of(job: Job) -> tuple[Any, ...]:
    """What queue_get and queue_lease both tell of a job."""
    return (
        job.id, job.data, job.priority, job.expected_at, job.schedule_at, job.key, job.max_attempts, job.attempts,
        job.progress, job.last_error,
    )  # fmt: skip


TAKEN = "id, data, priority, expected_at, schedule_at, dedupe_key, max_attempts, attempts, progress_count, last_error"

F = TypeVar("F", bound=Callable[..., Any])
Mistakes = Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.arguments.items())})"


@dataclass(frozen=True)
class Action:
    weight: int
    when: Callable[[Any], Any]
    calls: st.SearchStrategy[Call]


ACTIONS: dict[str, Action] = {}


def action(
    *, weight: int, when: Callable[[Any], Any] = lambda _: True, **arguments: st.SearchStrategy[Any]
) -> Callable[[F], F]:
    """A method that may be the next step. Hypothesis's own rules can't have weights."""

    def register(method: F) -> F:
        name = method.__name__
        ACTIONS[name] = Action(weight, when, st.fixed_dictionaries(arguments).map(partial(Call, name)))
        return method

    return register


@st.composite
def next_call(draw: st.DrawFn) -> Call:
    machine = draw(st.runner())
    return draw(ACTIONS[draw(st.sampled_from(machine.possible()))].calls)


class QueueMachine(RuleBasedStateMachine):
    dsn: ClassVar[str]
    pool: ClassVar[list[psycopg.Connection[Any]]]
    met: ClassVar[Counter[str]]

    def __init__(self) -> None:
        super().__init__()
        self.met["examples"] += 1
        self.model = Model()
        self.conns = self.pool[:3]
        self.observer = self.pool[3]
        # Not truncated: each session would plan each of its statements anew.
        self.observer.execute(EMPTY)
        self.set_clock()
        self.puts = 0
        self.without: set[str] = set()
        self.leases: list[tuple[int, UUID]] = []
        # Another queue, with a job under the same key and a dead one, that nothing may touch.
        self.observer.execute("select queue_put('pears', dedupe_key => 'a'), queue_bury('pears', 0, 'rotten')")
        self.last_id = 1

    def teardown(self) -> None:
        for conn in self.conns:
            conn.execute("rollback")
        left = "select queue_count('pears'), count(*) from queue_dead where queue = 'pears'"
        assert self.observer.execute(left).fetchone() == (1, 1)

    # Calling

    def call(self, c: int, query: str, params: list[Any], expect: Callable[[list[Any]], list[Any]]) -> list[Any]:
        """Run the query and compare: `expect` asks the model, given what the server returned."""
        found: list[Any] = []
        refused: type[Exception] | None = None
        try:
            found = self.conns[c].execute(query, params).fetchall()
        except psycopg.Error as error:
            refused = {"55P03": Waits, "QU001": Full}.get(error.sqlstate or "")
            if refused is None:
                raise
            self.conns[c].execute("rollback")
        expected: list[Any] = []
        meant: type[Exception] | None = None
        try:
            expected = expect(found)
        except (Waits, Full) as error:
            meant = type(error)
            self.met[meant.__name__] += 1
        assert (refused, found) == (meant, expected)
        return found

    def value(self, c: int, query: str, params: list[Any], expect: Callable[[], Any]) -> Any:
        name = query.split("_", 1)[1].split("(")[0]
        found = self.call(c, query, params, lambda _: [(expect(),)])
        result = found[0][0] if found else None
        self.met[f"{name} {result if isinstance(result, bool) else bool(result)}"] += 1
        return result

    def job(self, c: int, n: int) -> int:
        ids = list(self.model.jobs(c)) or [1]
        return ids[n % len(ids)]

    def receipt(self, c: int, kind: str, n: int) -> tuple[int, UUID | None]:
        """A job and a receipt, good in the eyes of the connection or not."""
        jobs = self.model.jobs(c)
        any_job = self.job(c, n)
        good = [lease for lease in self.leases if self.model.leased(c, *lease)]
        newest = [lease for lease in self.leases if lease[0] in jobs and jobs[lease[0]].receipt == lease[1]]
        if kind == "expired" and good:
            # Just now.
            due = jobs[good[n % len(good)][0]].due
            assert due is not None
            self.model.now = due
            self.set_clock()
            good = [lease for lease in good if self.model.leased(c, *lease)]
        # Where a wrong receipt could do harm.
        if good and n % 4:
            any_job = good[n % len(good)][0]
        options: list[tuple[int, UUID | None]]
        options = {
            "none": [(any_job, None)],
            "good": good or newest,
            "expired": [lease for lease in newest if lease not in good],
            "outdated": [lease for lease in self.leases if lease not in newest],
            "another's": [(any_job, receipt) for _, receipt in self.leases],
        }.get(kind) or [(any_job, UUID(int=n))]
        return options[n % len(options)]

    def set_clock(self) -> None:
        self.observer.execute(
            "select setval('model_clock', %s)", [(self.model.now - START) // timedelta.resolution + 1]
        )

    @initialize(
        batch=st.lists(keys, max_size=5),
        keyed=st.booleans(),
        leased=st.integers(0, 3),
        # An example that lacks some of the actions has more of the others.
        without=st.sets(st.sampled_from(["configure", "clear_or_drop", "get", "cancel_or_update"])),
    )
    def begin_with_some(self, batch: list[str | None], keyed: bool, leased: int, without: set[str]) -> None:
        self.without = without
        self.put_many(0, batch, keyed, None)
        if leased:
            self.lease(0, leased, None, None)

    def possible(self) -> list[str]:
        return [
            name
            for name, action in ACTIONS.items()
            if name not in self.without and action.when(self)
            for _ in range(action.weight)
        ]

    @rule(call=next_call())
    def step(self, call: Call) -> None:
        getattr(self, call.name)(**call.arguments)

    # Transactions

    @action(weight=4, when=lambda self: len(self.model.open) < 3, n=which)
    def begin(self, n: int) -> None:
        idle = sorted({0, 1, 2} - set(self.model.open))
        c = idle[n % len(idle)]
        self.conns[c].execute("begin")
        self.model.begin(c)

    @action(
        weight=3,
        when=lambda self: self.model.open,
        n=which,
        how=st.sampled_from(["commit", "commit", "rollback", "die"]),
    )
    def end(self, n: int, how: str) -> None:
        c = sorted(self.model.open)[n % len(self.model.open)]
        self.met[how] += 1
        if how == "die":
            pid = self.conns[c].info.backend_pid
            self.observer.execute("select pg_terminate_backend(%s)", [pid])
            while self.observer.execute("select 1 from pg_stat_activity where pid = %s", [pid]).fetchone():
                pass
            self.conns[c].close()
            self.pool[c] = self.conns[c] = connect(self.dsn)
        else:
            self.conns[c].execute(how.encode())
        if how == "commit":
            self.model.commit(c)
        else:
            self.model.rollback(c)

    @action(weight=2, when=lambda self: self.model.open, n=which)
    def savepoint_or_back_to_it(self, n: int) -> None:
        c = sorted(self.model.open)[n % len(self.model.open)]
        if self.model.open[c].savepoint is None:
            self.conns[c].execute("savepoint s")
            self.model.savepoint(c)
        else:
            self.conns[c].execute("rollback to savepoint s")
            self.model.rollback_to_savepoint(c)
            self.met["back to a savepoint"] += 1

    # Time

    @action(weight=2, by=minutes)
    def time_passes(self, by: timedelta) -> None:
        self.model.now += by
        self.set_clock()

    @action(weight=3, when=lambda self: self.model.jobs(None), n=which, by=st.sampled_from([-1, 0, 1]))
    def time_passes_until_one_is_due(self, n: int, by: int) -> None:
        times = sorted({job.due for job in self.model.jobs(None).values() if job.due and not self.model.is_due(job)})
        if times:
            self.model.now = max(self.model.now, times[n % len(times)] + by * timedelta.resolution)
            self.set_clock()

    # Putting

    @action(
        weight=6,
        c=connections,
        schedule_in=st.none() | st.sampled_from([-1, 0, 5, 10, 60]).map(lambda n: timedelta(minutes=n)),
        expected_in=maybe_minutes,
        priority=st.integers(-1, 1),
        key=keys,
        max_attempts=st.sampled_from([None, None, 1, 2]),
    )
    def put(
        self,
        c: int,
        schedule_in: timedelta | None,
        expected_in: timedelta | None,
        priority: int,
        key: str | None,
        max_attempts: int | None,
    ) -> None:
        self.puts += 1
        expected_at = expected_in and self.model.now + expected_in

        def expect(rows: list[Any]) -> list[Any]:
            new = self.model.new_job(
                rows[0][0] if rows else 0,
                self.puts,
                schedule_in,
                expected_at=expected_at,
                priority=priority,
                key=key,
                max_attempts=max_attempts,
            )
            known = self.model.jobs(c)
            id = self.model.put(c, new)
            self.met["put again" if id in known else "put"] += 1
            assert id in known or id > self.last_id
            self.last_id = max(id, self.last_id)
            return [(id,)]

        query = """
            select queue_put(
                'apples', %s, schedule_in => %s, expected_in => %s, priority => %s, dedupe_key => %s, max_attempts => %s
            )
        """
        self.call(c, query, [Jsonb(self.puts), schedule_in, expected_in, priority, key, max_attempts], expect)

    @action(weight=2, c=connections, batch=st.lists(keys, max_size=4), keyed=st.booleans(), schedule_in=maybe_minutes)
    def put_many(self, c: int, batch: list[str | None], keyed: bool, schedule_in: timedelta | None) -> None:
        data = [self.puts + 1 + n for n in range(len(batch))]
        self.puts += len(batch)

        def expect(rows: list[Any]) -> list[Any]:
            new = [id for id, is_new in rows if is_new]
            assert new == sorted(new)
            assert not new or new[0] > self.last_id
            self.last_id = max([self.last_id, *new])
            jobs = [
                # The id of one that the server did not store is used by nobody.
                self.model.new_job(rows[n][0] if rows and rows[n][1] else -n, data[n], schedule_in, key=key)
                for n, key in enumerate(batch if keyed else [None] * len(batch))
            ]
            return self.model.put_many(c, jobs)

        query = "select * from queue_put_many('apples', %s, schedule_in => %s, dedupe_keys => %s::text[])"
        self.call(c, query, [[Jsonb(n) for n in data], schedule_in, batch if keyed else None], expect)

    # Taking

    @action(
        weight=3,
        when=lambda self: self.model.jobs(None),
        c=connections,
        count=counts,
        promote=st.booleans(),
        bury=st.sampled_from([False, False, False, True]),
    )
    def get(self, c: int, count: int, promote: bool, bury: bool) -> None:
        taken: list[Job] = []

        def expect(_: list[Any]) -> list[Any]:
            died = len(self.model.dead(c))
            taken.extend(self.model.get(c, count, promote))
            self.met["died of its lease"] += len(self.model.dead(c)) - died
            return [(*taken_of(job), job.consumer) for job in taken]

        query = f"select {TAKEN}, consumer from queue_get('apples', %s, promote => %s)"
        self.call(c, query, [count, promote], expect)
        self.met["got"] += len(taken)
        for job in taken if bury else []:
            query = """
                select queue_bury(
                    'apples', %s, 'unreadable', data => %s, priority => %s, schedule_at => %s, expected_at => %s,
                    attempts => %s, max_attempts => %s, consumer => %s, dedupe_key => %s
                )::text
            """
            params = [
                job.id, Jsonb(job.data), job.priority, job.schedule_at, job.expected_at, job.attempts,
                job.max_attempts, job.consumer, job.key,
            ]  # fmt: skip
            self.call(c, query, params, lambda _, job=job: [(self.model.bury(c, job, "unreadable") or "",)])
            self.met["buried"] += 1

    @action(
        weight=6,
        when=lambda self: self.model.jobs(None),
        c=connections,
        count=counts,
        lease=maybe_minutes,
        consumer=st.sampled_from([None, "w"]),
    )
    def lease(self, c: int, count: int, lease: timedelta | None, consumer: str | None) -> None:
        def expect(rows: list[Any]) -> list[Any]:
            receipts = {row[-2] for row in rows}
            assert len(receipts) < 2
            assert not receipts & {receipt for _, receipt in self.leases}
            receipt = min(receipts, default=UUID(int=0))
            before = len(self.model.dead(c))
            leased = self.model.lease(c, count, lease, consumer, receipt)
            self.met["died of its lease"] += len(self.model.dead(c)) - before
            self.leases.extend((job.id, receipt) for job in leased)
            self.met["leased"] += len(leased)
            return [(*taken_of(job), receipt, job.due) for job in leased]

        query = f"select {TAKEN}, receipt, lease_until from queue_lease('apples', %s, %s, %s)"
        self.call(c, query, [count, lease, consumer], expect)

    # With a receipt

    @action(weight=4, when=lambda self: self.leases, c=connections, kind=receipts, n=which)
    def complete(self, c: int, kind: str, n: int) -> None:
        id, receipt = self.receipt(c, kind, n)
        query = "select queue_complete('apples', %s, %s)"
        self.value(c, query, [id, receipt], lambda: self.model.complete(c, id, receipt))

    @action(weight=2, when=lambda self: self.leases, c=connections, kind=receipts, n=which)
    def release(self, c: int, kind: str, n: int) -> None:
        id, receipt = self.receipt(c, kind, n)
        query = "select queue_release('apples', %s, %s)"
        self.value(c, query, [id, receipt], lambda: self.model.release(c, id, receipt))

    @action(
        weight=3,
        when=lambda self: self.leases,
        c=connections,
        kind=receipts,
        n=which,
        progress=st.none() | st.integers(0, 100),
        lease=maybe_minutes,
    )
    def progress(self, c: int, kind: str, n: int, progress: int | None, lease: timedelta | None) -> None:
        id, receipt = self.receipt(c, kind, n)
        query = "select queue_progress('apples', %s, %s, %s, %s)"
        params = [id, receipt, progress, lease]
        self.value(c, query, params, lambda: self.model.progress(c, id, receipt, progress, lease))

    @action(
        weight=4,
        when=lambda self: self.leases,
        c=connections,
        kind=receipts,
        n=which,
        retry_in=st.none() | st.just(timedelta(0)) | minutes,
        bury=st.sampled_from([False, False, False, True]),
    )
    def error(self, c: int, kind: str, n: int, retry_in: timedelta | None, bury: bool) -> None:
        id, receipt = self.receipt(c, kind, n)
        if receipt is None and self.model.is_held(c, ("job", id)):
            # It would wait for a second, and give up.
            return
        before = len(self.model.dead(c))
        self.value(
            c,
            "select queue_error('apples', %s, %s, 'bad', retry_in => %s, bury => %s)",
            [id, receipt, retry_in, bury],
            lambda: self.model.error(c, id, receipt, "bad", retry_in, bury),
        )
        self.met["died of an error"] += len(self.model.dead(c)) > before

    @action(
        weight=2,
        when=lambda self: self.leases,
        c=connections,
        call=st.sampled_from(["complete", "release", "progress", "error"]),
        chosen=st.lists(st.tuples(receipts, which), max_size=3),
        with_null=st.booleans(),
    )
    def many(self, c: int, call: str, chosen: list[tuple[str, int]], with_null: bool) -> None:
        leases: dict[int, UUID | None] = dict(self.receipt(c, kind, n) for kind, n in chosen)
        if with_null:
            leases.setdefault(self.job(c, 0), None)
        name = f"queue_{call}_many"
        query = f"select id, done from {name}('apples', %s::bigint[], %s::uuid[])"
        if call == "error":
            query = (
                f"select id, done from {name}('apples', %s::bigint[], %s::uuid[], array_fill('bad'::text, array[%s]))"
            )
        params = [list(leases), list(leases.values()), len(leases)][: query.count("%s")]
        self.call(c, query, params, lambda _: self.model.many(c, call, list(leases.items())))

    @action(weight=2, when=lambda self: self.leases, c=connections)
    def heartbeat(self, c: int) -> None:
        """For all jobs that anybody has leased, by their last receipts."""
        leases: dict[int, UUID | None] = dict(self.leases)
        query = "select id, done from queue_progress_many('apples', %s, %s)"
        params = [list(leases), list(leases.values())]
        found = self.call(c, query, params, lambda _: self.model.many(c, "progress", list(leases.items())))
        self.met["passed over by a heartbeat"] += any(done is None for _, done in found)

    # Managing

    @action(
        weight=2,
        when=lambda self: self.model.jobs(None),
        c=connections,
        n=which,
        update=st.booleans(),
        kind=st.none() | receipts,
    )
    def cancel_or_update(self, c: int, n: int, update: bool, kind: str | None) -> None:
        id, receipt = (self.job(c, n), None) if kind is None else self.receipt(c, kind, n)
        if update:
            self.puts += 1
            query = "select queue_update('apples', %s, %s, receipt => %s)"
            params = [id, Jsonb(self.puts), receipt]
            self.value(c, query, params, lambda: self.model.update(c, id, self.puts, receipt))
        else:
            self.value(c, "select queue_cancel('apples', %s)", [id], lambda: self.model.cancel(c, id))

    @action(
        weight=2,
        c=connections,
        call=st.sampled_from(["create", "create", "pause", "resume"]),
        max_attempts=st.none() | st.integers(1, 3),
        lease_for=maybe_minutes,
        retry_in=st.none() | st.sampled_from([0, 1, 240, 600]).map(lambda n: timedelta(minutes=n)),
        max_depth=st.sampled_from([None, None, None, 2, 5]),
    )
    def configure(self, c: int, call: str, **given: Any) -> None:
        # A setting that is null stays as it is; without any, nothing is written to a queue that is known.
        given = {name: value for name, value in given.items() if value is not None} or {"max_attempts": 2}
        if call == "create" or (call == "resume" and not self.model.open and not self.model.settings(None).paused):
            query = f"select queue_create('apples', {', '.join(f'{name} => %s' for name in given)})"
            self.value(c, query, list(given.values()), lambda: self.model.create(c, **given))
        elif call == "pause":
            self.value(c, "select queue_pause('apples')", [], lambda: self.model.pause(c))
        else:
            self.value(c, "select queue_resume('apples')", [], lambda: self.model.resume(c))

    @action(weight=1, when=lambda self: len(self.model.committed) > 3, c=connections, drop=st.booleans())
    def clear_or_drop(self, c: int, drop: bool) -> None:
        if drop:
            self.value(c, "select queue_drop('apples')", [], lambda: self.model.drop(c))
        else:
            self.value(c, "select queue_clear('apples')", [], lambda: self.model.clear(c))

    @action(
        weight=3,
        when=lambda self: self.model.dead(None),
        c=connections,
        delete=st.booleans(),
        n=st.none() | which,
        count=st.sampled_from([None, 1, 2]),
    )
    def redrive_or_delete(self, c: int, delete: bool, n: int | None, count: int | None) -> None:
        dead = list(self.model.dead(c)) or [1]
        ids = None if n is None else [dead[n % len(dead)]]
        if delete:
            query = "select queue_dead_delete('apples', %s::bigint[], count => %s)"
            self.value(c, query, [ids, count], lambda: self.model.dead_delete(c, ids, count))
        else:
            query = "select queue_redrive('apples', %s::bigint[], count => %s)"
            self.value(c, query, [ids, count], lambda: self.model.redrive(c, ids, count))

    # After each step

    @invariant()
    def what_is_committed_is_what_the_model_has(self) -> None:
        self.met["steps"] += 1
        model = self.model
        ((*looked, stats),), *stored = self._look(self.observer, LOOK, *STORED)
        self._compare(None, stored)
        assert looked == [
            model.count(None, False),
            model.count(None, True),
            model.listed(None, False),
            model.listed(None, True),
            model.wait(None),
        ]
        assert tuple(stats) == model.stats(None)

    @invariant()
    def each_transaction_sees_what_it_did(self) -> None:
        for c in self.model.open:
            self._compare(c, self._look(self.conns[c], *STORED))

    def _look(self, conn: psycopg.Connection[Any], *queries: str) -> list[Any]:
        with conn.pipeline():
            cursors = [conn.execute(query) for query in queries]
            return [cursor.fetchall() for cursor in cursors]

    def _compare(self, c: int | None, stored: list[Any]) -> None:
        jobs, dead, stored_settings = stored
        assert [(*row[:-1], history_of(row[-1])) for row in jobs] == [
            row_of(job) for job in self.model.jobs(c).values()
        ]
        assert [(*row[:14], history_of(row[14]), *row[15:]) for row in dead] == [
            (*row_of(d.job), d.died_at, d.reason) for d in self.model.dead(c).values()
        ]
        settings = self.model.stored_settings(c)
        assert stored_settings == ([] if settings is None else [astuple(settings)])


def connect(dsn: str) -> psycopg.Connection[Any]:
    # A call that would wait for another connection fails.
    return psycopg.connect(
        dsn, autocommit=True, options="-c lock_timeout=50 -c client_min_messages=warning -c timezone=UTC"
    )


@contextmanager
def queue_machine(server: Server, mistakes: Mistakes = ()) -> Iterator[type[QueueMachine]]:
    """The machine on a database of its own, with these mistakes planted in the SQL."""
    files = {path.name: path.read_text() for path in [SQL / "schema.sql", *sorted((SQL / "functions").glob("*.sql"))]}
    for file, right, wrong in mistakes:
        assert right in files[file], f"{file} no longer has {right!r}: plant the mistake anew"
        files[file] = files[file].replace(right, wrong)
    name = "model"
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(f"create database {name}")
        with psycopg.connect(server.dsn(name)) as conn:
            conn.execute(CLOCK)
            conn.execute("set local search_path to public, pg_catalog, pg_temp")
            for text in files.values():
                conn.execute(text.encode())
            # Its locks would make a call wait that does not wait by itself.
            for table in ("queue_job", "queue_dead", "queue_setting"):
                conn.execute(f"alter table {table} set (autovacuum_enabled = false, toast.autovacuum_enabled = false)")

        pool = [connect(server.dsn(name)) for _ in range(4)]
        machine = type("Machine", (QueueMachine,), {"dsn": server.dsn(name), "pool": pool, "met": Counter()})
        try:
            yield machine
        finally:
            for conn in pool:
                conn.close()
            admin.execute(f"drop database {name} with (force)")


def run(machine: type[QueueMachine], examples: int, **more: Any) -> None:
    given = {
        "max_examples": examples,
        "stateful_step_count": STEPS,
        "derandomize": True,
        "database": None,
        "deadline": None,
        "suppress_health_check": list(HealthCheck),
        # Shorter examples of what failed take minutes to find: `make model` looks for them.
        "phases": [Phase.generate],
        "report_multiple_bugs": False,
    }
    run_state_machine_as_test(machine, settings=profile(**given | more))


# What the examples must have come by, or they say little.
TO_BE_MET = [
    *("commit", "rollback", "die", "back to a savepoint", "Waits"),
    *("put", "put again", "got", "leased", "died of its lease", "died of an error", "buried"),
    "passed over by a heartbeat",
    *(f"{call} {done}" for call in ("complete", "release", "progress", "error", "update") for done in (True, False)),
    *("cancel True", "pause True", "create True"),
]


@pytest.mark.timeout(max(600, 10 * EXAMPLES))
def test_any_calls_do_what_the_model_does(version: str, server: Server) -> None:
    with queue_machine(server) as machine:
        if EXAMPLES:
            run(machine, EXAMPLES, derandomize=False, print_blob=True, phases=list(Phase))
        else:
            run(machine, 60 if version == "18" else 30)
        print(dict(machine.met))
        if EXAMPLES or version == "18":
            assert not [what for what in TO_BE_MET if not machine.met[what]]


MISTAKES: dict[str, Mistakes] = {
    "complete without a receipt": [
        ("queue_complete.sql", "        and j.receipt = queue_complete.receipt\n", ""),
    ],
    "an attempt counts at its error": [
        ("queue_lease.sql", "attempts = j.attempts + 1", "attempts = j.attempts"),
        ("queue_release.sql", "attempts = j.attempts - 1", "attempts = j.attempts"),
        (
            "queue_error.sql",
            "    if _queue_fail(",
            """
    update queue_job j set attempts = j.attempts + 1
    where j.queue = queue_error.queue and j.id = queue_error.id and queue_error.receipt is not null;
    if _queue_fail(""",
        ),
    ],
    "a heartbeat revives a lease that ran out": [
        (
            "queue_progress.sql",
            "            and j.receipt = queue_progress.receipt\n            and j.lease_until > v_now\n",
            "            and j.receipt = queue_progress.receipt\n",
        ),
    ],
    "scheduled jobs are in the ready index": [
        ("queue_put.sql", "case when v_schedule_at > v_now then v_schedule_at end", "null::timestamptz"),
    ],
    "leased jobs don't hold their dedupe key": [
        (
            "schema.sql",
            "(queue, dedupe_key) where dedupe_key is not null;",
            "(queue, dedupe_key) where dedupe_key is not null and receipt is null;",
        ),
        (
            "_queue_put_keys.sql",
            "on conflict (queue, dedupe_key) where dedupe_key is not null do",
            "on conflict (queue, dedupe_key) where dedupe_key is not null and receipt is null do",
        ),
        (
            "_queue_find.sql",
            "j.dedupe_key = _queue_find.dedupe_key",
            "j.dedupe_key = _queue_find.dedupe_key and j.receipt is null",
        ),
    ],
}


@pytest.mark.timeout(600)
@pytest.mark.since(18)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_machine_finds_a_planted_mistake(version: str, server: Server, mistake: str) -> None:
    with queue_machine(server, MISTAKES[mistake]) as machine:
        with pytest.raises(AssertionError):
            run(machine, 500)  # it ends with the first that fails: as a rule within 30, once not within 60
        print(mistake, "after", machine.met["examples"], "examples,", machine.met["steps"], "steps")
