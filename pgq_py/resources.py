"""Where the SQL is: inside the package, or beside it in a checkout or an editable install."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def _find(marker: str) -> Path:
    """The folder that holds `marker`, a path whose first part is that folder."""
    for base in (_PACKAGE, _PACKAGE.parent):
        if (base / marker).is_file():
            return base / marker.partition("/")[0]
    raise FileNotFoundError(f"{marker} is neither in {_PACKAGE} nor beside it: the installation is incomplete")


def sql() -> Path:
    """The folder of schema.sql and functions/."""
    return _find("sql/schema.sql")


def migrations() -> Path:
    """The folder of alembic's env.py and of versions/."""
    return _find("migrations/env.py")


def versions() -> list[str]:
    """The names of all migrations, like 0001_queue, the oldest first."""
    return sorted(path.stem for path in (migrations() / "versions").glob("[0-9][0-9][0-9][0-9]_*.py"))
