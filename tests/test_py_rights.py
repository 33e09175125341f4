"""Rights from Python: giving, taking and listing them, and what a role without one is told."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgq_py import Right, calls, errors

pytest_plugins = ("world_fixtures",)


@pytest.fixture
def web(world: Any, roles: Any) -> Any:
    """A PQ of the role web, which has no rights yet."""
    roles.make("web")
    return world.pq(make_conninfo(world.dsn, user="web"))


async def test_a_right_on_one_queue(pq, web):
    assert await pq["apples"].grant("web", "put") is True
    assert await pq["apples"].grant("web", "put") is False
    await web["apples"].put("Cox")
    for refused in (web["pears"].put("Nashi"), web["apples"].get(block=False), web["apples"].count(), web.stats()):
        with pytest.raises(errors.NotAllowed) as caught:
            await refused
        assert isinstance(caught.value, psycopg.errors.InsufficientPrivilege)
        assert caught.value.sqlstate == "42501"
    assert await pq["apples"].revoke("web", "put") is True
    assert await pq["apples"].revoke("web", "put") is False
    with pytest.raises(errors.NotAllowed):
        await web["apples"].put("Cox")


async def test_a_right_on_all_queues(pq, web):
    assert await pq.grant("web", "get") is True
    await pq["apples"].grant("web", "put")
    for name in ("apples", "pears"):
        await pq[name].put(name)
    assert (await web["apples", "pears"].get(block=False)).data == "apples"
    assert (await web["apples", "pears"].get(block=False)).data == "pears"
    assert await pq.revoke("web", "get") is True
    with pytest.raises(errors.NotAllowed):
        await web["apples"].get(block=False)
    assert await pq.revoke("web") is True
    assert await pq.revoke("web") is False
    with pytest.raises(errors.NotAllowed):
        await web["apples"].put("Cox")


async def test_rights_are_listed(pq, web):
    await pq["apples"].grant("web", "put")
    await pq["pears"].grant("web", "get")
    await pq.grant("postgres", "observe")
    found = await pq.rights()
    assert [(right.queue, right.role, right.privilege) for right in found] == [
        (None, "postgres", "observe"),
        ("apples", "web", "put"),
        ("pears", "web", "get"),
    ]
    assert all(isinstance(right, Right) for right in found)
    assert all(datetime.now(UTC) - right.granted_at < timedelta(minutes=1) for right in found)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].role = "web"
    assert await pq["apples"].rights() == found[:2]
    assert await web.rights() == found[1:]
    assert await web["apples"].rights() == found[1:2]


@pytest.mark.parametrize(("role", "privilege", "kind"), [
    ("nobody", "put", psycopg.errors.UndefinedObject),
    ("web", "eat", psycopg.errors.InvalidParameterValue),
])  # fmt: skip
async def test_what_cannot_be_given_is_an_error(pq, web, role, privilege, kind):
    for refused in (pq.grant(role, privilege), pq["apples"].grant(role, privilege), pq.revoke(role, privilege)):
        with pytest.raises(kind) as caught:
            await refused
        assert isinstance(caught.value, errors.Error)
    assert await pq.rights() == []


ASKING = {
    "put": [
        lambda queue: queue.put("secret"),
        lambda queue: queue.put("secret", dedupe_key="k"),
        lambda queue: queue.put_many(["secret"]),
    ],
    "get": [
        lambda queue: queue.get(block=False),
        lambda queue: queue.get(timeout=1),
        lambda queue: queue.get_many(2),
        lambda queue: queue.lease(block=False),
        lambda queue: queue.next_at(),
    ],
    "observe": [
        lambda queue: queue.list(),
        lambda queue: queue.count(),
        lambda queue: queue.stats(),
        lambda queue: queue.dead(),
        lambda queue: queue.settings(),
    ],
    "manage": [
        lambda queue: queue.create(),
        lambda queue: queue.configure(max_attempts=3),
        lambda queue: queue.pause(),
        lambda queue: queue.resume(),
        lambda queue: queue.clear(),
        lambda queue: queue.cancel(1),
        lambda queue: queue.update(1, "secret"),
        lambda queue: queue.redrive(),
        lambda queue: queue.delete_dead(),
        lambda queue: queue.drop(),
    ],
}


@pytest.mark.parametrize("held", ["no right", "a right on another queue", "execute on all functions"])
async def test_a_refused_call_names_queue_privilege_and_the_grant_to_ask_for(pq, web, conn, held):
    if held == "a right on another queue":
        await pq["pears"].grant("web", "put")
    elif held == "execute on all functions":
        conn.execute("grant execute on all functions in schema public to web")
    for privilege, attempts in ASKING.items():
        for attempt in attempts:
            with pytest.raises(errors.NotAllowed) as caught:
                await attempt(web["it's"])
            said = str(caught.value)
            assert f"right to {privilege} on queue " in said
            assert "secret" not in said
            # What is to be asked for is what helps.
            grant = said[said.index("select ") :].rstrip(")") + ")"
            assert f"'it''s', 'web', '{privilege}')" in grant
            with conn.transaction(force_rollback=True):
                assert conn.execute(grant).fetchone() == (True,)


async def test_a_role_without_rights_is_told_so_inside_a_transaction_of_its_own(pq, web, world):
    conn = await world.connect(conninfo={"user": "web"})
    joined = world.pq(conn)
    await conn.execute("select 1")
    with pytest.raises(errors.NotAllowed, match=r"right to put on queue 'apples': .*'apples', 'web', 'put'"):
        await joined["apples"].put("Cox")
    await conn.rollback()
    with pytest.raises(errors.NotAllowed, match="right to get on queue 'apples'"):
        async with web.transaction():
            await web["apples"].get(block=False)
    await conn.execute("select 1")
    with pytest.raises(errors.NotAllowed, match="'web' has no right on any queue here"):
        await joined["apples"].get(block=False)


async def test_what_is_of_all_queues_takes_a_right_on_all(pq, web, conn):
    for privilege, attempts in {
        "observe": [lambda: web.stats(), lambda: web.health()],
        "manage": [lambda: web.maintain()],
    }.items():
        for attempt in attempts:
            with pytest.raises(errors.NotAllowed, match=f"the right to {privilege} on all queues") as caught:
                await attempt()
            grant = str(caught.value)
            conn.execute(grant[grant.index("select ") :].removesuffix(")"))
            await attempt()
            await pq.revoke("web")
    for attempt in (lambda: web.grant("web", "put"), lambda: web["apples"].revoke("web")):
        with pytest.raises(errors.NotAllowed, match="only the owner of the queue can"):
            await attempt()


async def test_a_role_is_known_once_it_has_a_right(pq, web):
    with pytest.raises(errors.NotAllowed):
        await web["apples"].put("Cox")
    await pq["apples"].grant("web", "put")
    await web["apples"].put("Cox")
    assert await pq["apples"].count() == 1


async def test_a_consumer_with_the_right_to_get_can_do_all_that_consumers_do(pq, web):
    await pq["apples"].grant("web", "get")
    queue = web["apples"]
    await pq["apples"].put_many([1, 2, 3, 4, 5])
    async with queue.take() as job:
        assert job.data == 1
    with pytest.raises(ZeroDivisionError):
        async with queue.take() as job:
            raise ZeroDivisionError
    job = await queue.lease()
    await job.progress(50)
    assert await job.complete() is True
    job = await queue.lease()
    assert await job.release() is True
    job = await queue.lease()
    assert await job.error("a worm") is True
    async for job in queue.consume(timeout=0):
        assert job is not None
    assert await queue.get(timeout=0.05) is None


def test_the_privileges_to_ask_for_are_those_that_suffice(conn):
    suffice = dict(conn.execute("select name, privileges from _queue_functions()").fetchall())
    asked = calls._TO_ASK_FOR
    assert set(suffice) - set(asked) == {"queue_version", "queue_rights"}
    assert {name: privilege for name, privilege in asked.items() if privilege not in suffice[name]} == {}
