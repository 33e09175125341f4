"""Mistakes to plant, each with a schedule that brings it out: the accounts have to find it.

A mistake is in the test's database or in how the actors use the queue (actors.py), never in the repository.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg

from .plan import Plan

COMPLETE_WITHOUT_RECEIPT = """
create or replace function queue_complete(queue text, id bigint, receipt uuid) returns boolean
language plpgsql security definer set search_path from current as $$
#variable_conflict use_column
begin
    delete from queue_job j where j.queue = queue_complete.queue and j.id = queue_complete.id;
    if not found then
        return false;
    end if;
    insert into queue_tally (queue, taken, completed) values (queue_complete.queue, 1, 1);
    return true;
end
$$
"""

# The columns of queue_get, and what it does where nothing is scheduled; planned as plain statements are.
CLAIM_IN = """
create or replace function queue_get(queue text, count integer default 1, promote boolean default false)
returns table (
    id bigint, data jsonb, data_text text, data_bytes bytea, priority integer, enqueued_at timestamptz,
    schedule_at timestamptz, expected_at timestamptz, attempts integer, max_attempts integer, last_error text,
    progress_count bigint, consumer text, dedupe_key text, headers jsonb
)
language plpgsql security definer set search_path from current as $$
#variable_conflict use_column
begin
    return query
    delete from queue_job j
    where j.queue = queue_get.queue and j.id in (
        select r.id from queue_job r
        where r.queue = queue_get.queue and (r.ready_at is null or r.ready_at <= clock_timestamp())
        order by r.rank, r.expected_at, r.id
        limit queue_get.count
        for update skip locked
    )
    returning j.id, j.data, j.data_text, j.data_bytes, -j.rank, j.enqueued_at, j.schedule_at,
        nullif(j.expected_at, 'infinity'), j.attempts, j.max_attempts, j.last_error, j.progress_count, j.consumer,
        j.dedupe_key, j.headers;
end
$$
"""


@dataclass(frozen=True)
class Plant:
    """A mistake, what brings it out, and by which rule it is found."""

    rule: str
    plan: Plan
    statements: tuple[str, ...] = field(default=(), kw_only=True)

    def install(self, conn: psycopg.Connection[Any]) -> None:
        conn.execute("set search_path to public, pg_temp")
        for statement in self.statements:
            conn.execute(statement)


ONE = {"queues": ("transactional",)}


def quiet(torture: float, *cast: str, **more: Any) -> Plan:
    """A plan with no faults but those that are named."""
    given: dict[str, Any] = {
        "server_deck": (),
        "actor_deck": (),
        "probe": 0.2,
        "pause": {"server": 0.3, "actors": 0.3},
        **more,
    }
    return Plan(torture=torture, cast=cast, **given)


PLANTS = {
    # What was acknowledged in the last 0.2 s is in memory that dies with the server.
    "asynchronous-commit": Plant(
        "lost",
        quiet(2.5, "put", "put", "put-sql", "take", server_deck=("kill server",), options=ONE),
        statements=("alter database soak set synchronous_commit = off",),
    ),
    # There must be something in the table: a slow consumer.
    "unlogged-table": Plant(
        "lost",
        quiet(2.5, "put", "put", "take", server_deck=("kill server",), options={**ONE, "pause": 0.05, "work": 0.1}),
        statements=("alter table queue_job set unlogged",),
    ),
    # Whoever was stopped goes on when its lease has run out. Alone, or the next would have completed the job by then.
    "no-receipt": Plant(
        "completed_outdated",
        quiet(
            12,
            *("put", "lease"),
            actor_deck=("stop worker",),
            prey=("lease",),
            pause={"actors": 0.1},
            options={"queues": ("leased",), "work": 0.5, "pause": 1.5},
        ),
        statements=(COMPLETE_WITHOUT_RECEIPT,),
    ),
    "complete-first": Plant(
        "not_worked_on",
        quiet(
            4,
            *("put", "lease", "lease", "lease"),
            actor_deck=("kill worker",),
            prey=("lease",),
            options={"queues": ("leased",), "work": 0.4, "pause": 0.2},
        ),
    ),
    # Of those that run when their worker is killed.
    "worker-settles-first": Plant(
        "not_worked_on",
        quiet(
            4,
            *("put", "work", "work"),
            actor_deck=("kill worker",),
            prey=("work",),
            options={"queues": ("leased",), "work": 0.4, "pause": 0.1},
        ),
    ),
    # Nothing goes wrong, but for what outlasts its lease.
    "worker-keeps-nothing": Plant(
        "delivered_without_cause",
        quiet(8, "put", "work", "work", options={"queues": ("leased",), "work": 3.0, "pause": 0.4}),
    ),
    # More is leased than can begin at once.
    "worker-returns-nothing": Plant(
        "delivered_without_cause",
        quiet(
            8,
            *("put", "put", "work", "work"),
            actor_deck=("end worker",),
            prey=("work",),
            options={"queues": ("leased",), "work": 0.2, "pause": 0.02},
        ),
    ),
    "claim-in": Plant(
        "lost",
        quiet(4, "put", "take", "take", "get", "get", options={"queues": ("transactional", "fleeting")}),
        statements=(CLAIM_IN, "analyze queue_job"),
    ),
    # Nobody polls, so a wake-up that is lost is a long wait.
    "look-then-listen": Plant(
        "late",
        quiet(0.5, "take-sql", probe=8, options={**ONE, "poll": 6}),
    ),
    # As good as a notification that is lost, for all: they look every second. By the time of a put the only consumer
    # sleeps: of several, some are always about to look.
    "nobody-woken": Plant(
        "unwoken",
        quiet(0.5, "take", probe=8, options={**ONE, "poll": 1, "gap": 0.05}),
        statements=("create or replace function _queue_nobody_sleeps(queue text) returns boolean return true",),
    ),
    "swallowed-error": Plant("lost", quiet(3, "put", "put", "take", options=ONE)),
    # Whoever's wait for a standby is cut short has committed, and does not know.
    "repeat-without-key": Plant(
        "put_twice",
        quiet(6, "put", "put", "put", "put", "take", "take", server_deck=("freeze commits",), options=ONE),
    ),
}
