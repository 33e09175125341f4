"""Make docs/cli.md from the help texts of the command line.

    python tools/make_cli.py            writes it
    python tools/make_cli.py --check    exits with 1 if it is out of date

Works on the commands alone: no server is needed.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from pgq_py.cli import COMMANDS, EXIT_CODES, main

PAGE = Path(__file__).parent.parent / "docs" / "cli.md"

OPENING = """\
# The command line

<!-- Made by tools/make_cli.py from the help texts in pgq_py/cli/. Edit those. -->

    pip install "pgq-py[cli]"

What is asked for comes on stdout, all else on stderr. Commands that read take `--json`, and print JSON lines: an
object a line, whether there is one or many. On a terminal there are tables and colours; with `NO_COLOR`, or where the
output is no terminal, there are none.

A command that removes more than the jobs it names (`clear`, `drop`, `dead delete`, `migrate --down`) asks on a
terminal. Without one it refuses, unless it is told `--yes`.

## The database

Each command that works on a database takes

| option | |
|---|---|
| --dsn DSN | the database, as `postgresql://…` or key=value pairs |
| --schema NAME | where the queue is installed; `public` by default, or what `PGQ_PY_SCHEMA` says |

Without `--dsn` it is what `PGQ_PY_DSN` says, else `DATABASE_URL`, else libpq's `PGHOST`, `PGDATABASE`, `PGSERVICE` and
so on. With none of them, a PostgreSQL of this package's own is started, in a folder that `PGQ_PY_HOME` names; that is
said on stderr. Leave passwords to `PGPASSWORD`, `PGPASSFILE` or a service: other users of a machine may see arguments.
None is ever printed.

A database whose schema is of another version than the package is refused with the command that helps; `version`,
`check` and `migrate` work on it.
"""

COMPLETION = """\
## Completion

The shell completes commands, options and, where the database is named and answers, the names of queues. In `~/.bashrc`,
`~/.zshrc` or `~/.config/fish/completions/pgq-py.fish`:

```console
$ eval "$(_PGQ_PY_COMPLETE=bash_source pgq-py)"
$ eval "$(_PGQ_PY_COMPLETE=zsh_source pgq-py)"
$ _PGQ_PY_COMPLETE=fish_source pgq-py | source
```

Bash must be 4.4 or later.
"""
# Said once, at the top.
COMMON = {"--dsn", "--schema", "--help"}


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """A command, or the commands of a group after it."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for part in command.list_commands(context):
            found = command.get_command(context, part)
            assert found is not None
            yield from commands(found, f"{name} {part}")


def paragraphs(text: str) -> str:
    """A help text as Markdown: its examples are blocks of commands."""
    parts = []
    for part in inspect.cleandoc(text).split("\n\n"):
        block = part.removeprefix("\b\n")
        if block != part:
            parts.append("```console\n" + inspect.cleandoc(block) + "\n```")
        else:
            parts.append(part)
    return "\n\n".join(parts)


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def options(command: click.Command, context: click.Context) -> str:
    """The command's own options as a table; "" where there are none."""
    rows = []
    for param in command.get_params(context):
        if not isinstance(param, click.Option) or COMMON & set(param.opts):
            continue
        kind = "" if param.is_flag else " " + (param.metavar or param.type.name).upper().removesuffix(" RANGE")
        default = param.default if param.show_default else None
        text = " ".join((param.help or "").split()) + (f" By default {default}." if default is not None else "")
        cells = (", ".join(param.opts) + kind, text)
        rows.append(row(*cells))
    return "\n".join(["| option | |", "|---|---|", *rows]) + "\n" if rows else ""


def arguments(command: click.Command, context: click.Context) -> str:
    """How the command is called."""
    pieces = ["|".join(command.list_commands(context))] if isinstance(command, click.Group) else []
    for param in command.get_params(context):
        if isinstance(param, click.Argument):
            name = param.metavar or (param.name or "").upper()
            if isinstance(param.type, click.Choice):
                name = "|".join(param.type.choices)
            if param.metavar is None:
                name += "..." if param.nargs != 1 else ""
                name = name if param.required else f"[{name}]"
            pieces.append(name)
    return " ".join(pieces)


def page() -> str:
    """The whole text of docs/cli.md."""
    codes = "\n".join(row(str(code), meaning) for code, meaning in EXIT_CODES.items())
    parts = [OPENING, f"## Exit codes\n\n| code | |\n|---|---|\n{codes}\n", COMPLETION]
    context = click.Context(main)
    for subject, names in COMMANDS.items():
        parts.append(f"## {subject}\n")
        for name in names:
            found = main.get_command(context, name)
            assert found is not None
            for full, command in commands(found, name):
                inner = click.Context(command, info_name=full)
                usage = f"pgq-py {full} {arguments(command, inner)}".strip()
                text = f"### {full}\n\n    {usage}\n\n{paragraphs(command.help or '')}\n"
                parts += [text, *filter(None, [options(command, inner)])]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts))


def write() -> None:
    """Write the page, or check it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if not PAGE.exists() or PAGE.read_text() != text:
            raise SystemExit("docs/cli.md is out of date: run `make reference`")
        return
    PAGE.write_text(text)


if __name__ == "__main__":
    write()
