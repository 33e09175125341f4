"""Connections that Django or SQLAlchemy own: they begin, commit and roll back, we never do."""
# ruff: noqa: PT012 - a transaction that fails is a block of statements.

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import psycopg
import pytest
import sqlalchemy
from conftest import ROOT
from sqlalchemy import orm, text
from worlds import Background

from pgq_py import PQ, AsyncPQ, errors

DJANGO = """
import sys
import warnings
warnings.simplefilter("error")
import django
from django.conf import settings
host, port, user, name = sys.argv[1:]
settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "USER": user, "NAME": name,
    }},
    USE_TZ=True,
)
django.setup()
import psycopg
from django.db import connection, transaction
from pgq_py import PQ, errors

other = psycopg.connect(host=host, port=port, user=user, dbname=name, autocommit=True)

def committed():
    return other.execute("select queue_count('apples')").fetchone()[0]

pq = PQ(connection)
queue = pq["apples"]
"""


def django(database: Any, body: str) -> None:
    """Run the body in a process of its own, where Django is configured for the test's database."""
    server = database.server
    subprocess.run(
        [sys.executable, "-c", DJANGO + body, server.host, str(server.port), server.user, database.name],
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )


def test_in_djangos_autocommit_mode_each_call_is_durable(database):
    django(
        database,
        """
queue.put({"a": 1})
assert committed() == 1
assert queue.get().data == {"a": 1}
assert committed() == 0
assert queue.get(timeout=0.05) is None
queue.put_many(range(15_000))
assert committed() == 15_000
""",
    )


def test_in_djangos_atomic_a_call_waits_for_its_end(database):
    # The first statement of the block: psycopg's connection is still idle then.
    django(
        database,
        """
with transaction.atomic():
    queue.put(1)
    assert committed() == 0
assert committed() == 1
try:
    with transaction.atomic():
        queue.put(2)
        queue.get()
        raise LookupError
except LookupError:
    pass
assert committed() == 1
with transaction.atomic():
    with queue.take() as job:
        assert job.data == 1
    assert committed() == 1
    transaction.set_rollback(True)
assert committed() == 1
with transaction.atomic():
    queue.put(3)
    try:
        with transaction.atomic():
            queue.put(4)
            raise LookupError
    except LookupError:
        pass
assert [job.data for job in queue.list()] == [1, 3]
""",
    )


def test_blocks_on_djangos_connection_are_djangos(database):
    django(
        database,
        """
ran = []
with queue as cursor:
    queue.put(1)
    transaction.on_commit(lambda: ran.append(committed()))
    with connection.cursor() as theirs:
        theirs.execute("create table fruit (n int)")
    cursor.execute("insert into fruit values (1)")
    assert committed() == 0
assert ran == [1]
try:
    with queue:
        queue.put(2)
        raise LookupError
except LookupError:
    pass
assert committed() == 1
try:
    with queue as cursor:
        try:
            cursor.execute("select 1/0")
        except psycopg.Error:
            pass
except errors.TransactionAborted:
    pass
else:
    raise AssertionError("swallowed")
queue.put(3)
assert committed() == 2
with connection.cursor() as theirs:
    theirs.execute("select '{}'::jsonb")
    assert theirs.fetchone() == ("{}",)
connection.close()
queue.put(4)
assert committed() == 3
""",
    )


def test_djangos_autocommit_off_leaves_the_end_to_the_caller(database):
    django(
        database,
        """
transaction.set_autocommit(False)
queue.put(1)
assert committed() == 0
transaction.rollback()
assert committed() == 0
queue.put(2)
transaction.commit()
assert committed() == 1
""",
    )


def test_djangos_threads_have_connections_and_transactions_of_their_own(database):
    django(
        database,
        """
import threading
inside, done = threading.Event(), threading.Event()

def hold():
    with queue:
        queue.put(1)
        inside.set()
        assert done.wait(20)
    connection.close()

thread = threading.Thread(target=hold)
thread.start()
assert inside.wait(20)
queue.put(2)
assert committed() == 1
with queue:
    queue.put(3)
assert committed() == 2
done.set()
thread.join()
assert committed() == 3
""",
    )


@pytest.fixture
def url(database: Any) -> str:
    server = database.server
    return f"postgresql+psycopg://{server.user}@/{database.name}?host={server.host}&port={server.port}"


def committed(conn: psycopg.Connection[Any]) -> int:
    (count,) = conn.execute("select queue_count('apples')").fetchone()
    return count


@pytest.fixture
def engine(url: str) -> Any:
    engine = sqlalchemy.create_engine(url)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("kind", ["connection", "session", "scoped session"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "after a statement"])
def test_calls_belong_to_sqlalchemys_transaction(engine, conn, kind, first):
    if kind == "connection":
        theirs: Any = engine.connect()
    elif kind == "session":
        theirs = orm.Session(engine)
    else:
        theirs = orm.scoped_session(orm.sessionmaker(engine))
    with theirs() if kind == "scoped session" else theirs:
        queue = PQ(theirs)["apples"]
        for end, expected in ((theirs.rollback, 0), (theirs.commit, 1), (theirs.rollback, 1)):
            if not first:
                theirs.execute(text("select 1"))
            queue.put(1)
            assert committed(conn) == (1 if expected and end == theirs.rollback else 0)
            end()
            assert committed(conn) == expected
        assert queue.get().data == 1
        theirs.commit()
        assert committed(conn) == 0
        assert queue.get(timeout=0.05) is None


def test_a_scoped_session_is_one_for_each_thread(engine, conn):
    scoped = orm.scoped_session(orm.sessionmaker(engine))
    queue = PQ(scoped)["apples"]

    def elsewhere() -> None:
        queue.put(2)
        with queue:
            queue.put(3)
        scoped.rollback()
        queue.put(4)
        scoped.commit()
        scoped.remove()

    with queue:
        queue.put(1)
        Background(elsewhere).result()
        assert committed(conn) == 1
    scoped.commit()
    assert sorted(job.data for job in queue.list()) == [1, 4]
    scoped.remove()


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_blocks_on_sqlalchemys_connection_are_sqlalchemys(engine, conn, kind):
    with engine.connect() if kind == "connection" else orm.Session(engine) as theirs:
        queue = PQ(theirs)["apples"]
        queue.put_many([1, 2])
        theirs.commit()
        # With nothing begun, the block is the whole transaction.
        with queue:
            assert queue.get().data == 1
            assert committed(conn) == 2
        assert committed(conn) == 1
        # In a transaction it is a savepoint.
        theirs.execute(text("select 1"))
        with pytest.raises(LookupError), queue:
            queue.put(3)
            raise LookupError
        with queue.take() as job:
            assert job.data == 2
        assert committed(conn) == 1
        theirs.commit()
        assert committed(conn) == 0
        with (
            pytest.raises(errors.TransactionAborted),
            queue as cursor,
            pytest.raises(psycopg.errors.DivisionByZero),
        ):
            cursor.execute("select 1/0")
        theirs.rollback()
        queue.put(4)
        theirs.commit()
        assert committed(conn) == 1


def test_a_begin_of_sqlalchemys_decides(engine, conn):
    with engine.connect() as theirs:
        queue = PQ(theirs)["apples"]
        with pytest.raises(LookupError), theirs.begin():
            queue.put(1)
            raise LookupError
        assert committed(conn) == 0
        with theirs.begin():
            queue.put(1)
            assert committed(conn) == 0
        assert committed(conn) == 1
    with orm.Session(engine) as theirs, theirs.begin():
        PQ(theirs)["apples"].put(2)
        assert committed(conn) == 1
    assert committed(conn) == 2


def test_sqlalchemys_autocommit_makes_each_call_durable(engine, conn):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as theirs:
        queue = PQ(theirs)["apples"]
        queue.put(1)
        assert committed(conn) == 1
        assert queue.get().data == 1
        assert committed(conn) == 0


@pytest.mark.parametrize("kind", ["connection", "session"])
async def test_calls_belong_to_async_sqlalchemys_transaction(url, conn, kind):
    from sqlalchemy.ext import asyncio as sa_asyncio  # needs greenlet

    engine = sa_asyncio.create_async_engine(url)
    try:
        async with engine.connect() if kind == "connection" else sa_asyncio.AsyncSession(engine) as theirs:
            queue = AsyncPQ(theirs)["apples"]
            await queue.put(1)
            assert committed(conn) == 0
            await theirs.rollback()
            assert committed(conn) == 0
            await theirs.execute(text("select 1"))
            await queue.put(1)
            await theirs.commit()
            assert committed(conn) == 1
            with pytest.raises(LookupError):
                async with queue.take():
                    raise LookupError
            await theirs.rollback()
            async with queue:
                assert (await queue.get()).data == 1
                assert committed(conn) == 1
            await theirs.commit()
            assert committed(conn) == 0
            assert await queue.get(timeout=0.05) is None
            with pytest.raises(errors.TransactionAborted):
                async with queue as cursor:
                    with pytest.raises(psycopg.errors.DivisionByZero):
                        await cursor.execute("select 1/0")
            await theirs.rollback()
            await queue.put(2)
            await theirs.commit()
            assert committed(conn) == 1
    finally:
        await engine.dispose()


def test_what_sqlalchemy_stores_goes_with_the_job(engine, conn):
    class Base(orm.DeclarativeBase):
        pass

    class Fruit(Base):
        __tablename__ = "fruit"
        id: orm.Mapped[int] = orm.mapped_column(primary_key=True)

    Base.metadata.create_all(engine)
    with orm.Session(engine) as session:
        session.add(Fruit(id=1))
        PQ(session)["apples"].put(1)
        session.rollback()
        session.add(Fruit(id=2))
        PQ(session)["apples"].put(2)
        session.commit()
    assert conn.execute("select id from fruit").fetchall() == [(2,)]
    assert committed(conn) == 1
