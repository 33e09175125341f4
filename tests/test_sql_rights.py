"""Rights: who may call which function on which queue, how rights are given and taken, and what survives what."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from checkout import ROOT
from psycopg import sql
from sql_sessions import Running, column, refused, value

Connection = psycopg.Connection[Any]

PRIVILEGES = ("put", "get", "observe", "manage")

# What a call needs: one of the privileges, on the queue that it names. %(id)s and %(receipt)s are of a leased job,
# %(ready)s of a ready one, both in that queue.
TAKES, LOOKS, MANAGES = {"get"}, {"observe", "manage"}, {"manage"}
CALLS = {
    "queue_put(%(queue)s, '1')": {"put"},
    "queue_put(%(queue)s, '1', dedupe_key => 'key')": {"put"},
    "queue_put_many(%(queue)s, array['1', '2']::jsonb[])": {"put"},
    "queue_put_many(%(queue)s, '{}'::jsonb[])": {"put"},
    "queue_get(%(queue)s)": TAKES,
    "queue_get(%(queue)s, 10, true)": TAKES,
    "queue_get_any(array[%(queue)s])": TAKES,
    "queue_lease(%(queue)s)": TAKES,
    "queue_lease_any(array[%(queue)s])": TAKES,
    "queue_complete(%(queue)s, %(id)s, %(receipt)s)": TAKES,
    "queue_complete_many(%(queue)s, array[%(id)s::bigint], array[%(receipt)s::uuid])": TAKES,
    "queue_error(%(queue)s, %(id)s, %(receipt)s, 'a worm')": TAKES,
    "queue_error(%(queue)s, %(ready)s, null, bury => true)": TAKES,
    "queue_error_many(%(queue)s, array[%(id)s::bigint], array[%(receipt)s::uuid])": TAKES,
    "queue_release(%(queue)s, %(id)s, %(receipt)s)": TAKES,
    "queue_release_many(%(queue)s, array[%(id)s::bigint], array[%(receipt)s::uuid])": TAKES,
    "queue_progress(%(queue)s, %(id)s, %(receipt)s)": TAKES,
    "queue_progress_many(%(queue)s, array[%(id)s::bigint], array[%(receipt)s::uuid])": TAKES,
    "queue_bury(%(queue)s, 0, 'unreadable')": TAKES,
    "queue_channel(%(queue)s)": TAKES,
    "queue_listen(%(queue)s)": TAKES,
    "queue_unlisten(%(queue)s)": TAKES,
    "queue_update(%(queue)s, %(id)s, '3', receipt => %(receipt)s)": TAKES | MANAGES,
    "queue_wait(%(queue)s)": TAKES | LOOKS,
    "queue_list(%(queue)s)": LOOKS,
    "queue_list(%(queue)s, scheduled => true)": LOOKS,
    "queue_count(%(queue)s)": LOOKS,
    "queue_stats(%(queue)s)": LOOKS,
    "queue_dead_list(%(queue)s)": LOOKS,
    "queue_settings(%(queue)s)": LOOKS,
    "queue_export(%(queue)s)": LOOKS,
    "queue_export(%(queue)s, dead => true)": LOOKS,
    "queue_export(%(queue)s, take => true)": MANAGES,
    "queue_import(%(queue)s, array['{}'::jsonb], array['1'::jsonb], append => true)": MANAGES,
    "queue_create(%(queue)s, max_attempts => 3)": MANAGES,
    "queue_drop(%(queue)s)": MANAGES,
    "queue_pause(%(queue)s)": MANAGES,
    "queue_resume(%(queue)s)": MANAGES,
    "queue_clear(%(queue)s)": MANAGES,
    "queue_cancel(%(queue)s, %(ready)s)": MANAGES,
    "queue_update(%(queue)s, %(ready)s, '3')": MANAGES,
    "queue_redrive(%(queue)s)": MANAGES,
    "queue_dead_delete(%(queue)s)": MANAGES,
}
# Of all queues at once: these need the privilege on all.
OVERALL = {"queue_health()": LOOKS, "queue_maintain()": MANAGES}
# These need any privilege on any queue, and tell only what the caller may know.
HARMLESS = ("queue_version()", "queue_rights()")
# These need the privilege on any queue, and tell of those on which the caller has it.
TELLING = {"queue_stats()": LOOKS, "queue_metrics()": LOOKS}
# For the owner alone.
GIVING = (
    "queue_grant('apples', 'web', 'manage')",
    "queue_grant_all('web', 'manage')",
    "queue_revoke('apples', 'web')",
    "queue_revoke_all('web')",
)


def name_of(call: str) -> str:
    return call.partition("(")[0]


def names_in(conn: Connection, call: str) -> list[str]:
    """The queues that a call tells of: their names are its first column."""
    return [row[0] for row in conn.execute(f"select * from {call}").fetchall()]


class Orchard:
    """Queues with a job of each kind, and what to call them with."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        self.args: dict[str, dict[str, Any]] = {}
        for queue in ("apples", "pears"):
            conn.execute("select queue_put(%s, '\"secret\"', dedupe_key => 'other')", [queue])
            row = conn.execute("select id, receipt from queue_lease(%s)", [queue]).fetchone()
            assert row is not None
            conn.execute("select queue_bury(%s, -1, 'rotten', data => '\"secret\"')", [queue])
            ready = value(conn, "select queue_put(%s, '\"secret\"')", queue)
            self.args[queue] = {"queue": queue, "id": row[0], "receipt": row[1], "ready": ready}

    def contents(self, queue: str) -> list[Any]:
        """All that the tables hold of a queue."""
        tables = ("queue_job", "queue_dead", "queue_setting", "queue_tally", "queue_total")
        return [column(self.conn, f"select t::text from {t} t where queue = %s order by 1", queue) for t in tables]

    def call(self, conn: Connection, call: str, queue: str = "apples") -> str | None:
        """Call, and undo; the SQLSTATE of the error if there was one."""
        try:
            with conn.transaction(force_rollback=True):
                conn.execute(f"select {call}", self.args[queue])
        except psycopg.Error as error:
            return error.sqlstate
        return None


@pytest.fixture
def orchard(conn: Connection) -> Orchard:
    return Orchard(conn)


def give_all_functions(conn: Connection, role: str) -> None:
    """What an administrator might do in good faith."""
    conn.execute(sql.SQL("grant execute on all functions in schema public to {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("executes", ["what was granted", "all functions"])
@pytest.mark.parametrize("privilege", [*PRIVILEGES, None])
def test_a_privilege_allows_its_calls_on_its_queue_and_nothing_else(conn, roles, orchard, privilege, executes):
    roles.make("web", "other")
    if privilege is not None:
        assert value(conn, "select queue_grant('apples', 'web', %s)", privilege)
    # What others may is no help.
    conn.execute("select queue_grant_all('other', p) from unnest(%s::text[]) as p", [list(PRIVILEGES)])
    if executes == "all functions":
        give_all_functions(conn, "web")
    web = roles.connect("web")
    before = orchard.contents("pears")
    for call, needed in CALLS.items():
        assert orchard.call(web, call) == (None if privilege in needed else "42501"), call
        assert orchard.call(web, call, "pears") == "42501", call
    for call in OVERALL:
        assert orchard.call(web, call) == "42501", call
    for call in GIVING:
        assert orchard.call(web, call) == "42501", call
    assert orchard.contents("pears") == before
    if privilege is not None:
        for call in HARMLESS:
            assert orchard.call(web, call) is None, call
        for call in TELLING:
            if privilege in LOOKS or executes == "all functions":
                assert names_in(web, call) == (["apples"] if privilege in LOOKS else []), call
            else:
                assert orchard.call(web, call) == "42501", call


@pytest.mark.parametrize("privilege", PRIVILEGES)
def test_a_privilege_on_all_queues_allows_its_calls_on_each(conn, roles, orchard, privilege):
    roles.make("web")
    assert value(conn, "select queue_grant_all('web', %s)", privilege)
    web = roles.connect("web")
    for call, needed in {**CALLS, **OVERALL}.items():
        for queue in ("apples", "pears"):
            assert orchard.call(web, call, queue) == (None if privilege in needed else "42501"), call
    for call in TELLING:
        if privilege in LOOKS:
            assert names_in(web, call) == ["apples", "pears"], call


def test_every_function_that_can_be_granted_is_in_these_lists(conn):
    listed: dict[str, set[str]] = {}
    for call, needed in {**CALLS, **OVERALL, **TELLING, **{call: set(PRIVILEGES) for call in HARMLESS}}.items():
        listed.setdefault(name_of(call), set()).update(needed)
    granted = {name: set(needed) for name, needed in conn.execute("select * from _queue_functions()").fetchall()}
    assert granted == listed
    public = column(conn, r"select proname::text from pg_proc where proname like 'queue\_%'")
    assert set(public) == set(granted) | {name_of(call) for call in GIVING}


def test_execute_is_granted_on_what_the_rights_need_and_on_nothing_else(conn, roles):
    roles.make("web")
    executes = (
        "select proname::text from pg_proc where proname ~ '^_?queue_' and has_function_privilege('web', oid, %s)"
    )
    for granted in (["put"], ["put", "get"], ["put", "get", "observe"], list(PRIVILEGES)):
        conn.execute("select queue_grant('apples', 'web', %s)", [granted[-1]])
        needed = "select name from _queue_functions() where privileges && %s"
        assert set(column(conn, executes, "execute")) == set(column(conn, needed, granted))
    assert column(conn, executes, "execute with grant option") == []
    conn.execute("select queue_grant('pears', 'web', 'put')")
    conn.execute("select queue_revoke('apples', 'web')")
    assert sorted(column(conn, executes, "execute")) == ["queue_put", "queue_put_many", "queue_rights", "queue_version"]
    conn.execute("select queue_revoke('pears', 'web')")
    assert column(conn, executes, "execute") == []


def test_every_function_asks_before_it_does_anything_else():
    # Who is the owner is told in one way, docs/design/rights.md, in one of two forms.
    owner = (
        "session_user <> current_user or current_setting('session_authorization') = ''"
        " or current_setting('role') <> 'none'",
        "session_user = current_user and current_setting('session_authorization') <> ''"
        " and current_setting('role') = 'none'",
    )
    for path in sorted((ROOT / "sql" / "functions").glob("queue_*.sql")):
        if path.stem in {"queue_version", "queue_rights"}:
            continue
        body = path.read_text().partition("\nbegin\n")[2]
        # They ask queue_channel, which asks.
        if path.stem in {"queue_listen", "queue_unlisten"}:
            assert ":= queue_channel(queue);" in path.read_text()
            continue
        # It does nothing but ask queue_stats, which asks.
        if path.stem == "queue_metrics":
            assert re.match(r"[^;]*\bfrom queue_stats\(\) s;\nend\n", body)
            continue
        asked = min(n for n in (body.find("_queue_allow("), body.find("_queue_may(")) if n >= 0)
        before = " ".join(body[: asked + len("_queue_may(")].split())
        for form in owner:
            before = before.replace(form, "")
        for setting in ("session_", "current_setting"):
            assert setting not in before, path.stem
        for word in ("select", "insert", "update", "delete", "lock", "execute", "return", "loop"):
            assert f" {word} " not in before, path.stem


# What the refused are told


@pytest.mark.parametrize("queue", ["apples", "it's", '"; drop table queue_job; --', "back\\slash", "ä\nb"])
@pytest.mark.parametrize("role", ["web", "Web Role", "o'brien", "back\\slash"])
def test_the_hint_is_the_grant_that_helps(conn, roles, queue, role):
    roles.make(role)
    give_all_functions(conn, role)
    web = roles.connect(role)
    error = refused(web, "42501", "select queue_put(%s, '1')", queue, hint=True)
    said = value(conn, "select format('role %%I has no right to put on queue %%I', %s::text, %s::text)", role, queue)
    assert error.diag.message_primary == said
    prefix, _, statement = str(error.diag.message_hint).partition(": ")
    assert prefix == "Ask role postgres for it"
    assert value(conn, statement)
    web.execute("select queue_put(%s, '1')", [queue])


def test_the_hints_of_all_calls_help(conn, roles, orchard):
    for n, (call, needed) in enumerate({**CALLS, **OVERALL}.items()):
        roles.make(f"web{n}")
        give_all_functions(conn, f"web{n}")
        web = roles.connect(f"web{n}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege) as caught:
            web.execute(f"select {call}", orchard.args["apples"])
        hint = str(caught.value.diag.message_hint)
        conn.execute(hint.partition(": ")[2])
        assert column(conn, "select privilege from queue_rights() where role = %s", f"web{n}")[0] in needed
        assert orchard.call(web, call) is None, call
        web.close()


def test_a_refused_call_names_the_queue_of_a_set_and_takes_nothing(conn, roles, orchard):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'get')")
    web = roles.connect("web")
    before = orchard.contents("apples")
    for call in ("queue_get_any", "queue_lease_any"):
        for names in (["apples", "pears"], ["pears", "apples"], ["apples", "empty"], [["apples"], ["empty"]]):
            error = refused(web, "42501", f"select {call}(%s, 10)", names, hint=True)
            assert any(name in str(error.diag.message_primary) for name in ("pears", "empty"))
    assert orchard.contents("apples") == before
    refused(web, "22023", "select queue_get_any(array['apples', null], 10)", hint=True)
    assert value(web, "select count(*) from queue_get_any(array['apples', 'apples'], 10)") == 1


# Who the caller is


def test_a_member_of_a_group_has_the_rights_of_the_group(conn, roles):
    roles.make("producers", options="nologin")
    roles.make("web")
    conn.execute("select queue_grant('apples', 'producers', 'put')")
    web = roles.connect("web")
    refused(web, "42501", "select queue_put('apples', '1')")
    conn.execute("grant producers to web")
    web.execute("select queue_put('apples', '1')")
    assert web.execute("select role, privilege from queue_rights()").fetchall() == [("producers", "put")]
    conn.execute("revoke producers from web")
    refused(web, "42501", "select queue_put('apples', '1')")


def test_who_does_not_inherit_has_the_rights_of_a_group_after_set_role(conn, roles):
    roles.make("producers", options="nologin")
    roles.make("web", options="login noinherit")
    conn.execute("select queue_grant('apples', 'producers', 'put')")
    conn.execute("grant producers to web")
    give_all_functions(conn, "web")
    web = roles.connect("web")
    refused(web, "42501", "select queue_put('apples', '1')", hint=True)
    web.execute("set role producers")
    web.execute("select queue_put('apples', '1')")
    web.execute("reset role")
    refused(web, "42501", "select queue_put('apples', '1')", hint=True)


def test_a_gateway_that_sets_the_role_has_the_rights_of_that_role(conn, roles):
    # As PostgREST and Supabase do it.
    roles.make("gateway", options="login noinherit")
    roles.make("anna", "bert", options="nologin")
    conn.execute("grant anna, bert to gateway")
    conn.execute("select queue_grant('apples', 'anna', 'put'), queue_grant('pears', 'bert', 'put')")
    gateway = roles.connect("gateway")
    for role, own, other in (("anna", "apples", "pears"), ("bert", "pears", "apples"), ("anna", "apples", "pears")):
        with gateway.transaction():
            gateway.execute(sql.SQL("set local role {}").format(sql.Identifier(role)))
            gateway.execute("select queue_put(%s, '1')", [own])
            refusal = pytest.raises(psycopg.errors.InsufficientPrivilege, match=f"role {role} has no right")
            with refusal, gateway.transaction():
                gateway.execute("select queue_put(%s, '1')", [other])
    refused(gateway, "42501", "select queue_put('apples', '1')")


def test_the_owner_after_set_role_is_limited_like_anybody(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    conn.execute("set role web")
    conn.execute("select queue_put('apples', '1')")
    refused(conn, "42501", "select queue_put('pears', '1')", hint=True)
    refused(conn, "42501", "select queue_get('apples')")
    conn.execute("reset role")
    conn.execute("select queue_put('pears', '1')")


def installed_by(conn: Connection, owner: str, schema: str) -> None:
    """Install the queue into a schema of its own, all of it belonging to this role."""
    with conn.transaction():
        name = sql.Identifier(schema)
        conn.execute(sql.SQL("create schema {} authorization {}").format(name, sql.Identifier(owner)))
        conn.execute(sql.SQL("set local role {}").format(sql.Identifier(owner)))
        conn.execute(sql.SQL("set local search_path to {}, pg_temp").format(name))
        for file in [ROOT / "sql" / "schema.sql", *sorted((ROOT / "sql" / "functions").glob("*.sql"))]:
            conn.execute(file.read_bytes())


def test_the_owner_its_members_and_superusers_may_do_all(conn, roles, database):
    roles.make("app", "member", "stranger")
    roles.make("silent", options="login noinherit")
    conn.execute("grant app to member, silent")
    installed_by(conn, "app", "Billing queue")
    statement = """select "Billing queue".queue_put('apples', '1'), "Billing queue".queue_grant('a', 'app', 'put')"""
    for name in ("app", "member", "postgres"):
        roles.connect(name).execute(statement)
    refused(roles.connect("stranger"), "42501", statement)
    silent = roles.connect("silent")
    refused(silent, "42501", statement)
    silent.execute("set role app")
    silent.execute(statement)


def test_in_a_function_of_somebody_elses_the_caller_is_who_connected(conn, roles):
    # The caller's own function or the owner's, with SECURITY DEFINER or without: nobody but the session is asked.
    roles.make("web", "helper")
    conn.execute("select queue_grant('apples', 'helper', 'put')")
    conn.execute(
        "create function put_checked() returns bigint security definer language sql as "
        "$$select public.queue_put('apples', '1')$$"
    )
    conn.execute("alter function put_checked owner to helper; grant execute on function put_checked to web")
    web = roles.connect("web")
    refused(web, "42501", "select put_checked()", hint=True)
    conn.execute("select queue_grant('apples', 'web', 'put')")
    web.execute("select put_checked()")


# Giving


def test_a_grant_says_whether_it_is_new_and_is_listed(conn, roles):
    roles.make("web", "Web Role")
    assert value(conn, "select queue_grant('apples', 'web', 'put')") is True
    assert value(conn, "select queue_grant('apples', 'web', 'put')") is False
    assert value(conn, "select queue_grant('apples', 'web', 'get')") is True
    assert value(conn, "select queue_grant_all('Web Role', 'observe')") is True
    assert value(conn, "select queue_grant_all('Web Role', 'observe')") is False
    rows = [(None, "Web Role", "observe"), ("apples", "web", "get"), ("apples", "web", "put")]
    assert conn.execute("select queue, role, privilege from queue_rights()").fetchall() == rows
    assert value(conn, "select bool_and(granted_at between now() - interval '1 minute' and now()) from queue_rights()")
    listed = "select queue, role, privilege from queue_rights()"
    assert roles.connect("web").execute(listed).fetchall() == rows[1:]
    assert roles.connect("Web Role").execute(listed).fetchall() == rows[:1]


@pytest.mark.parametrize(
    "role", ["Web Role", '"; drop table queue_job; --', "current_user", "session_user", "é", "r" * 63, "%s %I", "'"]
)
def test_a_role_is_named_as_it_is(conn, roles, role):
    roles.make(role)
    assert value(conn, "select queue_grant('apples', %s, 'put')", role)
    assert column(conn, "select role from queue_rights()") == [role]
    roles.connect(role).execute("select queue_put('apples', '1')")
    assert value(conn, "select queue_revoke('apples', %s)", role)
    refused(roles.connect(role), "42501", "select queue_put('apples', '1')")


@pytest.mark.parametrize("call", ["queue_grant('apples', %s, 'put')", "queue_grant_all(%s, 'put')",
                                  "queue_revoke('apples', %s)", "queue_revoke_all(%s)"])  # fmt: skip
@pytest.mark.parametrize("role", [None, "", "nobody", "public", "PUBLIC", "none", '"postgres"', "p" * 100])
def test_a_role_that_there_is_not_is_refused(conn, call, role):
    error = refused(conn, "42704", f"select {call.replace('%s', '%s::text')}", role, hint=True)
    assert str(error.diag.message_primary).startswith("the name of a role is" if role is None else "there is no role")
    assert column(conn, "select queue from queue_rights()") == []


@pytest.mark.parametrize("call", ["queue_grant('apples', 'web', %s)", "queue_grant_all('web', %s)",
                                  "queue_revoke('apples', 'web', %s)", "queue_revoke_all('web', %s)"])  # fmt: skip
@pytest.mark.parametrize("privilege", [None, "", "eat", "PUT", "put ", "all", "grant"])
def test_a_privilege_that_there_is_not_is_refused(conn, roles, call, privilege):
    roles.make("web")
    statement = f"select {call.replace('%s', '%s::text')}"
    if privilege is None and "revoke" in call:
        assert value(conn, statement, privilege) is False
    else:
        refused(conn, "22023", statement, privilege, hint=True)
    assert column(conn, "select queue from queue_rights()") == []


def test_a_role_that_cannot_use_the_schema_is_let_in(conn, roles):
    roles.make("app", "web")
    installed_by(conn, "app", "Billing queue")
    app, web = roles.connect("app"), roles.connect("web")
    refused(web, "42501", """select "Billing queue".queue_put('apples', '1')""")
    app.execute("""select "Billing queue".queue_grant('apples', 'web', 'put')""")
    web.execute("""select "Billing queue".queue_put('apples', '1')""")


def test_an_owner_who_cannot_let_a_role_in_says_what_to_ask_for(conn, roles):
    roles.make("app", "web")
    installed_by(conn, "app", "billing")
    conn.execute("alter schema billing owner to postgres; grant usage, create on schema billing to app")
    app, web = roles.connect("app"), roles.connect("web")
    error = refused(app, "42501", "select billing.queue_grant('apples', 'web', 'put')", hint=True)
    assert column(conn, "select queue from billing.queue_rights()") == []
    conn.execute(str(error.diag.message_hint).partition(": ")[2])
    app.execute("select billing.queue_grant('apples', 'web', 'put')")
    web.execute("select billing.queue_put('apples', '1')")


def test_two_grants_at_once_wait_for_each_other(conn, roles, database):
    roles.make("web", "worker")
    conn.execute("begin")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    other = Running(database.connect(), "select queue_grant('apples', 'worker', 'put')")
    observer = database.connect()
    other.wait_for_lock(observer)
    conn.execute("commit")
    assert other.result() is True
    for name in ("web", "worker"):
        roles.connect(name).execute("select queue_put('apples', '1')")


# Taking


def warnings_of(conn: Connection, statement: str) -> tuple[Any, list[tuple[str, str]]]:
    """What a statement gives, and the warnings with their hints."""
    found: list[tuple[str, str]] = []

    def note(diag: psycopg.errors.Diagnostic) -> None:
        assert diag.severity_nonlocalized == "WARNING", diag.message_primary
        found.append((str(diag.message_primary), str(diag.message_hint)))

    conn.add_notice_handler(note)
    try:
        return value(conn, statement), found
    finally:
        conn.remove_notice_handler(note)


def test_a_revoke_takes_what_it_names(conn, roles):
    roles.make("web")
    for queue in ("apples", "pears"):
        conn.execute("select queue_grant(%s, 'web', 'put'), queue_grant(%s, 'web', 'get')", [queue, queue])
    conn.execute("select queue_grant_all('web', 'put')")
    left = "select queue, privilege from queue_rights() order by 1, 2"
    assert warnings_of(conn, "select queue_revoke('apples', 'web', 'get')") == (True, [])
    assert warnings_of(conn, "select queue_revoke('apples', 'web', 'get')") == (False, [])
    assert conn.execute(left).fetchall() == [("apples", "put"), ("pears", "get"), ("pears", "put"), (None, "put")]
    assert warnings_of(conn, "select queue_revoke('pears', 'web')")[0] is True
    assert conn.execute(left).fetchall() == [("apples", "put"), (None, "put")]
    assert warnings_of(conn, "select queue_revoke_all('web', 'get')") == (False, [])
    assert warnings_of(conn, "select queue_revoke_all('web')") == (True, [])
    assert conn.execute(left).fetchall() == []
    refused(roles.connect("web"), "42501", "select queue_put('apples', '1')")


def test_a_revoke_holds_for_sessions_that_are_connected(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', p) from unnest('{put, get}'::text[]) as p")
    conn.execute("select queue_grant('pears', 'web', 'put')")
    web = roles.connect("web", prepare_threshold=0)
    for _ in range(3):
        web.execute("select queue_put('apples', '1')")
        web.execute("select queue_get('apples')")
    conn.execute("select queue_revoke('apples', 'web')")
    assert refused(web, "42501", "select queue_put('apples', '1')", hint=True)
    assert refused(web, "42501", "select queue_get('apples')")


def test_a_transaction_that_sees_the_past_has_the_rights_of_the_past(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put'), queue_grant('pears', 'web', 'put')")
    web = roles.connect("web")
    web.execute("begin isolation level repeatable read; select 1")
    conn.execute("select queue_revoke('apples', 'web')")
    web.execute("select queue_put('apples', '1')")
    web.execute("commit")
    refused(web, "42501", "select queue_put('apples', '1')", hint=True)


def test_a_revoke_warns_of_what_the_role_still_may(conn, roles):
    roles.make("web", "producers", "boss")
    conn.execute("grant producers to web; alter role boss superuser")
    conn.execute("select queue_grant('apples', 'web', 'put'), queue_grant('apples', 'producers', 'put')")
    conn.execute("select queue_grant_all('web', 'put'), queue_grant_all('web', 'manage')")
    taken, warned = warnings_of(conn, "select queue_revoke('apples', 'web', 'put')")
    assert taken
    assert [message for message, _ in warned] == [
        "role web still may: role web has the right to put on all queues",
        "role web still may: role producers has the right to put on queue apples",
    ]
    roles.connect("web").execute("select queue_put('apples', '1')")
    for _, hint in warned:
        conn.execute(hint.partition(": ")[2])
    refused(roles.connect("web"), "42501", "select queue_put('apples', '1')")
    # Who may manage may observe.
    assert [m for m, _ in warnings_of(conn, "select queue_revoke('apples', 'web', 'observe')")[1]] == [
        "role web still may: role web has the right to manage on all queues"
    ]
    assert warnings_of(conn, "select queue_revoke('apples', 'boss')")[1][0][0] == (
        "role boss still has all rights on all queues"
    )


def test_rights_are_on_a_name_and_stay_when_the_queue_is_dropped(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    web = roles.connect("web")
    web.execute("select queue_put('apples', '1')")
    assert value(conn, "select queue_drop('apples')") is True
    assert value(conn, "select queue_drop('apples')") is False
    web.execute("select queue_put('apples', '1')")


# Roles that go


def test_a_role_with_rights_cannot_be_dropped_and_one_without_can(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    refused(conn, "2BP01", "drop role web")
    conn.execute("select queue_revoke_all('web')")
    conn.execute("drop role web")


@pytest.mark.parametrize("revoke", ["queue_revoke('apples', 'web')", "queue_revoke_all('web')"])
def test_what_a_role_has_granted_on_goes_with_its_last_right(conn, roles, revoke):
    """Somebody gave it the grant option by hand. Who has the right from the owner keeps it."""
    roles.make("web", "third", "other")
    conn.execute("select queue_grant('apples', r, 'put') from unnest('{web, other}'::text[]) as r")
    conn.execute("grant execute on function queue_put to web with grant option")
    roles.connect("web").execute("grant execute on function queue_put to third, other")
    assert value(conn, f"select {revoke}") is True
    refused(roles.connect("third"), "42501", "select queue_put('apples', '1')")
    roles.connect("other").execute("select queue_put('apples', '1')")
    conn.execute("drop role web; drop role third")


def test_in_a_schema_of_its_own_a_role_is_dropped_when_it_may_not_use_the_schema_either(conn, roles):
    roles.make("app", "web")
    installed_by(conn, "app", "Billing queue")
    conn.execute("""select "Billing queue".queue_grant('apples', 'web', 'put')""")
    conn.execute("""select "Billing queue".queue_revoke_all('web')""")
    refused(conn, "2BP01", "drop role web")
    conn.execute("""revoke usage on schema "Billing queue" from web""")
    conn.execute("drop role web")


def test_a_role_that_is_made_anew_inherits_nothing(conn, roles):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    conn.execute("drop owned by web; drop role web; create role web login")
    give_all_functions(conn, "web")
    web = roles.connect("web")
    refused(web, "42501", "select queue_put('apples', '1')", hint=True)
    assert column(web, "select queue from queue_rights()") == []
    # The right of nobody, until it is forgotten.
    assert value(conn, "select count(*) from queue_right") == 1
    assert dict(conn.execute("select * from queue_maintain()").fetchall())["forget rights"] == 1
    assert value(conn, "select count(*) from queue_right") == 0
    refused(web, "42501", "select queue_put('apples', '1')", hint=True)


def test_a_session_whose_role_was_renamed_keeps_its_rights_and_gets_no_others(conn, roles):
    roles.make("web", "next")
    conn.execute("select queue_grant('apples', 'web', 'put'), queue_grant('pears', 'next', 'put')")
    web = roles.connect("web")
    web.execute("select queue_put('apples', '1')")
    conn.execute("alter role web rename to former; alter role next rename to web")
    try:
        web.execute("select queue_put('apples', '1')")
        error = refused(web, "42501", "select queue_put('pears', '1')", hint=True)
        assert "former" in str(error.diag.message_primary)
        assert column(web, "select role from queue_rights()") == ["former"]
    finally:
        conn.execute("alter role web rename to next; alter role former rename to web")


def test_the_owner_goes_on_when_it_is_renamed(conn, roles):
    roles.make("app")
    installed_by(conn, "app", "Billing queue")
    app = roles.connect("app")
    conn.execute("alter role app rename to shop")
    try:
        app.execute("""select "Billing queue".queue_put('apples', '1')""")
    finally:
        conn.execute("alter role shop rename to app")


def test_who_connected_under_the_name_that_the_owner_has_now_is_not_the_owner(conn, roles):
    roles.make("app", "web")
    installed_by(conn, "app", "Billing queue")
    conn.execute("""select "Billing queue".queue_grant('apples', 'web', 'put')""")
    conn.execute("""grant execute on all functions in schema "Billing queue" to web""")
    web = roles.connect("web")
    args = {"queue": "'pears'", "id": "1", "ready": "1", "receipt": "'3d3a1ad4-2a1f-4ba1-9e13-5a3fcb8b2fd0'"}
    conn.execute("alter role web rename to former; alter role app rename to web")
    try:
        web.execute("""select "Billing queue".queue_put('apples', '1')""")
        for call in (*CALLS, *OVERALL, *GIVING):
            refused(web, "42501", f'select "Billing queue".{call % args}', hint=True)
    finally:
        conn.execute("alter role web rename to app; alter role former rename to web")


# What takes EXECUTE away, or comes without


def test_maintaining_gives_back_what_a_role_has_lost_and_leaves_others_alone(conn, roles):
    roles.make("web", "stranger")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    conn.execute("revoke execute on function queue_put from web; grant execute on function queue_get to web")
    conn.execute("grant execute on function queue_count to stranger")
    conn.execute("select queue_maintain()")
    executes = "select has_function_privilege(%s, %s::regproc, 'execute')"
    assert value(conn, executes, "web", "queue_put")
    assert not value(conn, executes, "web", "queue_get")
    assert value(conn, executes, "stranger", "queue_count")
    roles.connect("web").execute("select queue_put('apples', '1')")
    version = "select array_agg(xmin::text order by oid) from pg_proc where proname ~ '^_?queue_'"
    before = value(conn, version)
    conn.execute("select queue_maintain()")
    assert value(conn, version) == before, "what is in line is not touched"


def test_maintaining_waits_for_nobody_who_gives_rights(conn, roles, database):
    roles.make("web", "worker")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    conn.execute("begin")
    conn.execute("select queue_grant('apples', 'worker', 'put')")
    other = database.connect()
    other.execute("set statement_timeout to '10s'")
    other.execute("select queue_maintain()")
    conn.execute("commit")
    roles.connect("worker").execute("select queue_put('apples', '1')")


def test_a_migration_that_drops_and_creates_keeps_the_grants(conn, database, roles, second):
    roles.make("web", "worker")
    conn.execute("drop schema public cascade; create schema public; grant usage on schema public to public")
    second.command("migrate", "--dsn", database.dsn, "--revision", "0001")
    conn.execute("select queue_grant('apples', 'web', 'put'), queue_grant_all('worker', 'get')")
    before = value(conn, "select 'queue_channel'::regproc::oid")
    worker = roles.connect("worker")
    expected = value(worker, "select queue_channel('apples')")
    second.command("migrate", "--dsn", database.dsn)
    assert value(conn, "select 'queue_channel'::regproc::oid") != before
    assert value(worker, "select queue_channel('apples')") == expected
    roles.connect("web").execute("select queue_put('apples', '1')")
    refused(roles.connect("web"), "42501", "select queue_channel('apples')")


def test_rights_come_through_a_dump_and_out_of_it(conn, database, roles, server):
    roles.make("web", "Web Role")
    conn.execute("select queue_grant('apples', 'web', 'put'), queue_grant_all('Web Role', 'observe')")
    rights = conn.execute("select * from queue_rights()").fetchall()
    file = server.folder / "rights.dump"
    target = f"{database.name}_restored"
    conn.execute(sql.SQL("create database {} template template0").format(sql.Identifier(target)))
    try:
        server.run("pg_dump", "-f", str(file), "-d", database.dsn)
        # The schema public is there already.
        server.run("psql", "-X", "-q", "-f", str(file), "-d", server.dsn(target))
        with psycopg.connect(server.dsn(target), autocommit=True) as restored:
            assert restored.execute("select * from queue_rights()").fetchall() == rights
        with psycopg.connect(server.dsn(target), user="web", autocommit=True) as web:
            web.execute("select queue_put('apples', '1')")
            refused(web, "42501", "select queue_put('pears', '1')", hint=True)
        with psycopg.connect(server.dsn(target), user="Web Role", autocommit=True) as watcher:
            assert column(watcher, "select name from queue_stats()") == ["apples"]
    finally:
        file.unlink(missing_ok=True)
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(target)))
        conn.execute("select queue_revoke_all('web'), queue_revoke_all('Web Role')")


def test_the_right_to_execute_reaches_no_private_function(conn, roles, orchard):
    # Somebody who was given EXECUTE on all functions still has no rights on what these work on.
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'get')")
    give_all_functions(conn, "web")
    web = roles.connect("web")
    before = orchard.contents("pears"), orchard.contents("apples")
    ready = orchard.args["pears"]["ready"]
    reaching = {
        "_queue_fail": f"'pears', {ready}, 'a worm', bury => true",
        "_queue_claim": "'pears', 1, null",
        "_queue_pick": "'pears', '-infinity', now(), 1",
        "_queue_promote": "'pears', '-infinity', now(), 10",
        "_queue_follow": "'pears', now(), 1",
        "_queue_fold": "'pears', true",
        "_queue_find": "'pears', 'other'",
        "_queue_count_attempt": f"'pears', {ready}, now()",
        "_queue_check_limits": "'pears', 1, 1",
        "_queue_due": "'pears', now()",
        "_queue_names": "",
        "_queue_next": "array['pears'], 1",
        "_queue_give": "'pears', 'web', 'get'",
        "_queue_take": "'pears', 'postgres', 'get'",
        "_queue_align": "'postgres'",
    }
    for name, arguments in reaching.items():
        if name == "_queue_follow":  # which looks no further where nothing is remembered
            continue
        assert refused(web, "42501", f"select {name}({arguments})").diag.message_primary, name
    assert (orchard.contents("pears"), orchard.contents("apples")) == before
