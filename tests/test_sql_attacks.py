"""Attacks by a role that may put into one queue, or take from one, and by a stranger: each is tried for real."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from conftest import ROOT, install
from psycopg.types.json import Jsonb
from servers import Server
from sql_sessions import column, refused, stored, value
from test_sql_rights import CALLS, GIVING, OVERALL, Orchard, name_of

from pgq_py import migrate

Connection = psycopg.Connection[Any]

TABLES = ("queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total", "queue_right")
TRICKS = [
    "'",
    "''",
    '"; drop table queue_job; --',
    "'; drop table queue_job; --",
    "\\'; drop table queue_job; --",
    "\\",
    "$$; drop table queue_job; $$",
    "%s %I %L %1$s %%",
    "E'\\x27'",
    '{null,"\'"}',
    "\n; drop table queue_job\n",
    "\u02bc\uff07",
    "-- \r\n",
    "/* ",
    ":name $1 ?",
]


@pytest.fixture
def orchard(conn: Connection) -> Orchard:
    return Orchard(conn)


@pytest.fixture
def mallory(conn: Connection, roles: Any, orchard: Orchard) -> Connection:
    """May put into apples and take from them. There are jobs in apples and in pears."""
    roles.make("mallory")
    conn.execute("select queue_grant('apples', 'mallory', 'put'), queue_grant('apples', 'mallory', 'get')")
    found: Connection = roles.connect("mallory")
    return found


def use(conn: Connection, queue: str = "apples") -> None:
    """Put and take, in each of the ways; all must be as ever."""
    n = value(conn, "select queue_put(%s, '{\"n\": 1}', dedupe_key => 'k', priority => 9)", queue)
    assert value(conn, "select queue_put(%s, '{\"n\": 2}', dedupe_key => 'k')", queue) == n
    assert column(conn, "select id from queue_get(%s)", queue) == [n]
    (m,) = column(conn, "select id from queue_put_many(%s, array['3']::jsonb[], priority => 9)", queue)
    ((id, receipt),) = conn.execute("select id, receipt from queue_lease(%s)", [queue]).fetchall()
    assert id == m
    assert value(conn, "select queue_progress(%s, %s, %s, 50)", queue, id, receipt)
    assert value(conn, "select queue_error(%s, %s, %s, E'line\\nlast line', '0')", queue, id, receipt)
    ((id, receipt, error),) = conn.execute(
        "select id, receipt, last_error from queue_lease_any(array[%s])", [queue]
    ).fetchall()
    assert (id, error) == (m, "line\nlast line")
    assert value(conn, "select queue_complete(%s, %s, %s)", queue, id, receipt)
    channel = value(conn, "select queue_listen(%s)", queue)
    assert channel == value(conn, "select queue_channel(%s)", queue)
    conn.execute("select queue_wait(%s)", [queue])
    conn.execute("select queue_unlisten(%s)", [queue])
    assert column(conn, "select pg_listening_channels()") == []
    assert value(conn, "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()") == 0


# What the session has around the call


def test_temporary_objects_are_never_taken_for_ours(conn, mallory, orchard):
    before = orchard.contents("pears")
    for table in TABLES:
        mallory.execute(f"create temp table {table} (queue text, role text, privilege text, id bigint)")
    mallory.execute("insert into pg_temp.queue_right values ('pears', 'mallory', 'get', 1), ('', 'mallory', 'put', 1)")
    signatures = column(
        conn, "select format('%I(%s)', proname, pg_get_function_identity_arguments(oid)) from pg_proc "
        "where proname ~ '^_?queue_'"
    )  # fmt: skip
    for signature in signatures:
        mallory.execute(
            f"create function pg_temp.{signature.replace('(', '(').split(' TABLE')[0]} returns boolean "
            "language sql as 'select true'"
        )
    for signature in (
        "octet_length(text)",
        "format(text, text)",
        "current_setting(text)",
        "pg_has_role(text, oid, text)",
    ):
        mallory.execute(f"create function pg_temp.{signature} returns text language sql as 'select null::text'")
    mallory.execute("create function pg_temp.same(text, text) returns boolean language sql as 'select true'")
    mallory.execute("create operator pg_temp.= (leftarg = text, rightarg = text, function = pg_temp.same)")
    mallory.execute("set search_path to pg_temp, public")
    for call in (*CALLS, *OVERALL):
        assert orchard.call(mallory, f"public.{call}", "pears") == "42501", call
    mallory.execute("set search_path to public, pg_temp")
    mallory.execute("discard temp")
    use(mallory)
    assert orchard.contents("pears") == before


@pytest.mark.parametrize("path", ["evil, pg_catalog, public", "evil, public", "pg_temp, evil, public", "public, evil"])
def test_the_search_path_of_the_caller_never_counts(conn, mallory, orchard, path):
    conn.execute("create schema evil authorization mallory")
    for name, arguments, result, body in (
        ("octet_length", "text", "integer", "1"),
        ("format", "text, text", "text", "'evil'"),
        ("current_setting", "text", "text", "'none'"),
        ("pg_has_role", "text, oid, text", "boolean", "true"),
        ("_queue_may", "text, variadic text[]", "boolean", "true"),
        ("_queue_allow", "text, variadic text[]", "void", ""),
        ("_queue_allow", "text, text", "void", ""),
        ("_queue_caller", "", "text", "'postgres'"),
        ("same", "text, text", "boolean", "true"),
        ("differ", "name, name", "boolean", "false"),
    ):
        mallory.execute(f"create function evil.{name}({arguments}) returns {result} language sql as $$select {body}$$")
    mallory.execute("create operator evil.= (leftarg = text, rightarg = text, function = evil.same)")
    mallory.execute("create operator evil.<> (leftarg = name, rightarg = name, function = evil.differ)")
    mallory.execute(f"set search_path to {path}")
    before = orchard.contents("pears")
    for call in (*CALLS, *OVERALL):
        assert orchard.call(mallory, call, "pears") == "42501", call
    assert orchard.contents("pears") == before
    mallory.execute("set search_path to public")
    use(mallory)


@pytest.mark.parametrize(
    "settings",
    [
        {"standard_conforming_strings": "off", "backslash_quote": "on", "escape_string_warning": "off"},
        {"transform_null_equals": "on", "array_nulls": "off", "xmloption": "document"},
        {"quote_all_identifiers": "on", "bytea_output": "escape", "IntervalStyle": "sql_standard"},
        {"plpgsql.extra_errors": "'all'", "plpgsql.check_asserts": "off"},
        {"DateStyle": "'SQL, DMY'", "TimeZone": "'Asia/Kathmandu'", "extra_float_digits": "-15"},
        {"lc_numeric": "'C'", "lc_monetary": "'C'", "lc_time": "'C'", "default_text_search_config": "'simple'"},
        {"enable_indexscan": "off", "enable_bitmapscan": "off", "work_mem": "'64kB'", "jit_above_cost": "0"},
        {"default_transaction_isolation": "'serializable'", "synchronous_commit": "off"},
    ],
)
def test_no_setting_of_the_caller_changes_what_the_functions_do(mallory, orchard, settings):
    for name, to in settings.items():
        mallory.execute(f"set {name} to {to}")
    before = orchard.contents("pears")
    use(mallory)
    for call in CALLS:
        assert orchard.call(mallory, call, "pears") == "42501", call
    assert orchard.contents("pears") == before


OURS = ("has_head", "asked_each", "fold_after", "listening", "unsettled", "head_%s", "due_%s")
GARBAGE = [
    "garbage",
    "'; drop table queue_job; --",
    "1 2 3 4 5 6 7",
    "99999999999 1 -2147483648 -infinity 9223372036854775807 t",
    " queue_0:one1",
    "NaN Infinity",
    "{1,2}",
]


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_session_that_spoils_our_settings_spoils_nothing_but_its_own_calls(conn, mallory, orchard, garbage):
    before = orchard.contents("pears")
    names = []
    for queue in ("apples", "pears"):
        # As the functions name it. Whoever knows the table's number can.
        hashed = value(conn, "select to_hex(hashtextextended(%s, 'queue_job'::regclass::oid::bigint))", queue)
        names += [f"pgq_py.{name.replace('%s', hashed)}" for name in OURS]
    for name in names:
        mallory.execute("select set_config(%s, %s, false)", [name, garbage])
    for call in CALLS:
        assert orchard.call(mallory, call, "pears") == "42501", call
        # An error of its own, or none.
        assert orchard.call(mallory, call) in (None, "22P02", "42501", "22007", "22003", "22008", "42704"), call
    assert orchard.contents("pears") == before
    for name in names:
        mallory.execute("select set_config(%s, '', false)", [name])
    use(mallory)
    use(conn)


# Other functions and operators in the queue's schema

PLANTS = {
    # A better fit than pg_catalog's, for which the arguments have to be converted.
    "an operator": (
        "create function public.times(interval, integer) returns interval language plpgsql as $$begin {} "
        "return $1 operator(pg_catalog.*) $2::float8; end$$; "
        "create operator public.* (leftarg = interval, rightarg = integer, function = public.times)",
        "select queue_get('apples')",
        "drop operator public.* (interval, integer); drop function public.times",
    ),
    "a function": (
        "create function public.format(text, integer) returns text language plpgsql as $$begin {} return $1; end$$",
        "select queue_put('apples', '1', max_attempts => 0)",
        "drop function public.format(text, integer)",
    ),
}
LOOT = "insert into public.loot values (current_user);"


@pytest.mark.parametrize("plant", PLANTS)
def test_who_can_create_in_the_schema_can_be_the_owner_and_so_no_right_is_given(conn, mallory, roles, plant):
    """Upgraded clusters have CREATE on public for everybody; the attack is real, named, and refused."""
    roles.make("web")
    create, call, _ = PLANTS[plant]
    conn.execute("create table public.loot (who text); grant select on public.loot to public")
    conn.execute("grant create on schema public to public")
    mallory.execute(create.format(LOOT))
    try:
        mallory.execute(call)
    except psycopg.errors.InvalidParameterValue:
        # The refusal of max_attempts rolls back; a real attacker would notify, or write through a link.
        mallory.execute(
            create.format("raise exception 'I am %', current_user;").replace("create f", "create or replace f")
        )
        assert "I am postgres" in str(refused(mallory, "P0001", call))
    else:
        assert column(mallory, "select distinct who from public.loot") == ["postgres"], (
            "the code of mallory ran as the owner"
        )

    # Named, with what to do.
    found = "select severity, detail, remedy from queue_health() where what = 'schema open to others'"
    rows = conn.execute(found).fetchall()
    assert len(rows) >= 2
    assert {severity for severity, _, _ in rows} == {"critical"}
    error = refused(conn, "55000", "select queue_grant('apples', 'web', 'put')", hint=True)
    assert "no right on a queue would hold" in str(error.diag.message_primary)
    refused(conn, "55000", "select queue_grant_all('web', 'put')", hint=True)
    assert value(conn, "select count(*) from queue_right where role = 'web'::regrole") == 0

    # What is said is what helps, down to what was left there.
    for _ in range(len(rows)):
        hint = str(refused(conn, "55000", "select queue_grant('apples', 'web', 'put')").diag.message_hint)
        assert hint.startswith("Do this: ")
        conn.execute(hint.removeprefix("Do this: ").partition(";")[0])
        if not conn.execute(found).fetchall():
            break
    assert conn.execute(found).fetchall() == []
    assert value(conn, "select queue_grant('apples', 'web', 'put')")
    assert orchard_is_whole(mallory)


def orchard_is_whole(mallory: Connection) -> bool:
    use(mallory)
    return True


@pytest.mark.parametrize("who", ["role mallory can make", "role public can make"])
def test_each_who_can_create_in_the_schema_is_named(conn, mallory, who):
    role = who.split()[1]
    conn.execute(f"grant create on schema public to {role}")
    assert str(refused(conn, "55000", "select queue_grant('apples', 'mallory', 'observe')")).find(who) > 0
    conn.execute(f"revoke create on schema public from {role}")
    assert value(conn, "select queue_grant('apples', 'mallory', 'observe')")


def test_default_privileges_open_no_table(conn, roles):
    """Supabase has them in public: whoever writes to queue_right has all rights, a trigger runs as whoever puts."""
    roles.make("anon")
    conn.execute("create schema kept")
    for kind in ("tables", "sequences", "functions"):
        conn.execute(f"alter default privileges in schema kept grant all on {kind} to anon, public")
    with conn.transaction():
        conn.execute("set local search_path to kept, pg_temp")
        for file in [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]:
            conn.execute(file.read_bytes())
    conn.execute("grant usage on schema kept to anon")
    anon = roles.connect("anon")
    for table in TABLES:
        refused(anon, "42501", f"select from kept.{table}")
        trigger = f"create trigger t after insert on kept.{table} execute function tsvector_update_trigger()"
        refused(anon, "42501", trigger)
    refused(anon, "42501", "insert into kept.queue_right (role, queue, privilege) values ('anon'::regrole, '', 'get')")
    refused(anon, "42501", "select nextval('kept.queue_job_id_seq')")
    refused(anon, "42501", "select kept.queue_put('apples', '1')", hint=True)
    # What somebody gives later is named.
    assert value(conn, "select kept.queue_grant('apples', 'anon', 'put')")
    for given in ("trigger on kept.queue_job", "insert on kept.queue_right", "usage on sequence kept.queue_job_id_seq"):
        conn.execute(f"grant {given} to anon")
        hint = str(refused(conn, "55000", "select kept.queue_grant('pears', 'anon', 'put')").diag.message_hint)
        conn.execute(hint.removeprefix("Do this: ").partition(";")[0])
        conn.execute("select kept.queue_grant('pears', 'anon', 'put')")
    conn.execute("grant select on kept.queue_job to anon")
    conn.execute("select kept.queue_grant('plums', 'anon', 'put')")


def test_default_privileges_open_no_table_of_a_migration(conn, database, roles):
    roles.make("anon")
    conn.execute("drop schema public cascade; create schema public")
    conn.execute("alter default privileges in schema public grant all on tables to anon")
    migrate.upgrade(database.dsn)
    open_to = "select relname::text from pg_class where relname ~ '^queue_' and relkind = 'r' and relacl::text ~ 'anon'"
    assert column(conn, open_to) == []
    assert value(conn, "select queue_grant('apples', 'anon', 'put')")


# Before 16 members can always take the role on.
@pytest.mark.since(16)
def test_a_member_that_can_do_nothing_as_the_owner_is_a_stranger(conn, mallory, roles):
    roles.make("keeper")
    conn.execute("grant keeper to mallory with inherit false, set false; create schema kept authorization keeper")
    with conn.transaction():
        conn.execute("set local role keeper; set local search_path to kept, pg_temp")
        for file in [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]:
            conn.execute(file.read_bytes())
    conn.execute("grant create on schema kept to mallory")
    give = "select kept.queue_grant('apples', 'mallory', 'put')"
    assert "role mallory can make" in str(refused(conn, "55000", give))
    for option in ("set true", "set false, inherit true", "inherit false, admin true"):
        conn.execute(f"grant keeper to mallory with {option}")
        conn.execute(give)


def test_what_is_no_danger_in_the_schema_is_left_alone(conn, mallory, roles):
    # Of the owner, of a member, of a superuser; or of a stranger, with a name of its own.
    roles.make("boss", options="login superuser")
    conn.execute("grant create on schema public to boss, mallory")
    mallory.execute("create function public.my_own(text) returns text language sql as 'select $1'")
    mallory.execute("create table public.notes (note text)")
    roles.connect("boss").execute("create function public.format(text, date) returns text language sql as 'select $1'")
    conn.execute("revoke create on schema public from mallory")
    assert value(conn, "select queue_grant('apples', 'mallory', 'observe')")
    assert column(conn, "select detail from queue_health() where what = 'schema open to others'") == []


def test_nobody_but_the_owner_can_replace_a_function_or_touch_a_table(conn, mallory):
    for table in TABLES:
        for statement in (
            "select * from {}", "insert into {} (queue) select queue from {}", "delete from {}", "truncate {}",
            "select from {} for update",
            "update {} set queue = 'x'", "create trigger t before insert on {} execute function pg_catalog.now()",
            "create index on {} (queue)", "alter table {} enable row level security",
            "create rule r as on insert to {} do instead nothing", "copy {} to stdout",
        ):  # fmt: skip
            refused(mallory, "42501", statement.format(table, table))
    refused(mallory, "42501", "select nextval('queue_job_id_seq')")
    refused(mallory, "42501", "select last_value from queue_job_id_seq")
    refused(mallory, "42501", "create or replace function queue_version() returns text language sql as 'select 1'")
    refused(mallory, "42501", "alter function queue_version() owner to mallory")
    refused(mallory, "42501", "drop function queue_version()")
    conn.execute("analyze queue_job, queue_dead")
    assert column(mallory, "select attname from pg_stats where tablename like 'queue%'") == []
    assert column(mallory, "select most_common_vals from pg_stats_ext where tablename like 'queue%'") == []


# To become somebody else


@pytest.mark.parametrize(
    "statement",
    [
        "set role postgres",
        "set local role postgres",
        "select set_config('role', 'postgres', false)",
        "set session authorization postgres",
        "create function pg_temp.f() returns bigint language sql set role to postgres as $$select 1::bigint$$; "
        "select pg_temp.f()",
    ],
)
def test_the_caller_cannot_pose_as_the_owner(mallory, orchard, statement):
    refused(mallory, "42501", statement)
    assert orchard.call(mallory, "queue_get(%(queue)s)", "pears") == "42501"


@pytest.mark.parametrize("statement", ["set role none", "set role mallory", "set session authorization mallory"])
def test_posing_as_oneself_gives_nothing(mallory, orchard, statement):
    mallory.execute(statement)
    for call in (*CALLS, *OVERALL, *GIVING):
        assert orchard.call(mallory, call, "pears") == "42501", call
    use(mallory)


# Names and data


@pytest.mark.parametrize("trick", TRICKS)
def test_no_name_gets_out_of_its_quotes(conn, roles, trick):
    roles.make("mallory", "all")
    conn.execute("select queue_grant(%s, 'mallory', p) from unnest('{put, get, observe, manage}'::text[]) p", [trick])
    mallory = roles.connect("mallory")
    orchard = Orchard(conn)
    before = orchard.contents("pears")
    id = value(mallory, "select queue_put(%s, '1')", trick)
    args = {"queue": trick, "id": id, "ready": id, "receipt": "3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0"}
    for call in CALLS:
        for who in (conn, mallory):
            with who.transaction(force_rollback=True):
                who.execute(f"select {call}", args)
    assert column(mallory, "select name from queue_stats()") == [trick]
    assert column(mallory, "select queue from queue_metrics()") == [trick]
    assert column(conn, "select queue from queue_rights() where queue is not null group by 1") == [trick]
    assert orchard.contents("pears") == before
    assert column(mallory, "select data from queue_get(%s)", trick) == [1]


@pytest.mark.parametrize("trick", TRICKS)
def test_no_value_gets_out_of_its_quotes(conn, mallory, trick):
    mallory.execute("select queue_get('apples', 10)")
    put = "select queue_put('apples', %s, dedupe_key => %s, headers => %s, max_attempts => 1)"
    id = value(mallory, put, Jsonb({trick: [trick]}), trick, Jsonb({trick: trick}))
    assert value(mallory, put, Jsonb(0), trick, None) == id
    row = mallory.execute(
        "select id, data, dedupe_key, headers, receipt from queue_lease('apples', consumer => %s)", [trick]
    ).fetchone()
    assert row is not None
    assert row[:4] == (id, {trick: [trick]}, trick, {trick: trick})
    assert value(mallory, "select queue_error('apples', %s, %s, %s)", id, row[4], trick)
    died = "select data, consumer, last_error from queue_dead_list('apples', ids => array[%s::bigint])"
    assert conn.execute(died, [id]).fetchone() == ({trick: [trick]}, trick, trick)
    mallory.execute("select queue_put('apples', data_text => %s)", [trick])
    assert column(mallory, "select data_text from queue_get('apples')") == [trick]
    assert stored(conn) > 0


# Others' jobs through errors and side doors


FAILING = [
    "reason_like => '\\'",
    "reason_like => repeat('%%_', 10000)",
    "ids => array[null]::bigint[]",
    "ids => '[5:5]={-1}'",
    "ids => '{{-1},{-1}}'",
    "died_after => 'infinity', died_before => '-infinity'",
    "count => 0",
    "count => 2147483647",
]


@pytest.mark.parametrize("function", ["queue_dead_list", "queue_redrive", "queue_dead_delete"])
def test_errors_tell_nothing_of_other_queues(conn, roles, orchard, function):
    roles.make("mallory")
    conn.execute("select queue_grant('empty', 'mallory', 'manage')")
    mallory = roles.connect("mallory")
    before = orchard.contents("pears")
    for arguments in FAILING:
        said = []
        for queue in ("empty", "pears", "no such queue"):
            try:
                said.append(str(mallory.execute(f"select {function}(%s, {arguments})", [queue]).fetchall()))
            except psycopg.Error as error:
                diag = error.diag
                said.append(f"{diag.message_primary} {diag.message_detail} {diag.message_hint} {diag.context}")
        assert "secret" not in "".join(said)
        assert "rotten" not in "".join(said)
        # What is said of a queue with dead jobs is what is said of one that is not there.
        assert said[1].replace("pears", "Q") == said[2].replace('"no such queue"', "Q").replace("no such queue", "Q")
    assert orchard.contents("pears") == before


def test_ids_and_receipts_of_others_are_of_no_use_in_ones_own_queue(conn, mallory, orchard):
    before = orchard.contents("pears")
    args = {**orchard.args["pears"], "queue": "apples"}
    for call in CALLS:
        if "%(id)s" in call or "%(ready)s" in call:
            with mallory.transaction(force_rollback=True):
                try:
                    found = [row[0] for row in mallory.execute(f"select {call}", args)]
                except psycopg.errors.InsufficientPrivilege:
                    continue
            assert found in ([False], [(str(args["id"]), "f")]), call
    assert orchard.contents("pears") == before


@pytest.mark.parametrize(
    ("sqlstate", "fields"),
    [
        ("22003", "priority => -2147483648"),
        ("22023", "max_attempts => 0"),
        ("22023", "data_text => 'x'"),
        ("22008", "enqueued_at => '-infinity'"),
        ("22008", "schedule_at => 'infinity'"),
        ("22008", "expected_at => '10000-01-01 00:00+00'"),
    ],
)
def test_nothing_is_buried_that_would_keep_the_others_from_coming_back(conn, mallory, sqlstate, fields):
    id = value(mallory, "select id from queue_get('apples')")
    refused(mallory, sqlstate, f"select queue_bury('apples', %s, 'x', '1', {fields})", id, hint=True)
    mallory.execute("select queue_bury('apples', %s, 'x', '1')", [id])
    assert value(conn, "select queue_redrive('apples')") > 0


def test_an_id_that_is_yet_to_come_is_kept_for_its_job(conn, mallory):
    id = value(conn, "select queue_put('apples', '1')")
    refused(mallory, "22023", "select queue_bury('apples', %s, 'x', '1')", id + 1, hint=True)
    conn.execute("select queue_redrive('apples')")
    assert value(conn, "select queue_put('apples', '1')") == id + 1


def test_debugging_output_shows_no_data_of_others(mallory, orchard):
    notes: list[str] = []
    mallory.add_notice_handler(lambda diag: notes.append(f"{diag.message_primary}{diag.message_detail}{diag.context}"))
    mallory.execute("set client_min_messages to debug5")
    mallory.execute("set debug_print_parse to on; set debug_print_rewritten to on; set debug_print_plan to on")
    mallory.execute("set debug_pretty_print to on")
    for call in (*CALLS, *OVERALL):
        for statement in (call, f"1 from (select {call}) t"):
            assert orchard.call(mallory, statement, "pears") == "42501"
        with pytest.raises(psycopg.Error):
            mallory.execute(f"explain (analyze, verbose) select {call}", orchard.args["pears"])
    assert len(notes) > 100
    assert "secret" not in "".join(notes)


def test_whether_another_queue_has_jobs_is_not_told_by_a_set(conn, mallory):
    mallory.execute("select queue_get('apples', 10)")
    said = []
    for other in ("pears", "nothing"):
        for call in ("queue_get_any", "queue_lease_any"):
            # Of three the second is passed over where it has no jobs.
            error = refused(mallory, "42501", f"select {call}(array['apples', %s, 'apples'])", other, hint=True)
            said.append(str(error.diag.message_primary).replace(other, "Q"))
    assert len(set(said)) == 1


# To keep others from working


def test_forged_notifications_wake_and_do_no_more(conn, mallory, roles, database):
    roles.make("stranger")
    stranger, sleeper = roles.connect("stranger"), database.connect()
    sleeper.execute("select queue_get('apples', 10)")
    channel = value(sleeper, "select queue_listen('apples')")
    for payload in ("", "1", "'; drop table queue_job; --"):
        stranger.execute("select pg_notify(%s, %s)", [channel, payload])
        assert [n.payload for n in sleeper.notifies(timeout=10, stop_after=1)] == [payload]
        assert column(sleeper, "select id from queue_get('apples')") == []
    mallory.execute("select queue_put('apples', '4')")
    assert [n.payload for n in sleeper.notifies(timeout=10, stop_after=1)] == [""]
    assert column(sleeper, "select data from queue_get('apples')") == [4]


def test_a_stranger_who_holds_all_our_locks_makes_others_slower_and_stops_nobody(conn, mallory, roles, database):
    roles.make("stranger")
    stranger, sleeper = roles.connect("stranger"), database.connect()
    key, number = conn.execute(
        "select hashtextextended('apples', 'queue_job'::regclass::oid::bigint), "
        "('queue_job'::regclass::oid::bigint - 2147483648)::integer"
    ).fetchone() or (None, None)
    stranger.execute("select pg_advisory_lock(%s)", [key])
    stranger.execute("select pg_advisory_lock(%s, n) from generate_series(0, 64) n", [number])
    stranger.execute("select pg_advisory_lock(hashtextextended('public.queue_maintain', 0))")
    for each in (conn, mallory, sleeper):
        each.execute("set statement_timeout to '10s'")
    sleeper.execute("select queue_get('apples', 10)")
    sleeper.execute("select queue_listen('apples')")
    # It is told to look again soon, since what others do can't be known.
    assert value(sleeper, "select queue_wait('apples') <= interval '20 ms'")
    id = value(mallory, "select queue_put('apples', '5')")
    assert [n.payload for n in sleeper.notifies(timeout=10, stop_after=1)] == [""]
    assert column(sleeper, "select id from queue_get('apples')") == [id]
    sleeper.execute("select queue_unlisten('apples')")
    use(mallory)
    conn.execute("select queue_redrive('apples'), queue_pause('apples'), queue_resume('apples')")
    assert dict(conn.execute("select * from queue_maintain()").fetchall())["correct totals"] == 0
    assert conn.execute("select queue_drop('apples')").fetchone() == (True,)


def test_no_call_is_forgotten_here(conn):
    public = set(column(conn, r"select proname::text from pg_proc where proname like 'queue\_%'"))
    tried = {name_of(call) for call in (*CALLS, *OVERALL, *GIVING)}
    # The last shows the queues that its caller may observe, tried in test_sql_rights.py and with each trick above.
    assert public - tried == {"queue_version", "queue_rights", "queue_metrics"}


# What is run in somebody's name while his table is maintained


def plant(mallory: Connection, schema: str) -> None:
    """A table of the stranger's, whose index takes a job of others when it is built or looked at; what came of it."""
    mallory.execute(
        f"""
        create table own.bait (n int) with (autovacuum_analyze_threshold = 1, autovacuum_analyze_scale_factor = 0);
        create table own.caught (what text);
        create function own.bite(n int) returns int immutable language plpgsql as 'begin return n; end';
        create index on own.bait (own.bite(n));
        insert into own.bait select generate_series(1, 9);
        -- The index does not mind.
        create or replace function own.bite(n int) returns int volatile language plpgsql as $$
        begin
            if current_user = 'mallory' and session_user <> 'mallory' then
                begin
                    insert into own.caught select data #>> '{{}}' from {schema}.queue_get('pears');
                exception
                    when others then insert into own.caught values (sqlstate);
                end;
                begin
                    insert into own.caught select r::text from {schema}.queue_rights() r;
                exception
                    when others then insert into own.caught values (sqlstate);
                end;
            end if;
            return n;
        end
        $$
        """
    )


@pytest.mark.parametrize("command", ["analyze own.bait", "reindex table own.bait", "vacuum full own.bait"])
def test_who_maintains_a_strangers_table_lends_him_no_rights(conn, roles, command):
    """A superuser does. Nobody connects as the owner of the queue."""
    roles.make("keeper", options="nologin")
    roles.make("mallory")
    conn.execute("create schema kept authorization keeper; create schema own authorization mallory")
    with conn.transaction():
        conn.execute("set local role keeper; set local search_path to kept, pg_temp")
        for file in [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]:
            conn.execute(file.read_bytes())
    conn.execute("select kept.queue_put('pears', '\"secret\"')")
    conn.execute("select kept.queue_grant('apples', 'mallory', 'get')")
    plant(roles.connect("mallory"), "kept")
    conn.execute(command)
    assert set(column(conn, "select what from own.caught")) == {"42501"}
    assert value(conn, "select kept.queue_count('pears')") == 1


def test_a_call_that_was_cancelled_while_it_asked_hurts_no_later_one(mallory, orchard):
    """What it prepared, to see whether it is called in maintenance, outlives the rollback."""
    mallory.execute("prepare pgq_py_not_in_maintenance as select")
    use(mallory)
    assert value(mallory, "select count(*) from pg_prepared_statements where name ~ '^pgq_py'") == 0
    # For real: a tenth or so of these leave it.
    for n in range(1, 60):
        mallory.execute(f"set statement_timeout = {n % 3 + 1}")
        refused(
            mallory,
            "57014",
            "do $$ begin loop perform queue_channel('apples'); end loop; end $$",
        )
    mallory.execute("reset statement_timeout")
    use(mallory)


@pytest.mark.long
def test_autovacuum_lends_a_stranger_no_rights(version, server):
    """Not even the owner's own, who is the superuser that autovacuum says it is."""
    own = Server(server.version, server.programs)
    try:
        own.create()
        with psycopg.connect(own.dsn(), autocommit=True) as conn:
            install(own.host, own.port, own.user, "postgres")
            conn.execute("alter system set autovacuum_naptime = 1")
            conn.execute("select pg_reload_conf()")
            conn.execute("create role mallory login; create schema own authorization mallory")
            conn.execute("select queue_put('pears', '\"secret\"'), queue_grant('apples', 'mallory', 'get')")
            with psycopg.connect(f"{own.dsn()} user=mallory", autocommit=True) as mallory:
                plant(mallory, "public")
                # Its statistics say so when autovacuum looks at them next.
                mallory.execute("insert into own.bait select generate_series(10, 99)")
            while not (caught := column(conn, "select what from own.caught")):
                pass
            assert set(caught) == {"42501"}
            assert value(conn, "select queue_count('pears')") == 1
    finally:
        own.remove()
