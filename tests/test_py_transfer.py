"""A queue moved to a file and back: nothing is lost, nothing is there twice, and raw queues pass on what they hold."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from threading import Thread
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from sql_sessions import Running, column, refused, value
from worlds import Background

from pgq_py import PQ, Moved, Payload, errors
from pgq_py.cli import main
from pgq_py.transfer import read_line

pytest_plugins = ("world_fixtures",)

# A number that no float holds, text that could be taken for the end of a line, nulls, what base64 must carry.
EXACT = '{"a": 1.000000000000000000000000000001, "b": [18446744073709551616, 1e-300, null], "c": "x,}]\\"\\u2028{"}'


def fill(conn: psycopg.Connection[Any], queue: str = "apples") -> None:
    """Jobs of every kind and in every state."""
    put = "select queue_put(%s, "
    conn.execute("select queue_create(%s, max_attempts => 3, retry_in => '1 h', keep_dead_for => '1 day')", [queue])
    # Their attempts begin with these, before there is anything else to take.
    conn.execute(put + "'\"dead\"', headers => '{\"x\": null}', dedupe_key => 'k', priority => 1)", [queue])
    conn.execute(
        "select queue_error(%s, id, receipt, 'a worm', bury => true) from queue_lease(%s, consumer => 'me')",
        [queue] * 2,
    )
    conn.execute(put + "'\"retrying\"', max_attempts => 9, headers => '{\"y\": null}')", [queue])
    conn.execute("select queue_error(%s, id, receipt, e'no\\nluck') from queue_lease(%s)", [queue, queue])
    conn.execute(put + "'\"leased\"')", [queue])
    conn.execute("select queue_progress(%s, id, receipt, 7) from queue_lease(%s, consumer => 'me')", [queue, queue])
    conn.execute(put + "%s, expected_at => '2030-01-01 12:00:00.123456+05')", [queue, EXACT])
    conn.execute(put + "'null', headers => 'null', schedule_at => '2020-01-01')", [queue])
    conn.execute(put + "'[]', schedule_in => '1 day', priority => -2147483647, dedupe_key => 'k')", [queue])
    conn.execute(put + "data_text => e'tab\\t \"quoted\" \u2028 \\\\')", [queue])
    conn.execute(put + "data_bytes => '\\x00ff0a', priority => 2147483647)", [queue])


def export(dsn: str, queue: str = "apples", **options: Any) -> list[str]:
    with psycopg.connect(dsn) as conn:
        pq = PQ(conn)
        with pq.transaction():
            return list(pq[queue].export_jobs(**options))


def told(conn: psycopg.Connection[Any], schema: str = "public", queue: str = "apples") -> list[Any]:
    """All that the tables keep of the jobs, and of the dead, but their ids, in the order of these.

    A lease is kept as the time of its end.
    """
    live = "to_jsonb(j) || jsonb_build_object('ready_at', greatest(ready_at, lease_until))"
    return [
        conn.execute(
            f"select ({row}) - '{{id, queue, receipt, lease_until, data}}'::text[], data::text, headers::text "
            f"from {schema}.{table} j where queue = %s order by id",
            [queue],
        ).fetchall()
        for table, row in (("queue_job", live), ("queue_dead", "to_jsonb(j)"))
    ]


async def test_a_queue_comes_back_with_all_that_was_kept_of_its_jobs(world, conn):
    fill(conn)
    lines = [line async for line in world.pq()["apples"].export_jobs()]
    other = world.pq(schema="other")
    await other.create()
    assert await other["apples"].import_jobs(lines) == Moved(8, 1, 0)
    jobs, dead = told(conn, "other")
    assert [jobs, dead] == told(conn)
    assert (len(jobs), len(dead)) == (7, 1)
    assert jobs[2][1].startswith('{"a": 1.000000000000000000000000000001, "b": [18446744073709551616, 0.000')
    columns = [{name for job, *_ in rows for name, at in job.items() if at is not None} for rows in (jobs, dead)]
    assert columns[0] == set(jobs[0][0]), "there is a job with each"
    assert columns[1] >= {"headers", "history", "dedupe_key", "consumer", "last_error", "reason", "died_at"}
    assert await other["apples"].settings() == await world.pq()["apples"].settings()
    # The order in which they are taken is the same, and what waits waits.
    here, there = world.pq().queue("apples", raw=True), other.queue("apples", raw=True)
    assert [job.data for job in await here.list(True)] == [job.data for job in await there.list(True)]
    stats = await there.stats()
    assert (stats.ready, stats.scheduled, stats.retrying, stats.dead, stats.put, stats.exact) == (4, 1, 2, 1, 7, True)
    # The dead go back as ever, and the key is taken as ever.
    assert await there.redrive() == 0
    await there.cancel((await there.list(True))[-1].id)
    assert await there.redrive() == 1


def totals(conn: psycopg.Connection[Any], queue: str) -> tuple[int, int]:
    """How many jobs and dead jobs the totals say there are: a long queue is told from them, not counted."""
    query = """select
            sum(coalesce(put, 0) - coalesce(taken, 0) + coalesce(failed, 0) + coalesce(moved, 0)),
            sum(coalesce(dead, 0))
        from (
            select queue, put, taken, failed, moved, dead from queue_tally
            union all select queue, put, taken, failed, moved, dead from queue_total
        ) t where queue = %s"""
    jobs, dead = conn.execute(query, [queue]).fetchall()[0]
    return int(jobs), int(dead)


def test_what_was_taken_is_gone_when_that_commits_and_back_if_not(database, conn):
    fill(conn)
    before = told(conn)
    with psycopg.connect(database.dsn) as own:
        pq = PQ(own)
        with pq.transaction():
            assert len(list(pq["apples"].export_jobs(take=True))) == 2 + 6 + 1
            raise psycopg.Rollback
    assert told(conn) == before
    lines = export(database.dsn, take=True)
    (left,), dead = told(conn)
    assert (left[1], dead) == ('"leased"', [])
    assert '"leased"' not in "".join(lines)
    stats = PQ(conn)["apples"].stats()
    assert (stats.ready, stats.leased, stats.dead, stats.exact) == (0, 1, 0, True)
    assert totals(conn, "apples") == (1, 0)
    moved = PQ(conn)["pears"].import_jobs(lines)
    assert moved == Moved(7, 1, 0)
    assert totals(conn, "pears") == (6, 1)
    assert [row for rows in told(conn, queue="pears") for row in rows] == [
        row for rows in before for row in rows if row[1] != '"leased"'
    ]


def test_to_take_takes_a_transaction(database):
    with PQ(database.dsn) as pq, pytest.raises(errors.NotInTransaction, match=r"with pq\.transaction"):
        next(pq["apples"].export_jobs(take=True))


def test_what_another_transaction_is_taking_is_left_to_it(database, conn):
    conn.execute("select queue_put('apples', to_jsonb(n)) from generate_series(1, 3) n")
    with database.connect(autocommit=False) as other:
        assert value(other, "select data::int from queue_get('apples')") == 1
        assert [json.loads(line)["data"] for line in export(database.dsn, take=True)[1:-1]] == [2, 3]
        other.rollback()
    assert column(conn, "select data::int from queue_list('apples')") == [1]


def test_a_lease_that_has_run_out_does_not_hold_its_job_back(database, conn):
    conn.execute("select queue_put('apples', '1')")
    conn.execute("select queue_lease('apples', lease => '1 microsecond')")
    assert len(export(database.dsn, take=True)) == 3


def test_an_export_in_repeatable_read_is_of_one_moment(database, conn, monkeypatch):
    conn.execute("select queue_put('apples', to_jsonb(n)) from generate_series(1, 300) n")
    with psycopg.connect(database.dsn) as own:
        own.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        pq = PQ(own)
        with pq.transaction():
            lines = pq["apples"].export_jobs()
            found = [next(lines), next(lines)]
            conn.execute("select queue_clear('apples'); select queue_put('apples', '1000')")
            found += lines
    assert [json.loads(line).get("data") for line in found[1:-1]] == list(range(1, 301))
    assert json.loads(found[-1]) == {"end": True, "jobs": 300, "dead": 0}


def test_an_import_that_is_repeated_puts_nothing_twice(database, conn):
    fill(conn)
    lines = export(database.dsn)
    with PQ(database.dsn) as pq:
        pears = pq["pears"]
        assert pears.import_jobs(lines) == Moved(8, 1, 0)
        for _ in range(2):
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="append => true"):
                pears.import_jobs(lines)
            pears.clear()
            pears.delete_dead()
            pq.maintain()  # what was counted is elsewhere then
        pears.drop()
        assert pears.import_jobs(lines) == Moved(8, 1, 0)
        # What has a key is not put twice in any case.
        assert pears.import_jobs(lines, append=True) == Moved(7, 1, 1)
        assert pears.count(scheduled=True) == 13


@pytest.mark.parametrize("is_known", [False, True])
def test_two_imports_at_once_are_one(database, conn, is_known):
    fill(conn)
    if is_known:
        conn.execute("select queue_create('pears')")
    lines = export(database.dsn)
    observer = database.connect()
    with PQ(database.dsn) as pq, database.connect(autocommit=False) as first:
        first.execute("select")
        PQ(first)["pears"].import_jobs(lines)
        with PQ(other := database.connect()) as second:
            running = Background(second["pears"].import_jobs, lines)
            Running.wait_for_lock(_Waiting(other, running), observer)
            first.commit()
            with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                running.result()
        assert pq["pears"].count(scheduled=True) == 7


class _Waiting:
    """A thread of ours, for `Running.wait_for_lock`."""

    rows = error = None

    def __init__(self, conn: psycopg.Connection[Any], running: Background) -> None:
        self.conn, self.thread = conn, running._thread


def test_settings_that_are_there_stay(database, conn):
    fill(conn)
    lines = export(database.dsn)
    with PQ(database.dsn) as pq:
        pq["pears"].configure(max_attempts=7, max_depth=1)
        # A limit does not keep them out, as it does not keep out what is redriven.
        assert pq["pears"].import_jobs(lines).jobs == 8
        assert (pq["pears"].settings().max_attempts, pq["pears"].settings().max_depth) == (7, 1)


async def test_an_import_wakes_who_waits(world, conn, sleepers):
    waiting = PQ(world.dsn)
    job = Background(lambda: waiting["pears"].get(timeout=60))
    sleepers.wait()
    conn.execute("select queue_put('apples', '1')")
    lines = [line async for line in world.pq()["apples"].export_jobs()]
    await world.pq()["pears"].import_jobs(lines)
    assert job.result().data == 1
    waiting.close()


def test_a_long_queue_is_read_and_stored_in_parts(database, conn, monkeypatch):
    monkeypatch.setattr("pgq_py._sync.queue.BATCH", 700)
    conn.execute("select queue_put_many('apples', array(select to_jsonb(n) from generate_series(1, 2500) n))")
    lines = export(database.dsn)
    with PQ(database.dsn) as pq:
        assert pq["pears"].import_jobs(iter(lines)) == Moved(2500, 0, 0)
        assert column(conn, "select data::int from queue_list('pears')") == list(range(1, 2501))
        assert pq["plums"].import_jobs([lines[0], '{"end": true, "jobs": 0, "dead": 0}\n', "\n"]) == Moved(0, 0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "the end of the file is missing"),
        (lambda lines: lines[:2] + lines[3:], "lines are missing"),
        (lambda lines: lines[1:], "line 1 is not where it belongs"),
        (lambda lines: lines + lines, "line 10 is not where it belongs"),
        (lambda lines: [*lines[:3], "{", *lines[3:]], "line 4 is no line of an export"),
        (lambda lines: [*lines[:3], '{"secret": 1}', *lines[3:]], "line 4 is no line of an export"),
        (lambda lines: [lines[0].replace(": 1,", ": 2,", 1), *lines[1:]], "a newer pgq-py"),
        (lambda lines: [lines[0].replace("max_depth", "secret"), *lines[1:]], "line 1 is no line of an export"),
    ],
)
def test_what_is_not_a_whole_export_is_refused_as_a_whole(database, conn, change, message):
    conn.execute("select queue_put('apples', to_jsonb(n)) from generate_series(1, 7) n")
    with PQ(database.dsn) as pq:
        with pytest.raises(errors.TransferError, match=message) as caught:
            pq["pears"].import_jobs(change(export(database.dsn)))
        assert "secret" not in str(caught.value)
        assert pq["pears"].import_jobs(export(database.dsn)) == Moved(7, 0, 0)


@pytest.mark.parametrize("dead", [False, True])
def test_a_page_is_empty_only_where_nothing_comes_after_it(conn, database, dead):
    """Also where others take at that moment what it would have had."""
    conn.execute("select queue_put_many('apples', array_fill('1'::jsonb, array[4000]))")
    if dead:
        conn.execute("select queue_bury('apples', id, 'rotten') from queue_get('apples', 4000)")
    take = "queue_dead_delete('apples', array[i])" if dead else "queue_get('apples')"
    taking = Thread(
        target=database.connect().execute,
        args=[f"do $$ begin for i in 1..3000 loop perform {take}; commit; end loop; end $$"],
    )
    taking.start()
    pages = []
    while taking.is_alive():
        pages.append(value(conn, "select count(*) from queue_export('apples', count => 1, dead => %s)", dead))
    assert value(conn, f"select count(*) from {'queue_dead' if dead else 'queue_job'}") == 1000
    assert set(pages) == {1}, Counter(pages)


ENTRY = {"attempt": 1, "at": "2026-11-27T17:00:00+00:00"}


@pytest.mark.parametrize(
    ("fields", "sqlstate"),
    [
        ({"priority": -(2**31)}, "22023"),
        ({"priority": 2**31}, "22003"),
        ({"attempts": -1}, "22023"),
        ({"attempts": 2**31 - 1}, "22023"),
        ({"max_attempts": 0}, "22023"),
        ({"dedupe_key": "k" * 1025}, "22023"),
        ({"consumer": "c" * 256}, "22023"),
        ({"headers": ["h" * 65536]}, "22023"),
        ({"history": {}}, "22023"),
        ({"history": ["worm"]}, "22023"),
        ({"history": [[ENTRY]]}, "22023"),
        ({"history": [ENTRY, {}]}, "22023"),
        ({"history": [{"attempt": 1}]}, "22023"),
        ({"history": [{**ENTRY, "attempt": "1"}]}, "22023"),
        ({"history": [{**ENTRY, "attempt": 1.5}]}, "22P02"),
        ({"history": [{**ENTRY, "attempt": 2**31}]}, "22003"),
        ({"history": [{**ENTRY, "at": 3}]}, "22023"),
        ({"history": [{**ENTRY, "at": "yesterday"}]}, "22023"),
        ({"history": [{**ENTRY, "at": "2026-11-27T24:00:00+00:00"}]}, "22023"),
        ({"history": [{**ENTRY, "at": "2026-11-27T17:00:00"}]}, "22023"),
        ({"history": [{**ENTRY, "at": "2026-13-27T17:00:00+00:00"}]}, "22008"),
        ({"history": [{**ENTRY, "consumer": 3}]}, "22023"),
        ({"history": [{**ENTRY, "error": ["a worm"]}]}, "22023"),
        ({"history": [{**ENTRY, "consumer": [None]}]}, "22023"),
        ({"history": [{**ENTRY, "error": [None]}]}, "22023"),
        ({"died_at": "2026-01-01"}, "22023"),
        ({"ready_at": "infinity"}, "22008"),
        ({"expected_at": "10000-01-01"}, "22008"),
        ({"enqueued_at": "no time"}, "22007"),
        ({"attempts": "two"}, "22P02"),
    ],
)
def test_what_no_job_can_have_is_refused(conn, fields, sqlstate):
    call = "select queue_import('apples', array[%s]::jsonb[], array['1']::jsonb[])"
    refused(conn, sqlstate, call, json.dumps(fields), hint=sqlstate in ("22023", "22008"))
    assert value(conn, "select queue_count('apples', true)") == 0


@pytest.mark.parametrize("zone", ["UTC", "Africa/Monrovia", "Asia/Kathmandu"])
@pytest.mark.parametrize("more", [{}, {"consumer": None, "error": None}, {"consumer": "c", "error": "e\n"}])
def test_a_history_that_is_taken_can_be_read(conn, database, zone, more):
    """Each zone writes its own offset; that of Monrovia had seconds."""
    conn.execute("select set_config('timezone', %s, false)", [zone])
    at = value(conn, "select to_jsonb(timestamptz '1971-01-01 00:00:00.25+00')")
    job = {"died_at": "2026-01-01", "reason": "r", "history": [{"attempt": 1, "at": at, **more}]}
    conn.execute("select queue_import('apples', array[%s]::jsonb[], array['1']::jsonb[])", [json.dumps(job)])
    with PQ(database.dsn) as pq:
        (dead,) = pq["apples"].dead()
    (entry,) = dead.history
    assert datetime.fromisoformat(entry["at"]).timestamp() == 365 * 86400 + 0.25
    result = CliRunner(env={"PGQ_PY_DSN": database.dsn}).invoke(main, ["dead", "show", "apples", str(dead.id)])
    assert (result.exit_code, "attempt 1, by" in result.output) == (0, True), result.output


def test_an_import_with_the_most_attempts_can_be_leased_and_fails(conn):
    most = """array['{"attempts": 2147483646}']::jsonb[]"""
    conn.execute(f"select queue_import('apples', {most}, array['1']::jsonb[])")
    assert value(conn, "select queue_error('apples', id, receipt, 'worm') from queue_lease('apples')")
    conn.execute(f"select queue_import('apples', {most}, array['1']::jsonb[], append => true)")
    assert value(conn, "select queue_error('apples', id, null, 'worm') from queue_list('apples')")
    assert value(conn, "select count(*) from queue_dead_list('apples')") == 2


def test_a_null_for_died_at_is_as_none(conn):
    job = """array['{"died_at": null, "dedupe_key": "k"}']::jsonb[], array['1']::jsonb[]"""
    assert value(conn, f"select is_new from queue_import('apples', {job})")
    assert not value(conn, f"select is_new from queue_import('apples', {job}, append => true)")


def test_an_import_that_could_not_see_another_fails(database, conn):
    conn.execute("select queue_create('apples')")
    call = "select queue_import('apples', array['{}']::jsonb[], array['1']::jsonb[])"
    with psycopg.connect(database.dsn) as late:
        late.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        late.execute("select queue_count('apples')")
        conn.execute(call)
        refused(late, "40001", call)
    assert value(conn, "select queue_count('apples')") == 1


def test_arrays_of_different_lengths_are_refused(conn):
    for rest in ("'{}'", "array['1']::jsonb[], '{}'::text[]", "array['1']::jsonb[], null, '{}'::bytea[]"):
        refused(conn, "2202E", f"select queue_import('apples', array['{{}}']::jsonb[], {rest})", hint=True)
    both = "select queue_import('apples', array['{}']::jsonb[], '{1}', '{a}')"
    refused(conn, "22023", both, hint=True)
    refused(conn, "22023", "select queue_export('apples', count => 0)", hint=True)


def test_a_line_may_be_written_by_others():
    """As `jq .` writes it, over lines or with other spaces; and with what this version does not know."""
    line = ' { "id" : 3 ,"priority":1,\t"new": {"a": [1, "}"]}, "data" :{"k": [ 1 ]} } \r\n'
    read = read_line(line, 1)
    assert json.loads(read.job) == {"id": 3, "priority": 1, "new": {"a": [1, "}"]}}
    assert read.payload == Payload(json='{"k": [ 1 ]}')
    assert read_line('{"data": {}, "id": 1}', 1).payload == Payload(json="{}")


# Raw queues


async def test_a_raw_queue_passes_on_what_is_stored(world, conn):
    raw = world.pq().queue("apples", raw=True)
    payloads = [Payload(json='{"a": 1.00}'), Payload(text='"'), Payload(bytes=b"\0"), Payload(json="null")]
    for payload in payloads:
        await raw.put(payload)
    assert [job.data for job in await raw.list()] == payloads
    assert [job.data for job in await raw.get_many(4)] == payloads
    assert await raw.dead() == []
    await raw.put_many(payloads[:1] * 2)
    leased = await raw.lease()
    assert await leased.update(Payload(text="other"))
    assert leased.data == Payload(text="other")


@pytest.mark.parametrize("data", ["1", None, Payload(), Payload(json="1", text="1")])
async def test_a_raw_queue_takes_payloads_only(world, data):
    with pytest.raises(errors.PayloadError, match="a raw queue takes a Payload"):
        await world.pq().queue("apples", raw=True).put(data)
    with pytest.raises(errors.PayloadError, match="not JSON"):
        await world.pq().queue("apples", raw=True).put(Payload(json="secret"))
    with pytest.raises(ValueError, match="a raw queue has no serializer"):
        world.pq().queue("apples", serializer=json, raw=True)


# Addresses


@pytest.mark.parametrize("address", ["postgresql//me:secret@127.0.0.1:1/db", "host=h password=secret bogus=1"])
async def test_an_address_that_cant_be_read_is_not_quoted_and_not_waited_for(world, address):
    with pytest.raises(errors.BadAddress, match="can't be read") as caught:
        await world.pq(address)["apples"].get()
    assert "secret" not in str(caught.value)
