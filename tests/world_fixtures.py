"""The fixtures of tests that speak for both worlds: `pytest_plugins = ("world_fixtures",)`."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from worlds import Gate, Sleepers, World

from pgq_py._async import listener as async_listener
from pgq_py._sync import listener as sync_listener


@pytest.fixture(params=["sync", "async"])
async def world(request: pytest.FixtureRequest, database: Any) -> AsyncIterator[World]:
    """Each of the two worlds."""
    world = World(request.param, database.dsn)
    yield world
    await world.close()


@pytest.fixture
def pq(world: World) -> Any:
    """A PQ on the address of the test's database."""
    return world.pq()


@pytest.fixture
def queue(pq: Any) -> Any:
    return pq["apples"]


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Sleepers:
    """Also makes the poll interval so long that only a notification or a due time can wake."""
    found = Sleepers()
    sync_sleep, async_sleep = sync_listener.Listener.sleep, async_listener.AsyncListener.sleep

    def sleep(self: Any, seconds: float) -> bool:
        found.note()
        return sync_sleep(self, seconds)

    async def sleep_async(self: Any, seconds: float) -> bool:
        found.note()
        return await async_sleep(self, seconds)

    monkeypatch.setattr(sync_listener.Listener, "sleep", sleep)
    monkeypatch.setattr(async_listener.AsyncListener, "sleep", sleep_async)
    monkeypatch.setattr(sync_listener, "POLL", 60.0)
    monkeypatch.setattr(async_listener, "POLL", 60.0)
    return found


@pytest.fixture
def gate(database: Any) -> Iterator[Gate]:
    """A proxy that counts round trips; connect with `gate.address`."""
    with tempfile.TemporaryDirectory(prefix="gate-") as folder:
        gate = Gate(folder, f"{database.server.host}/.s.PGSQL.{database.server.port}")
        yield gate
        gate.close()
