"""Tasks: functions whose calls are put into a queue, checked where they are made, and found again by name."""

from __future__ import annotations

import functools
import inspect
import json
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from conftest import ROOT
from sqlalchemy import orm
from test_py_hosts import django
from worlds import World, plain

from pgq_py import PQ, Bury, Retry, UnknownTask, errors

pytest_plugins = ("world_fixtures",)


def eat(kind: str, count: int = 1) -> str:
    """Eat apples."""
    return kind * count


async def drink(kind: str) -> str:
    return kind.upper()


def take_all(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


async def finish(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def work(pq: Any, queue: Any) -> Any:
    """What a worker does with the next job: its result, or the exception."""
    job = await queue.lease(timeout=0)
    tasks = pq.tasks
    try:
        task = tasks.of(plain(job))
    except (UnknownTask, errors.PayloadError) as error:
        await job.error(str(error), bury=True)
        return error
    try:
        result = await finish(task.run(plain(job)))
        await job.complete()
        return result
    except Exception as error:
        message, retry_in, bury = task.verdict(error)
        await job.error(message, retry_in, bury=bury)
        return error


def task_of(queue: Any, function: Callable[..., Any], **options: Any) -> Any:
    """By the decorator, with and without parentheses."""
    return plain(queue).task(**options)(function) if options else plain(queue).task(function)


# Putting, and what a job is


async def test_a_call_puts_a_job_and_a_worker_finds_the_function(pq, queue):
    task = task_of(queue, eat)
    id = await finish(task("Cox", count=2))
    assert (id, id.is_new) == (1, True)
    assert [job.data for job in await queue.list()] == [
        {"task": "test_py_tasks.eat", "args": ["Cox"], "kwargs": {"count": 2}}
    ]
    assert await work(pq, queue) == "CoxCox"
    assert await queue.count(scheduled=True) == 0


async def test_a_coroutine_function_is_a_task_in_both_worlds(pq, queue):
    task = task_of(queue, drink)
    await finish(task("cider"))
    assert task.is_coroutine
    assert not task_of(queue, eat).is_coroutine
    assert await task.call("perry") == "PERRY"
    assert await work(pq, queue) == "CIDER"


async def test_the_options_are_those_of_put(queue, conn):
    task = task_of(queue, eat, schedule_at="1h", expected_at="2h", priority=3, max_attempts=7)
    await finish(task("Cox"))
    (job,) = await queue.list(scheduled=True)
    assert (job.priority, job.max_attempts) == (3, 7)
    assert job.schedule_at - job.enqueued_at == timedelta(hours=1)
    assert job.expected_at - job.enqueued_at == timedelta(hours=2)


async def test_a_call_may_have_times_of_its_own(queue):
    task = task_of(queue, eat, schedule_at="1h", expected_at="2h")
    await finish(task("Cox", _schedule_at="1m", _expected_at=timedelta(minutes=2)))
    await finish(task("Gala", _schedule_at=timedelta(0)))
    at = datetime(2100, 1, 1, tzinfo=UTC)
    await finish(task("Fuji", _expected_at=at, _schedule_at=None))
    jobs = {job.data["args"][0]: job for job in await queue.list(scheduled=True)}
    assert jobs["Cox"].schedule_at - jobs["Cox"].enqueued_at == timedelta(minutes=1)
    assert jobs["Cox"].expected_at - jobs["Cox"].enqueued_at == timedelta(minutes=2)
    assert [job.data["args"] for job in await queue.list()] == [["Gala"]]
    assert jobs["Fuji"].expected_at == at
    assert jobs["Fuji"].schedule_at - jobs["Fuji"].enqueued_at == timedelta(hours=1)
    assert all("kwargs" not in job.data for job in jobs.values())


async def test_configure_gives_the_same_task_with_other_options(pq, queue):
    task = task_of(queue, eat, priority=3, schedule_at="1h")
    other = task.configure(
        schedule_at=None, priority=9, max_attempts=1, dedupe_key="k", headers={"trace": 1}, expected_at="5m"
    )
    first, again = await finish(other("Cox")), await finish(other("Gala"))
    assert (first.is_new, again.is_new, first) == (True, False, again)
    (job,) = await queue.list()
    assert (job.priority, job.max_attempts, job.dedupe_key, job.headers) == (9, 1, "k", {"trace": 1})
    assert job.schedule_at is None
    assert job.expected_at is not None
    assert await work(pq, queue) == "Cox"
    # The task itself is as it was, and is the one that is known.
    await finish(task("Cox"))
    (job,) = await queue.list(scheduled=True)
    assert (job.priority, job.headers) == (3, None)
    assert pq.tasks["test_py_tasks.eat"] is task


async def test_configure_puts_into_another_queue_by_name_or_object(pq, queue):
    task = task_of(queue, eat)
    await finish(task.configure(queue="pears")("Comice"))
    await finish(task.configure(queue=plain(pq["quinces"]))("Vranja"))
    assert await queue.count() == 0
    assert await work(pq, pq["pears"]) == "Comice"
    assert await work(pq, pq["quinces"]) == "Vranja"


async def test_many_calls_are_put_at_once(pq, queue):
    task = task_of(queue, eat)
    await queue.put_many(task.data(kind, count=2) for kind in ("Cox", "Gala"))
    assert [await work(pq, queue) for _ in range(2)] == ["CoxCox", "GalaGala"]
    with pytest.raises(TypeError):
        task.data()


async def test_call_runs_it_here(queue):
    assert task_of(queue, eat).call("Cox", 2) == "CoxCox"
    assert await queue.count() == 0


async def test_jobs_put_by_sql_are_calls(pq, queue, conn):
    task_of(queue, take_all, name="all")
    for data in (
        {"task": "all"},
        {"task": "all", "args": [1, [2]]},
        {"task": "all", "kwargs": {"a": {"b": None}}},
        {"task": "all", "args": [1], "kwargs": {"a": 2}, "also": "there"},
    ):
        conn.execute("select queue_put('apples', %s)", [json.dumps(data)])
    assert [await work(pq, queue) for _ in range(4)] == [
        ((), {}),
        ((1, [2]), {}),
        ((), {"a": {"b": None}}),
        ((1,), {"a": 2}),
    ]


async def test_work_does_the_jobs_of_the_queue(pq, queue):
    done: list[Any] = []

    def note(kind: str) -> None:
        done.append(kind)

    async def note_later(kind: str) -> None:
        done.append(kind)

    def fail(kind: str) -> None:
        raise Bury(f"no {kind}")

    tasks = [task_of(queue, function, name=function.__name__) for function in (note, note_later, fail)]
    for task in tasks:
        await finish(task("Cox"))
    await queue.put({"task": "gone"})
    await finish(tasks[0].configure(queue="pears")("Comice"))
    await queue.work(burst=True, concurrency=2)
    assert done == ["Cox", "Cox"]
    assert {job.reason for job in await queue.dead()} == {
        "no Cox",
        "no task here is named 'gone': is its module imported?",
    }
    assert await queue.count(scheduled=True) == 0
    # In its serializer's way, too.
    pickles = pq.queue("pickled", serializer=pickle)
    await finish(task_of(pickles, note, name="note in pickles")({1}))
    await pickles.work(True)
    assert done[2:] == [{1}]
    assert await pq["pears"].count() == 1


# What is refused at the call


async def test_arguments_that_the_function_does_not_take_are_a_type_error_at_the_call(queue):
    task = task_of(queue, eat)
    for args, kwargs, reason in [
        ((), {}, "missing a required argument: 'kind'"),
        (("Cox", 1, 2), {}, "too many positional arguments"),
        (("Cox",), {"colour": "red"}, "got an unexpected keyword argument 'colour'"),
        (("Cox",), {"kind": "Gala"}, "multiple values for argument 'kind'"),
    ]:
        with pytest.raises(TypeError, match=f"^test_py_tasks.eat: {reason}$"):
            task(*args, **kwargs)
    assert await queue.count() == 0


class Colour(StrEnum):
    RED = "red"


class Size(IntEnum):
    LARGE = 3


@pytest.mark.parametrize(
    "wrong",
    [{1}, Exception(), b"x", datetime.max, float("nan"), 2**64, "\0", "\ud800", [{"a": {2}}]],
    ids=repr,
)
async def test_what_is_not_json_is_a_type_error_at_the_call_that_names_the_argument(queue, wrong):
    task = task_of(queue, take_all)
    for call, name in (
        (lambda: task("well", wrong), "args"),
        (lambda: task(1, a=2, b=wrong), "kwargs"),
        (lambda: task_of(queue, eat)("Cox", wrong), "count"),
    ):
        with pytest.raises(TypeError, match=f": argument '{name}': ") as caught:
            call()
        assert isinstance(caught.value, errors.PayloadError)
        assert repr(wrong) not in str(caught.value)
    assert await queue.count() == 0


@pytest.mark.parametrize(
    "wrong", [(1, 2), [(1, 2)], {"a": ()}, {1: "a"}, {"a": {None: 1}}, {True: 1}, {1: "a", "1": "b"}], ids=repr
)
async def test_what_json_would_make_something_else_of_is_refused_too(queue, wrong):
    task = task_of(queue, eat)
    with pytest.raises(TypeError, match=r"argument 'kind': .* would arrive as something else"):
        task(wrong)
    assert await queue.count() == 0


async def test_what_arrives_is_equal_to_what_was_given(pq, queue):
    task = task_of(queue, take_all)
    given = [
        None, True, 1, -1.5, 1e300, 5e-324, 1e22, 2**63, -(2**63), "ä\\u0000", "", [], {}, {"": [{"a": [None]}]},
        Colour.RED, Size.LARGE, {Colour.RED: 1},
    ]  # fmt: skip
    await finish(task(*given, **{"with spaces": 1}))
    assert await work(pq, queue) == (tuple(given), {"with spaces": 1})


async def test_data_nested_too_deep_is_refused(queue):
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(TypeError, match="argument 'kind': the data is nested too deep"):
        task_of(queue, eat)(deep)


async def test_data_too_large_is_refused_at_the_call(queue, monkeypatch):
    monkeypatch.setattr("pgq_py.codecs.LARGEST", 100)
    with pytest.raises(errors.PayloadTooLarge):
        task_of(queue, eat)("x" * 101)


async def test_arguments_are_what_the_queues_serializer_takes(pq):
    queue = pq["jobs/pickle"]
    task = task_of(queue, eat)
    await finish(task({1, 2}, count=(3,)))
    assert (await queue.list())[0].data["args"] == [{1, 2}]
    with pytest.raises(TypeError, match="argument 'kind': the serializer can't store the data"):
        task(lambda: None)
    other = task.configure(queue="more/pickle")
    await finish(other({3}))
    with pytest.raises(TypeError):  # unpickled, the set can't be multiplied: the function's own error
        raise await work(pq, pq["more/pickle"])


async def test_a_queue_by_name_stores_as_the_tasks_does(pq):
    queue = pq.queue("apples", serializer=pickle)
    task = task_of(queue, take_all).configure(queue="pears")
    await finish(task({1}))
    assert (await pq.queue("pears", serializer=pickle).get()).data["args"] == [{1}]


@pytest.mark.parametrize("wrong", [{"schedule_at": "soon"}, {"expected_at": datetime(2100, 1, 1)}, {"retry_in": "x"},
    {"lease_for": float("inf")}, {"lease_for": 0}, {"lease_for": "-1s"}, {"retry_in": {OSError: "x"}},
], ids=str)  # fmt: skip
async def test_times_are_checked_where_the_task_is_made(queue, wrong):
    with pytest.raises(errors.TimeError):
        task_of(queue, eat, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"colour": 1}, {"retry_in": {"OSError": 1}}, {"bury_on": ["x"]}, {"bury_on": int}, {"retry_in": {OSError(): 1}}],
    ids=str,
)
async def test_options_are_checked_where_the_task_is_made(pq, queue, wrong):
    with pytest.raises(TypeError):
        task_of(queue, eat, **wrong)
    assert len(pq.tasks) == 0


# Names


async def test_the_name_is_the_modules_and_the_functions_or_the_one_that_was_given(pq, queue):
    task = task_of(queue, eat)
    named = task_of(queue, eat, name="fruit.eat")
    assert (task.name, named.name) == ("test_py_tasks.eat", "fruit.eat")
    assert "fruit.eat" in pq.tasks
    assert "eat" not in pq.tasks
    assert list(pq.tasks) == [task, named]
    assert pq.tasks["fruit.eat"] is named
    await finish(named("Cox"))
    assert (await queue.list())[0].data["task"] == "fruit.eat"
    kind = type(task).__name__
    assert repr(named) == f"<{kind} 'fruit.eat' of 'apples'>"


async def test_a_task_looks_like_its_function(queue):
    task = task_of(queue, eat, bind=False, lease_for="5m")
    assert (task.__name__, task.__doc__, task.__wrapped__) == ("eat", "Eat apples.", eat)
    assert str(inspect.signature(task)) == "(kind: 'str', count: 'int' = 1) -> 'str'"
    assert (task.function, task.bind, task.lease_for) == (eat, False, timedelta(minutes=5))
    assert task.queue is plain(queue)
    eat_too = functools.wraps(eat)(lambda kind: None)
    eat_too.name = eat_too.queue = "the function's own"  # type: ignore[attr-defined]
    assert task_of(queue, eat_too).queue is plain(queue)


async def test_what_has_no_stable_name_needs_one(queue):
    for unnamed in (lambda kind: kind, functools.partial(eat, count=2)):
        with pytest.raises(ValueError, match=r"@queue.task\(name=\.\.\.\)"):
            task_of(queue, unnamed)
        assert task_of(queue, unnamed, name=repr(unnamed)).call("Cox")


async def test_a_name_is_one_functions(pq, queue):
    task = task_of(queue, eat, name="eat")
    with pytest.raises(ValueError, match=r"test_py_tasks.drink can't be the task 'eat': test_py_tasks.eat is"):
        task_of(queue, drink, name="eat")
    assert pq.tasks["eat"] is task
    # Another PQ has names of its own.
    assert task_of(PQ("postgresql://")["apples"], drink, name="eat").name == "eat"


async def test_a_function_that_is_loaded_again_replaces_itself(pq, queue):
    module = types.ModuleType("app.tasks")
    module.queue = plain(queue)  # type: ignore[attr-defined]
    for version in (1, 2):
        exec(f"@queue.task\ndef eat(): return {version}", module.__dict__)
    await finish(pq.tasks["app.tasks.eat"]())
    assert len(pq.tasks) == 1
    assert await work(pq, queue) == 2


async def test_what_is_no_function_to_be_called_later_is_refused(queue):
    def generator() -> Any:
        yield 1

    async def async_generator() -> Any:
        yield 1

    for wrong in (generator, async_generator):
        with pytest.raises(TypeError, match="is a generator: to call it would do nothing"):
            task_of(queue, wrong)
    with pytest.raises(TypeError, match="a task is a function, not a str"):
        plain(queue).task("eat")
    with pytest.raises(TypeError, match="is a task already"):
        task_of(queue, task_of(queue, eat))
    for name in ("_schedule_at", "_expected_at"):
        function = eval(f"lambda {name}: None")
        with pytest.raises(ValueError, match=f"can't have a parameter {name}"):
            task_of(queue, function, name="x")


async def test_an_object_with_an_asynchronous_call_is_a_coroutine_function(pq, queue):
    class Eater:
        async def __call__(self, kind: str) -> str:
            return kind

    task = task_of(queue, Eater(), name="eater")
    assert task.is_coroutine
    await finish(task("Cox"))
    assert await work(pq, queue) == "Cox"


PROGRAM = """
from pgq_py import PQ

queue = PQ("postgresql://")["apples"]

{decorator}
def eat(kind): ...

print(eat.name)
"""


def run_python(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def test_a_program_run_as_a_module_has_the_modules_name(tmp_path):
    package = tmp_path / "app"
    package.mkdir()
    (package / "tasks.py").write_text(PROGRAM.format(decorator="@queue.task"))
    for how in (["-m", "app.tasks"], ["-c", "import app.tasks"]):
        done = run_python(*how, cwd=tmp_path)
        assert (done.stdout, done.stderr) == ("app.tasks.eat\n", "")


def test_a_program_run_as_a_script_must_name_its_tasks(tmp_path):
    script = tmp_path / "tasks.py"
    script.write_text(PROGRAM.format(decorator="@queue.task"))
    done = run_python(script, cwd=tmp_path)
    assert done.returncode == 1
    assert "ValueError: eat is in the program that was started" in done.stderr
    script.write_text(PROGRAM.format(decorator="@queue.task(name='eat')"))
    assert run_python(script, cwd=tmp_path).stdout == "eat\n"


# Through other connections


async def test_put_in_joins_a_transaction_of_psycopgs(world: World, pq, queue, conn):
    task = task_of(queue, eat)
    theirs = await world.connect()
    for given in (theirs, theirs.cursor()):
        await theirs.execute("select 1")
        await finish(task.put_in(plain(given), "Cox", count=2))
        assert await queue.count() == 0
        await theirs.rollback()
        assert await queue.count() == 0
        await theirs.execute("select 1")
        await finish(task.put_in(plain(given), "Cox", count=2, _expected_at="5m"))
        assert await queue.count() == 0
        await theirs.commit()
        assert await work(pq, queue) == "CoxCox"
    # On an idle connection it is durable at once, as any put.
    own = await world.connect(autocommit=True)
    await finish(task.configure(dedupe_key="k").put_in(plain(own), "Cox"))
    assert await queue.count() == 1


async def test_put_in_a_transaction_of_a_pqs_cursor(pq, queue):
    task = task_of(queue, eat)
    async with queue as cursor:
        await finish(task.put_in(plain(cursor), "Cox"))
        await finish(task("Gala"))
        (count,) = await (await cursor.execute("select queue_count('apples')")).fetchone()
        assert count == 2
    assert await queue.count() == 2
    with pytest.raises(LookupError):  # noqa: PT012 - a transaction that fails is a block of statements
        async with queue:
            await finish(task("Fuji"))
            raise LookupError
    assert await queue.count() == 2


async def test_put_in_another_pq_or_queue(world: World, pq, queue):
    task = task_of(queue, eat)
    other = world.pq()
    await finish(task.put_in(plain(other), "Cox"))
    await finish(task.put_in(plain(other["pears"]), "Comice"))
    assert [job.data["args"] for job in await queue.list()] == [["Cox"]]
    assert [job.data["args"] for job in await pq["pears"].list()] == [["Comice"]]


async def test_put_in_signs_as_the_queue_does_and_uses_its_schema(world: World, conn):
    pq = world.pq(world.dsn, secret=16 * "k")
    queue = pq["jobs/pickle"]
    await finish(task_of(queue, eat).put_in(plain(await world.connect(autocommit=True)), "Cox"))
    assert await work(pq, queue) == "Cox"
    elsewhere = world.pq(world.dsn, schema="elsewhere")["apples"]
    with pytest.raises(errors.NotInstalled, match="'elsewhere'"):
        await finish(task_of(elsewhere, eat).put_in(plain(await world.connect(autocommit=True)), "Cox"))


async def test_put_in_what_is_no_connection_is_a_type_error(world: World, queue):
    for wrong in (world.dsn, None, 1):
        with pytest.raises(TypeError):
            task_of(queue, eat).put_in(wrong, "Cox")


@pytest.mark.parametrize("kind", ["connection", "session"])
def test_put_in_sqlalchemys_transaction(database, conn, kind):
    server = database.server
    url = f"postgresql+psycopg://{server.user}@/{database.name}?host={server.host}&port={server.port}"
    engine = sqlalchemy.create_engine(url)
    with PQ(database.dsn) as pq:
        task = pq["apples"].task(eat)
        with engine.connect() if kind == "connection" else orm.Session(engine) as theirs:
            task.put_in(theirs, "Cox")
            theirs.rollback()
            task.put_in(theirs, "Gala")
            assert pq["apples"].count() == 0
            theirs.commit()
        assert [job.data["args"] for job in pq["apples"].list()] == [["Gala"]]
    engine.dispose()


def test_put_in_djangos_transaction(database):
    django(
        database,
        """
def eat(kind): ...
from pgq_py import PQ as Own
task = Own(f"host={host} port={port} user={user} dbname={name}")["apples"].task(name="eat")(eat)
try:
    with transaction.atomic():
        task.put_in(connection, "Cox")
        raise LookupError
except LookupError:
    pass
assert committed() == 0
with transaction.atomic():
    task.put_in(connection, "Gala")
    assert committed() == 0
assert committed() == 1
# A task of a PQ on Django's connection is in its transactions anyway.
own = queue.task(name="eat")(eat)
with transaction.atomic():
    own("Fuji")
    assert committed() == 1
assert committed() == 2
""",
    )


# The job as the first argument


async def test_a_bound_task_has_its_job_first(pq, queue):
    async def note(job: Any, kind: str) -> Any:
        await finish(job.progress(50))
        return job.id, job.attempts, kind

    def note_here(job: Any, kind: str) -> Any:
        return job.id, job.attempts, kind

    for function in (note, note_here) if type(plain(pq)) is not PQ else (note_here,):
        task = task_of(queue, function, bind=True)
        id = await finish(task("Cox"))
        assert str(inspect.signature(task)).startswith("(kind: 'str')")
        assert await work(pq, queue) == (id, 1, "Cox")
        with pytest.raises(TypeError, match="missing a required argument: 'kind'"):
            task()
        with pytest.raises(TypeError, match="takes a job as its first argument"):
            task.call("Cox")


async def test_a_bound_task_must_take_a_job(pq, queue):
    for wrong in (lambda: None, lambda *, job: None, lambda **kwargs: None):
        with pytest.raises(TypeError, match="too many positional"):
            task_of(queue, wrong, bind=True, name="x")
    task = task_of(queue, take_all, bind=True)
    await finish(task("Cox", n=1))
    (job, *args), kwargs = await work(pq, queue)
    assert (job.queue, args, kwargs) == ("apples", ["Cox"], {"n": 1})


# Failures


class Fault(Exception):
    pass


class Worse(Fault):
    pass


async def verdict(task: Any, error: BaseException) -> Any:
    found = task.verdict(error)
    return None if found.retry_in is None else found.retry_in.total_seconds(), found.bury


async def test_the_class_of_the_exception_decides(queue):
    task = task_of(queue, eat, retry_in={Fault: "5s", OSError: 60, ConnectionError: None}, bury_on=[Worse, KeyError])
    assert await verdict(task, Fault()) == (5, False)
    assert await verdict(task, Worse()) == (None, True)
    assert await verdict(task, TimeoutError()) == (60, False)
    assert await verdict(task, ConnectionResetError()) == (None, False)  # nearer than OSError
    assert await verdict(task, KeyError()) == (None, True)
    assert await verdict(task, LookupError()) == (None, False)
    task = task_of(queue, eat, retry_in=timedelta(minutes=1), bury_on=Fault)
    assert await verdict(task, OSError()) == (60, False)
    assert await verdict(task, Worse()) == (None, True)
    task = task_of(queue, eat, retry_in={Worse: 1}, bury_on=Exception)
    assert await verdict(task, Worse()) == (1, False)
    assert await verdict(task, Fault()) == (None, True)
    with pytest.raises(ValueError, match="Fault is in retry_in and in bury_on"):
        task_of(queue, eat, retry_in={Fault: 1}, bury_on=Fault)


async def test_a_task_may_say_itself_what_becomes_of_the_job(queue):
    task = task_of(queue, eat, retry_in={Exception: "5s"}, bury_on=[Retry])
    assert task.verdict(Retry("5m", "busy")) == ("busy", timedelta(minutes=5), False)
    assert task.verdict(Retry(message="busy")) == ("busy", None, False)
    assert task.verdict(Bury("no such apple")) == ("no such apple", None, True)
    assert issubclass(Retry, errors.Error)
    assert issubclass(Bury, errors.Error)
    with pytest.raises(errors.TimeError):
        Retry("soon")
    try:
        raise Retry(0) from Fault("a worm")
    except Retry as error:
        message, retry_in, _ = task.verdict(error)
    assert "Fault: a worm" in message
    assert retry_in == timedelta(0)


async def test_what_fails_is_tried_again_or_is_dead_with_the_reason(pq, queue):
    raised = {"fault": Fault("a worm"), "worse": Worse("a wasp"), "retry": Retry(0, "later"), "bury": Bury("never")}

    def fail(what: str) -> None:
        raise raised[what]

    task = task_of(queue, fail, retry_in={Fault: 0}, bury_on=Worse, max_attempts=2, name="fail")
    await finish(task("fault"))
    for attempts in (1, 2):
        assert isinstance(await work(pq, queue), Fault)
        assert [job.attempts for job in await queue.list()] == [attempts][: 2 - attempts]
    for what in ("worse", "bury"):
        await finish(task(what))
        assert isinstance(await work(pq, queue), Worse | Bury)
    await finish(task("retry"))
    for _ in range(2):
        assert isinstance(await work(pq, queue), Retry)
    assert [job.reason.splitlines()[-1] for job in await queue.dead()] == [
        "attempt 2 of 2 failed: test_py_tasks.Fault: a worm",
        "test_py_tasks.Worse: a wasp",
        "never",
        "attempt 2 of 2 failed: later",
    ]


async def test_an_unknown_task_is_dead_with_its_name_and_without_its_arguments(pq, queue, conn):
    conn.execute("""select queue_put('apples', '{"task": "app.gone", "args": ["secret"]}')""")
    error = await work(pq, queue)
    assert isinstance(error, UnknownTask)
    assert isinstance(error, LookupError)
    (dead,) = await queue.dead()
    assert dead.reason == "no task here is named 'app.gone': is its module imported?"


@pytest.mark.parametrize(
    "data",
    ['"eat"', "[]", "{}", '{"task": 1}', '{"task": "eat", "args": {}}', '{"task": "eat", "args": null}',
     '{"task": "eat", "kwargs": []}'],
)  # fmt: skip
async def test_what_is_no_call_of_a_task_is_dead_with_the_reason(pq, queue, conn, data):
    task_of(queue, eat, name="eat")
    conn.execute("select queue_put('apples', %s)", [data])
    assert isinstance(await work(pq, queue), errors.PayloadError)
    (dead,) = await queue.dead()
    assert dead.reason.startswith("the job is no call of a task: ")


async def test_arguments_that_do_not_fit_any_more_are_dead_and_a_type_error_inside_is_not(pq, queue, conn):
    def count(length: int) -> Any:
        return len(length)  # type: ignore[arg-type]

    task_of(queue, count, name="count")
    conn.execute("""select queue_put('apples', '{"task": "count", "args": ["secret", 2]}')""")
    assert isinstance(await work(pq, queue), Bury)
    (dead,) = await queue.dead()
    assert dead.reason == "count: too many positional arguments"
    conn.execute("""select queue_put('apples', '{"task": "count", "args": [1]}')""")
    error = await work(pq, queue)
    assert type(error) is TypeError
    assert error.__context__ is None
    (job,) = await queue.list(scheduled=True)
    assert "return len(length)" in job.last_error


async def test_a_put_that_the_queue_refuses_is_the_calls_error(queue):
    await queue.configure(max_depth=1)
    task = task_of(queue, eat)
    await finish(task("Cox"))
    with pytest.raises(errors.QueueFull):
        await finish(task("Gala"))
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        await finish(task.configure(max_attempts=-1)("Gala"))
