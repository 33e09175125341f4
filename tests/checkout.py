"""A copy of the repository that a test may change: its migrations, its tools, and the commands on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# What names a database or a folder to the commands, and must not reach them from outside.
FOREIGN = ("PG", "DATABASE_URL", "PYTHONPATH", "PYTHONWARNINGS")


class Checkout:
    """The repository at `root`, or a copy of it, with the commands that work there."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = root

    @classmethod
    def copy_to(cls, folder: Path) -> Checkout:
        """Copy what migrating needs."""
        for name in ("sql", "migrations", "tools", "pgq_py"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pgq_py.control", "extension.mk", "alembic.ini"):
            shutil.copy(ROOT / name, folder)
        return cls(folder)

    def run(
        self, *command: str | Path, check: bool = True, given: str | None = None, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the root, with nothing but `environ` naming a database; `given` is its stdin."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environ(**environ),
            **({"stdin": subprocess.DEVNULL} if given is None else {"input": given}),
            capture_output=True,
            text=True,
        )
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    def environ(self, **environ: str) -> dict[str, str]:
        """What a command of the repository finds there, and no name of a database but in `environ`."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        return {**clean, "PYTHONPATH": str(self.root), **environ}

    def python(self, *args: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, *args, **options)

    def make_sql(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.python("tools/make_sql.py", *args, check=check)

    def alembic(self, dsn: str, *args: str, schema: str = "public") -> subprocess.CompletedProcess[str]:
        return self.python("-m", "alembic", "-x", f"dsn={dsn}", "-x", f"schema={schema}", *args)

    def command(self, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `pgq-py`."""
        return self.python("-m", "pgq_py.cli", *args, **options)

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that is there exactly once."""
        file = self.root / path
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new))


def with_second_version(folder: Path) -> Checkout:
    """A copy in which the newest version is released, and one follows it.

    The new one adds a column and a function, changes a function, and drops and makes anew another.
    """
    copy = Checkout.copy_to(folder)
    copy.make_sql()
    copy.make_sql("release")
    copy.make_sql("new", "add_note")
    name = max(path.stem for path in (folder / "migrations" / "versions").glob("*_add_note.py"))
    up, down = f"migrations/versions/{name}.sql", f"migrations/versions/{name}.down.sql"
    copy.edit("sql/schema.sql", "    constraint queue_job_pkey", "    note text,\n    constraint queue_job_pkey")
    copy.edit("sql/functions/queue_count.sql", "as $$\n", "as $$\n-- Changed.\n")
    (folder / "sql" / "functions" / "queue_shout.sql").write_text(
        "create or replace function queue_shout()\nreturns text\nlanguage sql\nstable\nsecurity definer\n"
        "set search_path from current\nas $$\n    select 'AHA'\n$$;\n\n"
        "comment on function queue_shout is 'Says aha.';\n\nrevoke all on function queue_shout from public;\n"
    )
    mark = "\n-- Below this line"
    copy.edit(up, mark, f"\ndrop function queue_channel;\nalter table queue_job add column note text;\n{mark}")
    copy.edit(down, mark, f"\nalter table queue_job drop column note;\n{mark}")
    copy.make_sql()
    return copy
