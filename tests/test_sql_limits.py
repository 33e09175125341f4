"""What docs/limits.md says: each limit at its ends, just beyond them, and far beyond."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT
from sql_leases import contents, lease_one, put, row, rows
from sql_sessions import column, refused, stored, value

PAGE = (ROOT / "docs" / "limits.md").read_text()
YEAR_9999 = "timestamptz '9999-12-31 23:59:59.999999+00'"


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by their first cells."""
    text = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = [[cell.strip() for cell in line[1:-1].split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in found[1:]}


ALL, ONE, CUT = table("For all queues"), table("For one queue"), table("What is cut off")

# What is called with a number from the page. Text and keys of random digits: what repeats is compressed, and a
# long key then fits into an index entry.
RANDOM = "(select left(string_agg(md5(i::text), ''), {0}) from generate_series(1, {0} / 32 + 1) i)"
CALLS = {
    "name of a queue, bytes": ["select queue_put(repeat('x', {0}), '1')", "select queue_get(repeat('x', {0}))"],
    "headers, bytes as text": [
        "select queue_put('apples', '1', headers => to_jsonb(repeat('x', {0} - 2)))",
        "select queue_put('apples', data_text => '', headers => to_jsonb(repeat('x', {0} - 2)))",
        "select queue_put('apples', dedupe_key => '', headers => to_jsonb(repeat('x', {0} - 2)))",
        "select queue_put_many('apples', array['1']::jsonb[], headers => to_jsonb(repeat('x', {0} - 2)))",
        "select queue_bury('apples', 1, 'x', headers => to_jsonb(repeat('x', {0} - 2)))",
    ],
    "dedupe_key, bytes": [
        f"select queue_put(repeat('q', 255), '1', dedupe_key => {RANDOM})",
        f"select queue_put_many('apples', array['1', '2']::jsonb[], dedupe_keys => array['a', {RANDOM}])",
        f"select queue_bury('apples', 1, 'x', dedupe_key => {RANDOM})",
    ],
    "consumer, bytes": [
        "select queue_lease('apples', consumer => repeat('x', {0}))",
        "select queue_lease_any('{{apples}}', consumer => repeat('x', {0}))",
        "select queue_bury('apples', 1, 'x', consumer => repeat('x', {0}))",
    ],
    "priority": [
        "select queue_put('apples', '1', priority => '{0}')",
        "select queue_put_many('apples', array['1']::jsonb[], priority => '{0}')",
    ],
    "max_attempts": [
        "select queue_put('apples', '1', max_attempts => '{0}')",
        "select queue_put_many('apples', array['1']::jsonb[], max_attempts => '{0}')",
    ],
    "jobs in a put": [
        "select count(*) from queue_put_many('apples', array_fill('1'::jsonb, array[{0}]))",
    ],
    "jobs in a get": ["select queue_get('apples', {0})", "select queue_get_any('{{apples, pears}}', {0})"],
    "jobs in a lease": ["select queue_lease('apples', {0})", "select queue_lease_any('{{apples, pears}}', {0})"],
    "jobs in a queue_export": [
        "select queue_export('apples', count => {0})",
        "select queue_export('apples', count => {0}, dead => true)",
        "select queue_export('apples', count => {0}, take => true)",
    ],
    "jobs in a queue_import": [
        "select count(*) from queue_import('apples', array_fill('{{}}'::jsonb, array[{0}]), "
        "array_fill('1'::jsonb, array[{0}]), append => true)",
    ],
    "progress": ["select queue_progress('apples', 1, gen_random_uuid(), progress => '{0}')"],
}
# Those that are no number, and those that need a job.
OTHERS = {
    "data_text, bytes",
    "data_bytes, bytes",
    "schedule_at, expected_at",
    "schedule_in, expected_in",
    "retry_in",
    "lease",
}


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def test_every_line_of_the_page_is_tried() -> None:
    assert set(ALL) == set(CALLS) | OTHERS
    assert set(ONE) == {
        "max_depth, jobs",
        "max_bytes, of the data of a job",
        "max_attempts",
        "lease_for",
        "retry_in",
        "keep_dead_for",
    }
    assert len(CUT) == 4


@pytest.mark.parametrize("what", CALLS)
def test_the_ends_are_allowed_and_what_is_beyond_is_refused(conn, what):
    least, most, sqlstate = number(ALL[what][0]), number(ALL[what][1]), ALL[what][2]
    beyond = [most + 1, min(20 * most, 2**31 - 1)] + [least - 1] * (least != 0)
    for call in CALLS[what]:
        for end in (least, most):
            conn.execute("truncate queue_job, queue_dead")
            conn.execute(call.format(end))
        before = contents(conn)
        for given in beyond:
            if not least <= given <= most:
                # Beyond the type it is PostgreSQL that refuses it.
                is_ours = -(2**31) <= given < 2**31 and what != "progress"
                error = refused(conn, sqlstate if is_ours else "22003", call.format(given), hint=is_ours)
                assert len(error.diag.message_primary or "") < 100
                if is_ours and "bytes" in what:
                    assert str(given) in str(error) or given == 0
        assert contents(conn) == before


@pytest.mark.long
def test_the_largest_data(conn):
    assert ALL["data_text, bytes"] == ALL["data_bytes, bytes"] == ["0", "268,435,455", "QU002"]
    most = 268_435_455
    text, data = "repeat('x', {0})", "decode(repeat('00', {0}), 'hex')"
    id = put(conn)
    before = contents(conn)
    for call in (
        f"queue_put('apples', data_text => {text})",
        f"queue_put_many('apples', data_bytes => array[{data}])",
        f"queue_update('apples', {id}, data_text => {text})",
    ):
        error = refused(conn, "QU002", f"select {call.format(most + 1)}", hint=True)
        assert f"{most + 1} bytes, and a job takes {most} at most" in str(error)
    assert contents(conn) == before
    conn.execute(f"select queue_put('apples', data_bytes => {data.format(most)})")
    # Given as text, where it takes most room.
    assert value(conn, "select sum(length(data_bytes::text)) from queue_get('apples', 2)") == 2 * most + 2


@pytest.mark.long
def test_the_largest_json(conn):
    assert number(re.search(r"limited by PostgreSQL: ([\d,]+) bytes", PAGE)[1]) == 2**28 - 1
    refused(conn, "54000", "select queue_put('apples', to_jsonb(repeat('x', 268435456)))")
    refused(conn, "54001", "select queue_put('apples', (repeat('[', 1000000))::jsonb)")
    assert stored(conn) == 0


@pytest.mark.long
@pytest.mark.parametrize("numbers", [4100, 9000])
def test_json_that_is_small_and_too_large_as_text(conn, numbers):
    """Half a gigabyte, and more than can be read."""
    assert number(re.search(r"As text it may have ([\d,]+) bytes", PAGE)[1]) == 2**29 - 1
    id = put(conn)
    before = contents(conn)
    # Compressed as well, as it comes from a table.
    conn.execute("create temp table given (data jsonb)")
    conn.execute("insert into given select ('[' || repeat('1e131071,', %s) || '1]')::jsonb", [numbers])
    for data in (f"('[' || repeat('1e131071,', {numbers}) || '1]')::jsonb", "(select data from given)"):
        for call in (
            f"queue_put('apples', {data})",
            f"queue_put('apples', {data}, dedupe_key => 'k')",
            f"queue_put_many('apples', array['1', {data}])",
            f"queue_update('apples', {id}, {data})",
            f"queue_bury('apples', {id}, 'large', {data})",
            f"queue_import('apples', array['{{}}']::jsonb[], array[{data}], append => true)",
        ):
            refused(conn, "QU002", f"select {call}", hint=True)
    assert contents(conn) == before
    conn.execute("select queue_put('apples', ('[' || repeat('1e131071,', 2000) || '1]')::jsonb)")
    assert value(conn, "select max(length(data::text)) from queue_get('apples', 2)") > 2000 * 131072


@pytest.mark.parametrize("what", ["schedule_at, expected_at", "schedule_in, expected_in"])
@pytest.mark.parametrize("put_", ["queue_put('apples', '1', ", "queue_put_many('apples', array['1']::jsonb[], "])
def test_times(conn, what, put_):
    if "_at" in what:
        ends = ["timestamptz '4713-01-01 BC'", YEAR_9999]
        beyond = [f"{YEAR_9999} + interval '1us'", "to_timestamp(1790000000000)", "timestamptz 'infinity'"]
    else:
        ends = ["interval '-5000 years'", f"({YEAR_9999} - now() - interval '1 minute')"]
        beyond = [
            "interval '-5001 years'",
            f"({YEAR_9999} - now() + interval '1 minute')",
            "interval '170000000 years'",
        ]
        beyond += ["interval '-170000000 years'", "interval '10001 years'"]
    assert ALL[what][1] == "the year 9999"
    for name in what.split(", "):
        for end in ends:
            conn.execute(f"select {put_}{name} => {end})")
        before = contents(conn)
        for time in beyond:
            error = refused(conn, ALL[what][2], f"select {put_}{name} => {time})", hint=True)
            assert name.split("_")[0] in str(error)
        assert contents(conn) == before


# Each way to give a lease and a pause.
LEASES = [
    "queue_lease('apples', lease => {0})",
    "queue_lease_any('{{apples}}', lease => {0})",
    "queue_progress('apples', {1}, {2}, lease => {0})",
    "queue_progress_many('apples', array[{1}], array[{2}], lease => {0})",
]
PAUSES = [
    "queue_error('apples', {1}, {2}, retry_in => {0})",
    "queue_error('apples', {1} + 1, null, retry_in => {0})",
    "queue_error_many('apples', array[{1}], array[{2}], retry_in => {0})",
]


@pytest.mark.parametrize("call", LEASES + PAUSES)
def test_leases_and_pauses(conn, call):
    what = "lease" if call in LEASES else "retry_in"
    least, most, sqlstate = ALL[what]
    ends = [
        f"interval '{least}'",
        f"interval '{most}'" if call in LEASES else f"({YEAR_9999} - now() - interval '1 minute')",
    ]
    beyond = {"interval '170000000 years'": "22008", "interval '20000 years'": "22008"}
    if call in LEASES:
        beyond |= {f"interval '{most} 1us'": "22008", "interval '0'": "22023", "interval '-1 day'": "22023"}
    else:
        beyond |= {f"({YEAR_9999} - now() + interval '1 minute')": "22008", "interval '-5001 years'": "22008"}
    assert set(beyond.values()) == set(sqlstate.split(", "))

    def ask(length):
        conn.execute("truncate queue_job")
        put(conn)
        put(conn)
        job = lease_one(conn)
        return "select " + call.format(length, job.id, f"'{job.receipt}'::uuid")

    for end in ends:
        conn.execute(ask(end))
    for length, state in beyond.items():
        text = ask(length)
        before = contents(conn)
        refused(conn, state, text, hint=True)
        assert contents(conn) == before


def test_a_set_may_have_any_number_of_names(conn):
    put(conn)
    names = [*map(str, range(20_000)), "apples"]
    assert column(conn, "select queue from queue_get_any(%s)", names) == ["apples"]


# Settings


@pytest.mark.parametrize("what", ONE)
def test_settings(conn, what):
    name, (least, most) = what.split(",")[0], ONE[what][:2]
    if name.startswith("max_"):
        ends, beyond = [str(number(least)), str(number(most))], [str(number(least) - 1)]
        refused(conn, "22003", f"select queue_create('apples', {name} => '{number(most) + 1}')")
    else:
        ends, beyond = [least, most], ["-1us", f"{most} 1us", "170000000 years"]
    for end in ends:
        conn.execute(f"select queue_create('apples', {name} => '{end}')")
        assert value(conn, f"select {name} = '{end}' from queue_settings('apples')") is True
    before = contents(conn)
    for given in beyond:
        error = refused(conn, "22023", f"select queue_create('apples', {name} => '{given}')", hint=True)
        assert name in str(error)
    assert contents(conn) == before


@pytest.mark.parametrize("what", ONE)
def test_the_defaults(conn, what):
    found = value(conn, f"select {what.split(',')[0]} from queue_settings('apples')")
    default = ONE[what][3]
    if default in ("none", "for ever"):
        assert found is None
    else:
        assert value(conn, f"select %s = '{default}'", found) is True


def test_a_full_queue_and_data_that_are_too_large(conn):
    conn.execute("select queue_create('apples', max_depth => 2, max_bytes => 8)")
    for _ in range(2):
        put(conn, '"123456"', headers='"not counted"')
    before = contents(conn)
    error = refused(conn, ONE["max_depth, jobs"][2], "select queue_put('apples')", hint=True)
    assert "holds 2 jobs of at most 2, and 1 more" in str(error)
    size = "max_bytes, of the data of a job"
    for data in ("'\"secret7\"'", "data_text => 'secret789'", "data_bytes => 'secret789'"):
        error = refused(conn, ONE[size][2], f"select queue_put('apples', {data})", hint=True)
        assert re.search(r"9 bytes, and queue apples takes 8 at most", str(error))
        assert "secret" not in (error.diag.message_primary or "")
    assert contents(conn) == before


def test_attempts(conn):
    """The limit of attempts is no error: the job is among the dead, and says why."""
    put(conn, max_attempts=2)
    put(conn)
    for attempt in range(1, 6):
        for job in rows(conn, "select id, receipt from queue_lease('apples', 9)"):
            conn.execute("select queue_error('apples', %s, %s, 'a worm', '0')", [job.id, job.receipt])
        assert value(conn, "select count(*) from queue_dead") == (attempt >= 2) + (attempt >= 5)
    assert column(conn, "select reason from queue_dead_list('apples')") == [
        "attempt 2 of 2 failed: a worm",
        f"attempt {ONE['max_attempts'][3]} of 5 failed: a worm",
    ]


# What is cut off


def cut(what: str) -> int:
    return number(re.search(r"[\d,]+", CUT[what][0])[0])


def test_messages(conn):
    put(conn, max_attempts=1)
    job = lease_one(conn, consumer="me")
    message = "x" * 3_000_000 + "\n" + "y" * 100 + "é"
    conn.execute("select queue_error('apples', %s, %s, %s)", [job.id, job.receipt, message])
    dead = row(conn, "select * from queue_dead_list('apples')")
    kept = message[-cut("last_error, and the error of each attempt") :]
    assert (dead.last_error, dead.history[0]["error"]) == (kept, kept)
    assert CUT["reason of a job that failed"] == ["its last line"]
    assert dead.reason == "attempt 1 of 1 failed: " + "y" * 100 + "é"
    conn.execute("select queue_bury('pears', 1, %s)", [message])
    first = cut("reason given to queue_bury")
    assert value(conn, "select reason from queue_dead_list('pears')") == message[:first]


def test_history(conn):
    put(conn, max_attempts=100)
    most = cut("history")
    for _ in range(most + 3):
        job = lease_one(conn)
        conn.execute("select queue_error('apples', %s, %s, 'a worm', '0')", [job.id, job.receipt])
    (history,) = column(conn, "select history from queue_job")
    assert [entry["attempt"] for entry in history] == list(range(4, most + 4))
