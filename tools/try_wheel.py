"""Build the wheel and use it in a clean environment: install, migrate, put, get.

What an editable install can't show: that the wheel carries the SQL, and that its extras are enough.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent

USE = """
import sys
from pgq_py import PQ
pq = PQ.embedded(sys.argv[1])
id = pq["apples"].put({"kind": "Cox"})
job = pq["apples"].get(timeout=10)
assert (job.id, job.data) == (id, {"kind": "Cox"}), job
print("put and got", job, "at schema version", pq.version())
"""


def main() -> int:
    """Exit code 0 if all went well."""
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", ROOT / "dist", ROOT], check=True, stdout=subprocess.DEVNULL
    )
    wheel = max((ROOT / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    print("built", wheel.name)
    with tempfile.TemporaryDirectory(prefix="pgq-wheel-") as folder:
        home = Path(folder)
        venv.create(home / "venv", with_pip=True)
        programs = home / "venv" / "bin"
        data = home / "data"
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PYTHON"))}
        environment.pop("DATABASE_URL", None)
        environment["PGQ_PY_HOME"] = str(data)

        def run(*command: str | Path) -> None:
            subprocess.run(command, check=True, cwd=home, env=environment)

        run(programs / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"{wheel}[cli]")
        run(programs / "pgq-py", "migrate")
        run(programs / "pgq-py", "version")
        run(programs / "python", "-W", "error::DeprecationWarning", "-c", USE, str(data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
