"""All interleavings of calls in two and three sessions, at each isolation level: what each is told, and what is left.

The specs are in tests/specs, and PostgreSQL's isolationtester runs them. Nothing is compared with a recorded output:
tests/spec_model.py tells what each step must answer, and whether it waits. SERIALIZABLE may refuse more: the model is
told what was refused, and tells all the rest. Whatever happened, each job must be in one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import psycopg
import pytest
from checkout import Checkout
from conftest import Database
from isolation import LEVELS, SPECS, Outcome, Spec, Story, run
from pytest_postgresql.janitor import DatabaseJanitor
from spec_model import Job, World, play, steps
from sql_sessions import value

# What each begins with: jobs with the ids 1, 2, 3, and the key that is put.
LEASED = Job(attempts=1, receipt="known", due_at=0.5)
WORLDS: dict[str, Callable[..., World]] = {
    name: partial(World, jobs, key)
    for name, jobs, key in (
        ("put_get", [], ""),
        ("put_rollback_get", [], ""),
        ("claim", [Job()] * 2, ""),
        ("claim_stale", [Job()], ""),
        ("claim_due", [Job(attempts=1, receipt="gone", due_at=-1), Job(due_at=-1), Job()], ""),
        ("complete_expire_lease", [LEASED], ""),
        ("error_complete", [LEASED], ""),
        ("progress_complete", [LEASED], ""),
        ("dedupe", [], "k"),
        ("dedupe_stale", [], "k"),
        ("dedupe_get", [Job("k")], "k"),
        ("clear_get", [Job()] * 3, ""),
        ("cancel_lease", [Job()], ""),
        ("migration_get", [Job()] * 3, ""),
    )
}


def test_every_spec_has_its_world() -> None:
    assert {file.stem for file in SPECS.glob("*.spec")} == set(WORLDS)


@pytest.fixture(scope="module")
def specs_database(version: str, request: pytest.FixtureRequest, second: Checkout) -> Iterator[Database]:
    """A database with the queue, the functions that the specs call, and the text of the next version."""
    template = request.getfixturevalue(f"template_{version}")
    server = request.getfixturevalue(f"server_{version}")
    database = Database(server, f"{template.dbname}_specs")
    janitor = DatabaseJanitor(
        user=template.user,
        host=template.host,
        port=template.port,
        dbname=database.name,
        template_dbname=template.template_dbname,
    )
    janitor.init()
    conn = database.connect()
    conn.execute((SPECS / "spec_setup.sql").read_bytes())
    (up,) = second.root.glob("migrations/versions/*_add_note.sql")
    (down,) = second.root.glob("migrations/versions/*_add_note.down.sql")
    for direction, file in (("up", up), ("down", down)):
        conn.execute("insert into spec_migration values (%s, %s)", [direction, file.read_text()])
    yield database
    database.close()
    janitor.drop()


def expected(
    name: str, order: tuple[str, ...], level: str, latest_first: bool = False, refused: Collection[str] = ()
) -> tuple[Any, World]:
    world = WORLDS[name](level, refused=refused)
    return play(Spec.read(name), order, world, latest_first), world


def told(outcomes: dict[str, Outcome]) -> dict[str, tuple[str, str, bool]]:
    return {step: (found.value, found.sqlstate, found.waited) for step, found in outcomes.items()}


def stands(story: Story, world: World) -> bool:
    """Whether the database is left as the model is."""
    jobs = {(int(row["id"]), int(row["attempts"]), row["answer"] == "t", row["what"]) for row in story.at("job")}
    meant = {
        (id, job.attempts, bool(job.receipt), job.key) for id in world.versions if (job := world.latest(id)) is not None
    }
    notes = Counter((row["what"], int(row["id"])) for row in story.at("ledger") if row["answer"] != "f")
    return jobs == meant and not story.at("dead") and notes == Counter(world.notes)


def check(name: str, level: str, story: Story) -> None:
    """The rules."""
    for step, outcome in story.steps.items():
        assert outcome.sqlstate in ("", "40001", "25P02"), f"{step}: {outcome.sqlstate}"
    account(name, story)
    refused = {step for step, outcome in story.steps.items() if outcome.sqlstate == "40001"}
    for step in refused:
        assert overlapped(Spec.read(name), story, step), f"{step} was refused, though nobody else committed"
    # More is refused at SERIALIZABLE than the rows say. All else must be as the model says when just that is refused.
    given = refused if level == "serializable" else set()
    worlds = [expected(name, story.order, level, latest_first, given) for latest_first in (False, True)]
    assert any(
        outcomes is not None and told(story.steps) == told(outcomes) and stands(story, world)
        for outcomes, world in worlds
    ), f"{told(story.steps)}\nnot {worlds[0][0] and told(worlds[0][0])}\n{story.state}"


def account(name: str, story: Story) -> None:
    """Each job is in one place, once; and the totals know it."""
    put = {int(row["id"]) for row in story.at("ledger") if row["what"] == "put"}
    put |= set(WORLDS[name](LEVELS[0]).versions)
    ended = [
        int(row["id"])
        for row in story.at("ledger")
        if row["what"] == "get" or (row["what"] in ("complete", "cancel") and row["answer"] == "t")
    ]
    places = Counter([*ended, *(int(row["id"]) for row in story.at("job") + story.at("dead"))])
    cleared = sum(int(row["id"]) for row in story.at("ledger") if row["what"] == "clear")
    assert set(places) <= put, f"{places} of {put}"
    assert set(places.values()) <= {1}, f"{places} of {put}"
    assert len(put) - len(places) == cleared, f"{put - set(places)} are nowhere, {cleared} were cleared"
    (totals,) = story.at("totals")
    assert int(totals["id"] or 0) == len(story.at("job")), "the totals don't fit"


def overlapped(spec: Spec, story: Story, step: str) -> bool:
    """Whether another session has committed in the time from the begin of the step's transaction to the refusal.

    Both kinds need that: a job that has changed since the snapshot, and the dangerous structures of SERIALIZABLE, of
    which one has to commit first.
    """
    session = spec.session(step)
    began = min(story.steps[own].started for own in transaction(spec, step))
    return any(
        began < story.steps[other].ended and is_before(story, other, step) and is_commit(spec, story, other)
        for other in story.steps
        if spec.session(other) != session
    )


def is_before(story: Story, step: str, other: str) -> bool:
    """Whether one may have ended before the other. Of several that had waited, and went on at once, all may."""
    begin, end = story.steps[other].ended, story.steps[step].ended
    return not any(begin < outcome.started <= end for outcome in story.steps.values())


def transaction(spec: Spec, step: str) -> list[str]:
    """The steps that are in one transaction with this one."""
    known = steps(spec)
    return [
        other
        for other in spec.sessions[known[step].session]
        if other == step or not (known[other].is_alone or known[step].is_alone)
    ]


def is_commit(spec: Spec, story: Story, step: str) -> bool:
    known = steps(spec)[step]
    is_end = known.verb == "commit" or (known.is_alone and known.verb != "on")
    return is_end and not any(story.steps[own].sqlstate for own in transaction(spec, step))


def possible(name: str, level: str) -> list[tuple[str, ...]]:
    """All interleavings but those in which a session that waits would have to go on."""
    return [order for order in Spec.read(name).interleavings() if expected(name, order, level)[0] is not None]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", WORLDS)
def test_all_interleavings(specs_database: Database, name: str, level: str) -> None:
    for story in run(Spec.read(name), specs_database.dsn, level, possible(name, level)):
        check(name, level, story)


@pytest.mark.parametrize("what", ["an answer", "a wait", "a lease", "a refusal"])
def test_what_serializable_refuses_excuses_nothing_else(specs_database: Database, what: str) -> None:
    """Stories with a refusal beyond the model, each made wrong in one place where every job is still accounted for."""
    spec, level = Spec.read("claim_due"), "serializable"
    stories = [
        story
        for story in run(spec, specs_database.dsn, level, possible(spec.name, level))
        if any(outcome.sqlstate == "40001" for outcome in story.steps.values())
    ]
    wrong = 0
    for story in stories:
        check(spec.name, level, story)
        step = next(step for step, outcome in story.steps.items() if outcome.value)
        leases = [row for row in story.at("ledger") if row["what"] == "lease"]
        if what == "an answer":
            story.steps[step] = replace(story.steps[step], value="7")
        elif what == "a wait":
            story.steps[step] = replace(story.steps[step], waited=True)
        elif what == "a lease" and leases:
            story.state.remove(leases[0])
        elif what == "a refusal":
            refused = {spec.session(step) for step, outcome in story.steps.items() if outcome.sqlstate == "40001"}
            for step, outcome in story.steps.items():
                # All others had ended before.
                if spec.session(step) not in refused:
                    story.steps[step] = replace(outcome, ended=-1)
        else:
            continue
        wrong += 1
        with pytest.raises(AssertionError):
            check(spec.name, level, story)
    assert wrong


# The rules find mistakes. Each is planted in a function, or in the migration, by replacing a text in it.

RECEIPT = """
        and j.receipt = queue_{0}.receipt
        and j.lease_until > v_now"""
RECEIPT_OF_ERROR = RECEIPT.format("error").replace("\n    ", "\n        ")
SKIP = "for update skip locked"
# With a plan that looks into the list of one anew for each job there is: then that list is of another one.
CLAIM_BY_IN = [
    (
        "    if coalesce(current_setting('pgq_py.has_head', true), '') = '' then",
        """
    for v_id in
        delete from queue_job j
        where j.queue = queue_get.queue and j.id in (
            select k.id
            from queue_job k
            where k.queue = queue_get.queue and k.ready_at is null
            order by k.rank, k.expected_at, k.id
            limit queue_get.count
            for update skip locked
        )
        returning j.id
    loop
        id := v_id;
        insert into queue_tally (queue, taken) values (queue_get.queue, 1);
        return next;
    end loop;
    return;
    if coalesce(current_setting('pgq_py.has_head', true), '') = '' then""",
    ),
    (
        " SET jit TO 'off'\n",
        "".join(f" SET enable_{way} TO 'off'\n" for way in ("hashjoin", "mergejoin", "hashagg", "material")),
    ),
]
PLANTED = {
    "a taker that goes on behind the last id it had": (
        "put_get",
        "read committed",
        "queue_get",
        [
            (
                "j.ready_at is null\n            order by",
                "j.ready_at is null and j.id > coalesce(nullif(current_setting('pgq_py.seen', true), ''), '0')::bigint"
                " order by",
            ),
            (
                "if v_ids[1] is not null then",
                "if v_ids[1] is not null then perform set_config('pgq_py.seen', v_ids[1]::text, false);",
            ),
        ],
    ),
    "claiming without skip locked": ("claim", "read committed", "queue_get", [(SKIP, "for update")]),
    "claiming through in (select ... limit)": ("claim", "read committed", "queue_get", CLAIM_BY_IN),
    "claiming without a lock": ("claim_stale", "repeatable read", "queue_get", [(SKIP, "")]),
    "picking what is due without a lock": ("claim_due", "read committed", "_queue_pick", [(SKIP, "")]),
    "promoting without skip locked": ("claim_due", "read committed", "_queue_promote", [(SKIP, "for update")]),
    "completing without the receipt": (
        "complete_expire_lease",
        "read committed",
        "queue_complete",
        [(RECEIPT.format("complete"), "")],
    ),
    "an error without the receipt": (
        "complete_expire_lease",
        "read committed",
        "queue_error",
        [(RECEIPT_OF_ERROR, "")],
    ),
    "completing what is no longer there": (
        "error_complete",
        "read committed",
        "queue_complete",
        [("if not found then", "if false then")],
    ),
    "a heartbeat that waits for what others hold": (
        "progress_complete",
        "read committed",
        "queue_progress_many",
        [("for no key update skip locked", "for no key update")],
    ),
    "a heartbeat that calls lost what others hold": (
        "progress_complete",
        "read committed",
        "queue_progress_many",
        [("            end;", "            else false end;")],
    ),
    "putting a key without on conflict": (
        "dedupe",
        "read committed",
        "_queue_put_keys",
        [("on conflict (queue, dedupe_key) where dedupe_key is not null do nothing", "")],
    ),
    "answering with an id of one's own": (
        "dedupe_stale",
        "read committed",
        "_queue_put_keys",
        [("else _queue_find(_queue_put_keys.queue, u.dedupe_key)", "else u.new_id")],
    ),
    "answering with the job that was taken": ("dedupe_get", "repeatable read", "_queue_find", [("max(", "min(")]),
    "clearing what others hold": ("clear_get", "read committed", "queue_clear", [(SKIP, "for update")]),
    "clearing without a lock": ("clear_get", "serializable", "queue_clear", [(SKIP, "")]),
    "cancelling what others hold": ("cancel_lease", "read committed", "queue_cancel", [(SKIP, "for update")]),
    "counting a cancellation that was none": (
        "cancel_lease",
        "read committed",
        "queue_cancel",
        [("if not found then", "if false then")],
    ),
    "a migration that leaves functions behind": (
        "migration_get",
        "read committed",
        "up",
        [("alter table queue_job add column note text;", "alter table queue_job rename column consumer to note;")],
    ),
}


@contextmanager
def planted(conn: psycopg.Connection[Any], where: str, changes: list[tuple[str, str]]) -> Iterator[None]:
    is_migration = where in ("up", "down")
    read = "select script from spec_migration where direction = %s"
    text = value(conn, read if is_migration else "select pg_get_functiondef(%s::regproc)", where)
    wrong = text
    for old, new in changes:
        assert old in wrong, f"{old!r} is not in {where}"
        wrong = wrong.replace(old, new)

    def install(text: str) -> None:
        if is_migration:
            conn.execute("update spec_migration set script = %s where direction = %s", [text, where])
        else:
            conn.execute(text)

    install(wrong)
    try:
        yield
    finally:
        install(text)


@pytest.mark.parametrize("mistake", PLANTED)
def test_the_rules_find(specs_database: Database, mistake: str) -> None:
    name, level, where, changes = PLANTED[mistake]
    orders = possible(name, level)
    with planted(specs_database.connect(), where, changes):
        # The first that are found will do: many of these mistakes make sessions wait.
        found = next(
            (
                error
                for n in range(0, len(orders), 20)
                for error in broken(specs_database, name, level, orders[n : n + 20])
            ),
            None,
        )
    assert found is not None


def broken(database: Database, name: str, level: str, orders: list[tuple[str, ...]]) -> Iterator[AssertionError]:
    for story in run(Spec.read(name), database.dsn, level, orders, patience="50ms"):
        # On a busy machine that may be no time at all: not a proof of anything.
        if any(outcome.sqlstate == "55P03" for outcome in story.steps.values()):
            continue
        try:
            check(name, level, story)
        except AssertionError as error:
            yield error
