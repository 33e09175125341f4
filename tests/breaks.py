"""Break the code in one place at a time, and see a test fail: `make breaks`.

A test that passes says little until it has been seen to fail. For each row of docs/faults.md this file plants the
mistake that the row's tests are there to notice, into a copy of the repository, and runs them. A break that no test
notices is an error, and so is one whose text is no longer in the code.

    python tests/breaks.py            all, on PostgreSQL 18
    python tests/breaks.py 8 9 31     these rows
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Break:
    """A mistake, and the tests that must notice it."""

    row: int
    mistake: str
    path: str
    old: str
    new: str
    tests: str


def copy_to(folder: Path) -> None:
    """The files of the working tree that git keeps or would keep."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run it in the copy, whose package comes before the installed one."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def generate(folder: Path, path: str) -> None:
    """Bring what is made from a source up to date."""
    if path.startswith("pgq_py/_async/"):
        run(folder, "tools/make_sync.py")
    elif path.startswith("sql/"):
        run(folder, "tools/make_sql.py")


def see(folder: Path, planted: Break, version: str) -> str:
    """Plant it, run its tests, take it back; gives what is wrong with that, "" if a test failed as it should."""
    path = folder / planted.path
    before = path.read_text()
    if before.count(planted.old) != 1:
        return f"the text to break is there {before.count(planted.old)} times"
    try:
        path.write_text(before.replace(planted.old, planted.new))
        generate(folder, planted.path)
        done = run(folder, "-m", "pytest", *planted.tests.split(), "--pg", version, "-x", "--timeout", "60")
    finally:
        path.write_text(before)
        generate(folder, planted.path)
    if done.returncode == 1 and re.search(r"^\d+ failed", done.stdout, re.MULTILINE):
        return ""
    return f"no test failed (exit code {done.returncode}): {done.stdout.splitlines()[-1]}"


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(description="Plant a mistake for each row of docs/faults.md, and see it noticed.")
    parser.add_argument("rows", nargs="*", type=int, help="these rows only")
    parser.add_argument("--pg", default="18", help="the version of PostgreSQL")
    args = parser.parse_args()
    chosen = [planted for planted in BREAKS if not args.rows or planted.row in args.rows]
    missed = 0
    with tempfile.TemporaryDirectory(prefix="breaks-") as name:
        # Servers run as another user, who must be able to read the copy.
        Path(name).chmod(0o755)
        copy_to(Path(name))
        for planted in chosen:
            begun = monotonic()
            wrong = see(Path(name), planted, args.pg)
            missed += bool(wrong)
            verdict = wrong or f"noticed after {monotonic() - begun:.0f} s"
            print(f"row {planted.row:2}  {planted.mistake}: {verdict}", flush=True)
    print(f"{len(chosen) - missed} passed, {missed} failed")
    return 1 if missed else 0


PUT_KEYS, FAILURES, CRASHES = (
    "sql/functions/_queue_put_keys.sql",
    "tests/test_py_failures.py",
    "tests/test_py_crashes.py",
)
ERRORS, SERVER = "tests/test_py_errors.py", "tests/test_py_server_faults.py"

BREAKS = [
    Break(
        1,
        "the end of a block does not look whether an error was swallowed",
        "pgq_py/_async/transaction.py",
        "conn.info.transaction_status == TransactionStatus.INERROR:",
        "False:",
        "tests/test_py_transactions.py -k swallowed_in_a_block",
    ),
    Break(
        2,
        "a connection lost while committing is taken for any lost one",
        "pgq_py/errors.py",
        "unknown = committing and state not in _ROLLED_BACK",
        "unknown = False",
        f"{FAILURES} -k answer_is_lost_can_be_repeated",
    ),
    Break(
        2,
        "the unknown put does not say its key",
        "pgq_py/errors.py",
        "made.dedupe_key = dedupe_key",
        "made.dedupe_key = None",
        f"{FAILURES} -k answer_is_lost_can_be_repeated",
    ),
    Break(
        3,
        "a put forgets its key",
        "pgq_py/calls.py",
        "[dedupe_key], headers, max_attempts, notify",
        "[None], headers, max_attempts, notify",
        f"{FAILURES} -k cancelled_can_be_repeated_with_its_key",
    ),
    Break(
        4,
        "the id of a put that was not new is a new one",
        PUT_KEYS,
        "else _queue_find(_queue_put_keys.queue, u.dedupe_key)",
        "else u.new_id",
        "tests/test_sql_dedupe.py -k same_key_gives_the_id",
    ),
    Break(
        5,
        "a conflict is repeated inside the caller's transaction",
        "pgq_py/_async/session.py",
        """                if not await self.is_own():
                    raise
                await async_sleep(""",
        """                await async_sleep(""",
        f"{FAILURES} -k key_above_read_committed",
    ),
    Break(
        6,
        "a conflict is not repeated in a transaction of our own",
        "pgq_py/_async/session.py",
        """                if not await self.is_own():
                    raise
                await async_sleep(""",
        """                raise
                await async_sleep(""",
        f"{ERRORS} -k get_that_lost_is_repeated",
    ),
    Break(
        7,
        "the rows of a batch are inserted in the caller's order",
        PUT_KEYS,
        'order by u.dedupe_key collate "C", u.n',
        "order by u.n",
        f"{FAILURES} -k crossing_keys_in_both_orders",
    ),
    Break(
        8,
        "a lease that ran out can be completed with its receipt, if nobody has taken the job",
        "sql/functions/queue_complete.sql",
        "and j.lease_until > v_now",
        "",
        "tests/test_sql_lease.py -k outdated_receipt",
    ),
    Break(
        8,
        "any receipt completes a job that is leased",
        "sql/functions/queue_complete.sql",
        "and j.receipt = queue_complete.receipt",
        "and j.receipt is not null",
        f"{CRASHES} -k stopped_for_too_long",
    ),
    Break(
        9,
        "to complete a job again is an answer of true",
        "sql/functions/queue_complete.sql",
        """    if not found then
        return false;""",
        """    if not found then
        return true;""",
        "tests/test_sql_lease.py -k complete_twice",
    ),
    Break(
        10,
        "take commits before the work",
        "pgq_py/_async/queue.py",
        "        if not jobs:\n            await transaction.__aexit__(None, None, None)",
        "        if True:\n            await transaction.__aexit__(None, None, None)",
        f"{CRASHES} -k killed_in_a_transaction",
    ),
    Break(
        11,
        "an attempt is not counted when it begins",
        "sql/functions/_queue_fail.sql",
        "v_job.attempts >= v_max_attempts",
        "false",
        f"{CRASHES} -k crashes_its_worker",
    ),
    Break(
        11,
        "a lease never ends",
        "sql/functions/queue_lease.sql",
        "    if v_lease is null then",
        "    v_lease := '1 day';\n    if v_lease is null then",
        f"{CRASHES} -k killed_with_a_lease",
    ),
    Break(
        12,
        "a wait ends with the connection",
        "pgq_py/_async/client.py",
        "return self._source.can_reconnect and self._joined() is None",
        "return False",
        "tests/test_py_links.py -k killed_and_restarted",
    ),
    Break(
        13,
        "the end of a session that idled in a transaction is no lost connection",
        "pgq_py/errors.py",
        "elif state in _GONE or (lost and known is None):",
        "elif False:",
        f"{ERRORS} -k idling_in_a_transaction",
    ),
    Break(
        14,
        "a cancelled statement has no class of ours",
        "pgq_py/errors.py",
        '    "57014": (Canceled,',
        '    "5701X": (Canceled,',
        f"{ERRORS} -k statement_timeout",
    ),
    Break(
        15,
        "a migration commits between its statements",
        "pgq_py/migrate.py",
        "conn.execute(step.encode())",
        'conn.execute(step.replace("\\nalter table", "\\ncommit;\\nalter table").encode())',
        "tests/test_migrations.py -k lock_timeout",
    ),
    Break(
        16,
        "a full disk has no class of ours",
        "pgq_py/errors.py",
        '    "53100": (DiskFull,',
        '    "5310X": (DiskFull,',
        f"{SERVER} -k full_disk",
    ),
    Break(
        17,
        "a full queue of notifications has no class of ours",
        "pgq_py/errors.py",
        '    "54000": (',
        '    "5400X": (',
        f"{SERVER} -k full_queue_of_notifications",
    ),
    Break(
        17,
        "a put with notify=False notifies",
        "sql/functions/queue_put.sql",
        "if queue_put.notify and not",
        "if not",
        f"{SERVER} -k full_queue_of_notifications",
    ),
    Break(
        18,
        "notify => false notifies",
        "sql/functions/queue_put.sql",
        "if queue_put.notify and not",
        "if not",
        f"{ERRORS} -k two_phase",
    ),
    Break(
        19,
        "a server that is read-only has no class of ours",
        "pgq_py/errors.py",
        '    "25006": (ReadOnly,',
        '    "2500X": (ReadOnly,',
        f"{ERRORS} -k standby",
    ),
    Break(
        20,
        "a newer schema is used",
        "pgq_py/_async/client.py",
        "if installed > SCHEMA_VERSION:",
        "if False:",
        f"{ERRORS} -k another_version",
    ),
    Break(
        20,
        "an older schema is used",
        "pgq_py/_async/client.py",
        "if installed < SCHEMA_VERSION:",
        "if False:",
        f"{ERRORS} -k another_version",
    ),
    Break(
        21,
        "whoever may put into one queue may put into all",
        "sql/functions/_queue_may.sql",
        "where r.queue in ('', _queue_may.queue)\n                and",
        "where",
        "tests/test_sql_rights.py -k privilege_allows_its_calls",
    ),
    Break(
        21,
        "a refusal by PostgreSQL itself names no grant",
        "pgq_py/errors.py",
        "elif known is NotAllowed and advice is not None and not error.diag.message_hint:",
        "elif False:",
        "tests/test_py_rights.py -k names_queue_privilege",
    ),
    Break(
        22,
        "Python counts the characters of a name, not its bytes",
        "pgq_py/calls.py",
        "size = len(name.encode())",
        "name.encode()\n        size = len(name)",
        f"{ERRORS} -k bad_name",
    ),
    Break(
        22,
        "SQL counts the characters of a name, not its bytes",
        "sql/functions/queue_put.sql",
        "octet_length(queue_put.queue) between",
        "length(queue_put.queue) between",
        "tests/test_sql_names.py -k bad_name",
    ),
    Break(
        23,
        "integers of any size are stored",
        "pgq_py/codecs.py",
        "return not -(2**63) <= data < 2**64",
        "return False",
        "tests/test_py_serializers.py -k not_json_is_refused",
    ),
    Break(
        24,
        "the limit on the size of data is not looked at",
        "sql/functions/_queue_check_limits.sql",
        "if bytes > v_max_bytes then",
        "if false then",
        "tests/test_py_dead.py -k over_the_limit",
    ),
    Break(
        25,
        "a naive datetime is taken for UTC",
        "pgq_py/times.py",
        "if when.utcoffset() is None:",
        "if False:",
        "tests/test_py_times.py -k no_time_is_refused",
    ),
    Break(
        25,
        "an infinite time is stored",
        "sql/functions/_queue_time.sql",
        "if not isfinite(at) then",
        "if false then",
        "tests/test_sql_schedule.py tests/test_sql_put.py",
    ),
    Break(
        26,
        "what can't be read is gone",
        "pgq_py/_async/queue.py",
        "await session.run(calls.bury(row, reason), taking.going(row))",
        "pass",
        "tests/test_py_serializers.py -k can_not_be_read_goes_to_the_dead",
    ),
    Break(
        26,
        "a signature is not looked at",
        "pgq_py/signatures.py",
        "if not sum(hmac.compare_digest(match[1], digest) for digest in self._digests(content)):",
        "if False:",
        "tests/test_py_signed.py -k forged_is_dead",
    ),
    Break(
        26,
        "a signature holds for all queues",
        "pgq_py/signatures.py",
        "fields = (self._queue.encode(), self._codec",
        'fields = (b"", self._codec',
        "tests/test_py_signed.py -k another_queue",
    ),
    Break(
        27,
        "an attempt is counted when it ends",
        "sql/functions/_queue_fail.sql",
        "if _queue_fail.bury or v_job.attempts >= v_max_attempts then",
        "if _queue_fail.bury then",
        f"{CRASHES} -k crashes_its_worker",
    ),
    Break(
        28,
        "our connections have no keepalives",
        "pgq_py/links.py",
        "return {**ours, **given}",
        "return given",
        "tests/test_py_links.py -k have_keepalives",
    ),
    Break(
        28,
        "after the connection nobody listens again",
        "pgq_py/_async/listener.py",
        "            listening.sleepers.add(self)\n            await self._on.run(self._pq.calls.listen(self._queues))",
        "            listening.sleepers.add(self)",
        "tests/test_py_links.py -k cut_is_noticed",
    ),
    Break(
        29,
        "a child uses its parent's connection",
        "pgq_py/_async/session.py",
        """        if os.getpid() != self._pid:
            raise Forked("this connection belongs""",
        """        if False:
            raise Forked("this connection belongs""",
        "tests/test_py_processes.py -k may_not_use_the_parents_connection",
    ),
    Break(
        30,
        "a second thread joins the transaction on the only connection",
        "pgq_py/_async/session.py",
        "if self._holding is not None and self._holding is not session:",
        "if False:",
        "tests/test_py_transactions.py -k second_thread",
    ),
    Break(
        31,
        "a get of none is asked of the server",
        "pgq_py/calls.py",
        "    if not 1 <= count <= 100_000:",
        "    if False:",
        "tests/test_py_put_get.py tests/test_py_batches.py tests/test_py_lease.py -k count",
    ),
    Break(
        31,
        "close leaves who waits asleep",
        "pgq_py/_async/session.py",
        "        if self.is_closed:\n            raise",
        "        if False:\n            raise",
        "tests/test_py_waking.py -k close_ends",
    ),
    Break(
        32,
        "the limit on a queue's depth is not looked at",
        "sql/functions/_queue_check_limits.sql",
        "if v_depth + count > v_max_depth then",
        "if false then",
        "tests/test_py_dead.py -k full_queue",
    ),
]

if __name__ == "__main__":
    sys.exit(main())
