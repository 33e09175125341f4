"""The examples in other languages run, as processes, on a real server."""

import os
import shutil
import subprocess
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
* A paused queue gives nothing.
t
0
t
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


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A copy of the example with its packages installed."""
    if not (shutil.which("node") and shutil.which("npm")):
        # On a bare machine the rest of the suite is worth running; where CI is set, nothing may be left out.
        if os.environ.get("CI"):
            pytest.fail("node and npm are missing: install them (apt-get install nodejs npm)")
        pytest.skip("NOT TESTED, examples/node: node and npm are missing (apt-get install nodejs npm)")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    done = subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_tour_in_node(database, node):
    server = database.server
    url = f"postgres://{server.user}@{quote(server.host, safe='')}:{server.port}/{database.name}"
    done = subprocess.run(
        ["node", "tour.mjs"],
        cwd=node,
        env=os.environ | {"DATABASE_URL": url},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines() == [
        "6 values came back as they went in",
        "a failed job was returned, then done",
        "a sleeping consumer was woken by a put and by the clock",
    ]
    assert done.stderr == ""
