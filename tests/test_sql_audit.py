"""Rules that every function keeps: rights, search_path, comments, stable signatures, style."""

import os
import re
import sys
from pathlib import Path

import psycopg
import pytest
from sql_sessions import column, value

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "sql" / "functions").glob("*.sql"))
API = Path(__file__).parent / "api.txt"
TEXTS = [pytest.param(file, id=file.stem) for file in FILES]

OURS = r"pronamespace = 'public'::regnamespace and proname ~ '^_?queue_'"


def names(conn, condition):
    return column(conn, f"select proname::text from pg_proc where {OURS} and ({condition}) order by 1")


# In the database


def test_every_file_is_a_function_and_every_function_has_a_file(conn):
    assert set(names(conn, "true")) == {file.stem for file in FILES}


def test_no_overloads(conn):
    found = names(conn, "true")
    assert len(found) == len(set(found))


# Functions with a body of standard SQL, `return ...`, are parsed when they are created: no search_path of the caller's
# changes what they mean. They become a part of the statement that calls them, in a function of ours that pins the path
# and has the owner's rights. For that they must have no settings and no rights of their own.
INLINED = {
    "_queue_caller",
    "_queue_channel",
    "_queue_class",
    "_queue_has_sets",
    "_queue_is_large",
    "_queue_key",
    "_queue_nobody_sleeps",
}


def test_what_is_inlined_is_parsed_and_has_nothing_that_keeps_it_from_being_inlined(conn):
    assert set(names(conn, "prosqlbody is not null")) == INLINED
    can_be = "not prosecdef and proconfig is null and not proisstrict and not proretset and prokind = 'f'"
    assert set(names(conn, f"prosqlbody is not null and {can_be}")) == INLINED
    assert all(name.startswith("_") for name in INLINED), "nobody but our functions calls them"


# Looks for what others may have put into the schema, and so must not have the schema on its path.
ELSEWHERE = {"_queue_strangers"}


def test_the_search_path_is_pinned_and_ends_in_pg_temp(conn):
    pinned = "coalesce(array_to_string(proconfig, ';'), '') ~ 'search_path={}, pg_temp(;|$)'"
    assert set(names(conn, f"not {pinned.format('public')}")) == INLINED | ELSEWHERE
    assert set(names(conn, pinned.format("pg_catalog"))) == ELSEWHERE


def test_what_is_public_runs_with_the_rights_of_the_owner_and_nothing_else_does(conn):
    # Called by one of ours, a private function runs as the owner, too. Called by anybody else, whom somebody gave
    # EXECUTE on all functions, it has no rights on the tables.
    assert names(conn, "prosecdef <> (proname like 'queue%')") == []


def test_all_have_a_comment(conn):
    assert names(conn, "coalesce(length(obj_description(oid, 'pg_proc')), 0) < 20") == []


def test_public_may_execute_nothing(conn):
    assert names(conn, "proacl is null") == []
    assert names(conn, "exists (select from aclexplode(proacl) a where a.grantee = 0 or a.grantee <> proowner)") == []


def test_another_role_may_not_execute(conn):
    conn.execute("begin")
    conn.execute("create role stranger")
    conn.execute("set local role stranger")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        conn.execute("select queue_put('apples', '1')")
    conn.execute("rollback")


def test_the_rules_hold_after_a_migration_that_drops_and_creates(conn, database, second):
    conn.execute("drop schema public cascade; create schema public")
    second.command("migrate", "--dsn", database.dsn, "--revision", "0001")
    before = value(conn, "select 'queue_channel'::regproc::oid")
    second.command("migrate", "--dsn", database.dsn)
    assert value(conn, "select 'queue_channel'::regproc::oid") != before
    test_public_may_execute_nothing(conn)
    test_the_search_path_is_pinned_and_ends_in_pg_temp(conn)
    test_what_is_public_runs_with_the_rights_of_the_owner_and_nothing_else_does(conn)


def test_no_function_is_leakproof_or_parallel_safe_by_accident(conn):
    assert names(conn, "proleakproof or proparallel <> 'u'") == []


WRITES = re.compile(
    r"\b(insert into|update queue|delete from|for update|pg_notify|nextval|perform _queue_(?!refuse)"
    r"|queue_(get|lease|complete|error|release|progress)\()"
)


@pytest.mark.parametrize("file", TEXTS)
def test_volatility_is_true(conn, file):
    (volatility,) = column(conn, "select provolatile::text from pg_proc where proname = %s", file.stem)
    text = file.read_text()
    begin, end = ("\nreturn", ";\n\ncomment") if file.stem in INLINED else ("as $$", "$$;")
    body = re.sub("--.*|'queue_job' as regclass", "", re.split(rf"{re.escape(begin)}(?!s)", text)[1].partition(end)[0])
    if WRITES.search(body) or re.search(r"\b(clock_timestamp|random|set_config)\b|advisory", body):
        assert volatility == "v"
    elif re.search(r"\b_?queue_(job|dead|setting|right|may)\b", body):
        # A stable function reads with the snapshot of the calling statement: not what was just put.
        assert volatility == "v"
    else:
        assert volatility == "s", "format, timestamptz + interval and the settings are stable, not immutable"


def test_what_only_looks_works_in_a_read_only_transaction(conn):
    conn.execute("set default_transaction_read_only = on")
    for call in (
        "queue_list('apples')",
        "queue_count('apples')",
        "queue_stats()",
        "queue_metrics()",
        "queue_wait('apples')",
        "queue_dead_list('apples')",
        "queue_settings('apples')",
        "queue_channel('apples')",
        "queue_version()",
    ):
        conn.execute(f"select {call}")


# Signatures

SIGNATURES = r"""
    select format('%%s(%%s) -> %%s', proname, pg_get_function_arguments(oid), pg_get_function_result(oid))
    from pg_proc where pronamespace = 'public'::regnamespace and proname like 'queue\_%%' order by proname::text
""".replace("%%", "%")


def test_signatures_change_only_on_purpose(conn):
    found = "".join(f"{line}\n" for line in column(conn, SIGNATURES))
    if os.environ.get("WRITE_API"):
        API.write_text(found)
    again = f"WRITE_API=1 {Path(sys.executable).name} -m pytest tests/test_sql_audit.py -k signatures --pg 18"
    assert API.read_text() == found, (
        "Argument names, their order, defaults and results are part of the API. "
        f"If the change is meant (and in the changelog): {again}"
    )


# In whatever the caller has around it


def test_temporary_objects_of_the_same_name_do_not_matter(conn):
    for table in ("queue_job", "queue_setting", "queue_dead"):
        conn.execute(f"create temp table {table} (like public.{table} including all)")
    for name in ("_queue_find(text, text)", "_queue_pick(text, timestamptz, integer)", "queue_channel(text)"):
        conn.execute(f"create function pg_temp.{name} returns text language sql as 'select 1 / 0'")
    conn.execute("set search_path to pg_temp, public")
    conn.execute("select public.queue_put('apples', '1', dedupe_key => 'k')")
    conn.execute("select public.queue_put('apples', '1', dedupe_key => 'k')")
    conn.execute("select public.queue_put('apples', '2', schedule_in => '1us')")
    assert value(conn, "select count(*) from public.queue_job") == 2
    assert column(conn, "select data from public.queue_get('apples', 9)") == [1, 2]


@pytest.mark.parametrize("path", ["''", "hostile, pg_catalog", "hostile, public", "pg_temp"])
def test_the_search_path_of_the_caller_does_not_matter(conn, path):
    conn.execute("create schema hostile")
    conn.execute("create table hostile.queue_job (like queue_job)")
    conn.execute("create function hostile.octet_length(text) returns integer language sql as 'select 1 / 0'")
    conn.execute("create function hostile.equals(text, text) returns boolean language sql as 'select false'")
    conn.execute("create operator hostile.= (leftarg = text, rightarg = text, function = hostile.equals)")
    conn.execute(f"set search_path to {path}")
    conn.execute("select public.queue_put('apples', '1')")
    assert column(conn, "select data from public.queue_list('apples')") == [1]
    assert column(conn, "select data from public.queue_get('apples')") == [1]


@pytest.mark.parametrize(
    "settings",
    [
        {"DateStyle": "'German, DMY'", "IntervalStyle": "iso_8601"},
        {"TimeZone": "'Pacific/Apia'", "extra_float_digits": "-15"},
        {"default_transaction_isolation": "'repeatable read'", "synchronous_commit": "off"},
        {"enable_indexscan": "off", "plan_cache_mode": "force_custom_plan", "row_security": "off"},
        {"check_function_bodies": "off", "bytea_output": "escape", "xmloption": "document"},
    ],
)
def test_settings_of_the_caller_do_not_matter(conn, settings):
    for name, to in settings.items():
        conn.execute(f"set {name} to {to}")
    conn.execute("select queue_put('apples', '1', schedule_in => '1us', dedupe_key => 'k')")
    conn.execute("select queue_put('apples', data_bytes => '\\x00ff')")
    rows = conn.execute("select data, encode(data_bytes, 'hex') from queue_get('apples', 9)").fetchall()
    assert rows == [(1, None), (None, "00ff")]


def test_each_schema_has_its_own_queues(conn):
    conn.execute('create schema "Billing queue"')
    with conn.transaction():
        conn.execute('set local search_path to "Billing queue", pg_temp')
        for file in [ROOT / "sql" / "schema.sql", *FILES]:
            conn.execute(file.read_bytes())
    conn.execute("""select queue_put('apples', '1'), "Billing queue".queue_put('apples', '2')""")
    assert column(conn, """select data from "Billing queue".queue_get('apples', 9)""") == [2]
    assert column(conn, "select data from queue_get('apples', 9)") == [1]
    assert value(conn, """select queue_channel('apples') <> "Billing queue".queue_channel('apples')""")


# In the text


def code_of(text):
    """The statements without comments and strings, in which any word may stand."""
    text = re.sub(r"^comment on .*?(\$\$;|';)$", "comment on function x is '';", text, flags=re.M | re.S)
    return re.sub(r"'(?:[^']|'')*'|--.*", "''", text)


@pytest.mark.parametrize("file", TEXTS)
def test_a_file_is_one_function_with_comment_and_revoke(file):
    text = file.read_text()
    name = re.escape(file.stem)
    assert re.match(rf"create or replace function {name}\(", text)
    assert len(re.findall(r"^create ", text, re.M)) == 1
    assert len(re.findall(rf"^comment on function {name} is( \$\$|\n    ')", text, re.M)) == 1
    assert len(re.findall(rf"^revoke all on function {name} from public;$", text, re.M)) == 1
    words = ["\nreturns ", "\nlanguage ", "\nsecurity definer\n", "\nset search_path from current\n"]
    attributes = re.split(r"\nreturn(?!s)" if file.stem in INLINED else r"as \$\$", text)[0]
    if file.stem.startswith("_"):
        words.remove("\nsecurity definer\n")
    if file.stem in ELSEWHERE:
        words[-1] = "\nset search_path to pg_catalog, pg_temp\n"
    order = [attributes.index(word) for word in (words[:2] if file.stem in INLINED else words)]
    assert order == sorted(order)


def allowed(word):
    return word.islower() or not word.isupper() or len(word) == 1


@pytest.mark.parametrize("file", [*TEXTS, pytest.param(ROOT / "sql" / "schema.sql", id="schema")])
def test_keywords_are_lower_case(file):
    assert [word for word in re.findall(r"\b[A-Za-z_]+\b", code_of(file.read_text())) if not allowed(word)] == []


@pytest.mark.parametrize("file", [*TEXTS, pytest.param(ROOT / "sql" / "schema.sql", id="schema")])
def test_text_is_tidy(file):
    text = file.read_text()
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
    assert "\t" not in text
    assert [
        line for line in text.splitlines() if line != line.rstrip() or (len(line) > 120 and line[:5] != "    '")
    ] == []


@pytest.mark.parametrize("file", TEXTS)
def test_dynamic_sql_only_through_format(file):
    code = code_of(file.read_text())
    for statement in re.findall(r"\bexecute\b.*?;", code, re.S):
        assert statement.startswith("execute format("), statement
    assert not re.search(r"%s", " ".join(re.findall(r"execute format\((.*?)\)", file.read_text(), re.S)))


@pytest.mark.parametrize("file", TEXTS)
def test_no_text_depends_on_the_callers_standard_conforming_strings(file):
    # A function's text is read when a session first calls it, under the settings of that session.
    text = re.sub(r"--.*", "", file.read_text().partition("\ncomment on ")[0])
    assert [found for found in re.findall(r"(?<![eE])'(?:[^']|'')*'", text) if "\\" in found] == []


@pytest.mark.parametrize("file", TEXTS)
def test_a_claim_is_never_in_a_semi_join(file):
    # `where id in (select ... limit 1 for update skip locked)` claimed 151 rows.
    assert not re.search(r"\bin \(\s*select\b(?:(?!;).)*?skip locked", code_of(file.read_text()), re.S)


@pytest.mark.parametrize("file", TEXTS)
def test_our_errors_have_a_hint(file):
    for statement in re.findall(r"raise exception\b.*?;", file.read_text(), re.S):
        assert re.search(r"\berrcode = '", statement)
        assert re.search(r"\bhint = ", statement)


# _queue_names alone looks at all queues.
@pytest.mark.parametrize("file", [text for text in TEXTS if text.id != "_queue_names"])
def test_every_statement_on_jobs_names_its_queue(file):
    code = code_of(file.read_text())
    for statement in re.findall(r"\b(?:from|update|delete from) queue_job j\b.*?(?:;|\n\s*\)|limit)", code, re.S):
        assert re.search(r"\bj\.queue = ", statement), statement
