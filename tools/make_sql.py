"""Assemble the newest migration from sql/, so that no function is ever edited in two places.

    make_sql.py             write what is out of date
    make_sql.py --check     write nothing; exit with 1 if something is out of date
    make_sql.py new NAME    begin the next version: three files under migrations/versions
    make_sql.py release     freeze the newest version: note its checksums in migrations/released.txt

A migration has a part written by hand (for 0001: sql/schema.sql), a mark, and below the mark a copy
of each function whose text differs from what the earlier migrations left. The way back has the same
shape: what is written by hand, the mark, and the functions as they were before.
"""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FUNCTIONS = ROOT / "sql" / "functions"
VERSIONS = ROOT / "migrations" / "versions"
RELEASED = ROOT / "migrations" / "released.txt"
CONTROL = ROOT / "pgq_py.control"
PACKAGE = ROOT / "pgq_py" / "_version.py"

MARK = "-- Below this line `make sql` copies from sql/functions; edit the functions there.\n"
SOURCE = re.compile(r"^-- functions/(\w+)\.sql\n", re.MULTILINE)
DROPPED = re.compile(r"^drop function (?:if exists )?(\w+)", re.MULTILINE)

SCRIPT = '''"""{title}. The two files of SQL beside this one say how."""

from pgq_py.migrate import run_file

revision = "{number}"
down_revision = {previous}


def upgrade() -> None:
    run_file("{name}.sql")


def downgrade() -> None:
    run_file("{name}.down.sql")
'''

Functions = dict[str, str]


class Mistake(Exception):
    """What the author of a migration has to put right."""


@dataclass(frozen=True)
class Version:
    """One migration: a number and a name, and from them the paths of its three files."""

    name: str

    @property
    def number(self) -> str:
        """The number: revision, extension version and queue_version()."""
        return self.name[:4]

    @property
    def up(self) -> Path:
        """The way there."""
        return VERSIONS / f"{self.name}.sql"

    @property
    def down(self) -> Path:
        """The way back."""
        return VERSIONS / f"{self.name}.down.sql"

    @property
    def script(self) -> Path:
        """What alembic loads."""
        return VERSIONS / f"{self.name}.py"

    @property
    def files(self) -> list[Path]:
        """All three, which a release freezes."""
        return [self.up, self.down, self.script]


def versions() -> list[Version]:
    """All migrations, the oldest first."""
    return [Version(path.stem) for path in sorted(VERSIONS.glob("[0-9][0-9][0-9][0-9]_*.py"))]


def by_hand(path: Path) -> str:
    """The part of a migration above the mark, as it is."""
    return path.read_text().split(MARK)[0]


def copied(path: Path) -> Functions:
    """The functions below the mark of a migration, by name."""
    parts = SOURCE.split(path.read_text().partition(MARK)[2])
    return {name: text.strip("\n") for name, text in zip(parts[1::2], parts[2::2], strict=True)}


def functions_now() -> Functions:
    """The functions as sql/functions has them, by name."""
    return {path.stem: path.read_text().strip("\n") for path in sorted(FUNCTIONS.glob("*.sql"))}


def functions_after(migrations: list[Version]) -> Functions:
    """The functions that these migrations, run one after the other, leave in a database."""
    left: Functions = {}
    for version in migrations:
        for name in DROPPED.findall(by_hand(version.up)):
            left.pop(name, None)
        left.update(copied(version.up))
    return left


def assemble(hand: str, pieces: list[str]) -> str:
    """The text of a migration: the hand-written part, the mark, the rest."""
    return "\n".join([hand.strip("\n") + "\n", MARK, *(f"{piece}\n" for piece in pieces)])


def with_source(name: str, text: str) -> str:
    """A function's text under the line that says where it comes from."""
    return f"-- functions/{name}.sql\n{text}"


def newest_files(version: Version, earlier: list[Version]) -> dict[Path, str]:
    """What the files of the newest migration should hold."""
    before, now = functions_after(earlier), functions_now()
    hand = by_hand(version.up) if earlier else (ROOT / "sql" / "schema.sql").read_text()
    dropped = set(DROPPED.findall(hand))
    for name in sorted(set(before) - set(now) - dropped):
        raise Mistake(f"{name} is gone from sql/functions: write `drop function {name};` into {version.up.name}")
    changed = [name for name in now if name in dropped or before.get(name) != now[name]]
    restored = [name for name in before if name in changed or name in dropped]
    # What tables have to go after is dropped by hand, above the mark.
    undone = set(DROPPED.findall(by_hand(version.down)))
    added = "\n".join(f"drop function {name};" for name in changed if name not in before and name not in undone)
    return {
        version.up: assemble(hand, [with_source(name, now[name]) for name in changed]),
        version.down: assemble(
            by_hand(version.down),
            [added] * bool(added) + [with_source(name, before[name]) for name in restored],
        ),
        version.script: SCRIPT.format(
            title=version.name[5:].replace("_", " ").capitalize(),
            name=version.name,
            number=version.number,
            previous=f'"{earlier[-1].number}"' if earlier else None,
        ),
    }


def numbered_files(number: str) -> dict[Path, str]:
    """What the other places that name the version should hold."""
    function = FUNCTIONS / "queue_version.sql"
    return {
        function: re.sub(r"select '\d+'", f"select '{number}'", function.read_text()),
        CONTROL: re.sub(r"default_version = '\d+'", f"default_version = '{number}'", CONTROL.read_text()),
        PACKAGE: re.sub(r'SCHEMA_VERSION = "\d+"', f'SCHEMA_VERSION = "{number}"', PACKAGE.read_text()),
    }


def checksum(path: Path) -> str:
    """The line of released.txt for a file."""
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}"


def frozen() -> dict[str, str]:
    """The lines of released.txt by file name."""
    lines = [line for line in RELEASED.read_text().splitlines() if line and not line.startswith("#")]
    return {line.split()[1]: line for line in lines}


def refuse_touched() -> None:
    """Raise Mistake if a released file is not what it was when it was released."""
    for name, line in frozen().items():
        path = VERSIONS / name
        if not path.exists() or checksum(path) != line:
            raise Mistake(f"{name} is released and must not change: put the change into a new migration")


def stale() -> dict[Path, str]:
    """The files that are out of date, each with what it should hold."""
    refuse_touched()
    *earlier, newest = versions()
    wanted = numbered_files(newest.number)
    if newest.script.name not in frozen():
        # The function's number comes first: the migration holds a copy of it.
        differing = {path: text for path, text in wanted.items() if path.read_text() != text}
        return differing or {
            path: text for path, text in newest_files(newest, earlier).items() if path.read_text() != text
        }
    left = functions_after([*earlier, newest])
    if left != functions_now():
        raise Mistake(f"sql/functions changed after {newest.number} was released: start with `make_sql.py new NAME`")
    return {path: text for path, text in wanted.items() if path.read_text() != text}


def check() -> int:
    """Say what is out of date; the exit code."""
    paths = stale()
    for path in paths:
        print(f"{path.relative_to(ROOT)} is out of date: run `make sql`")
    return 1 if paths else 0


def write() -> int:
    """Bring everything up to date; the exit code."""
    while paths := stale():
        for path, text in paths.items():
            path.write_text(text)
            print(f"wrote {path.relative_to(ROOT)}")
    return 0


def new(name: str) -> int:
    """Begin the next version; the exit code."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise Mistake(f"the name of a migration is lower-case letters, digits and underscores, unlike {name!r}")
    newest = versions()[-1]
    if newest.script.name not in frozen():
        raise Mistake(f"{newest.number} is not released yet: add to it instead")
    version = Version(f"{int(newest.number) + 1:04}_{name}")
    version.up.write_text(
        f"-- {name.replace('_', ' ').capitalize()}: say why here, and make the same change in sql/.\n"
    )
    version.down.write_text(f"-- The way back from {version.number}.\n")
    version.script.write_text("")
    return write()


def release() -> int:
    """Freeze the newest version; the exit code."""
    if check():
        return 1
    with RELEASED.open("a") as file:
        for path in versions()[-1].files:
            if path.name not in frozen():
                file.write(checksum(path) + "\n")
    return 0


def main(args: list[str]) -> int:
    """Run one command; the exit code."""
    try:
        match args:
            case []:
                return write()
            case ["--check"]:
                return check()
            case ["new", name]:
                return new(name)
            case ["release"]:
                return release()
            case _:
                print(__doc__, file=sys.stderr)
                return 2
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
