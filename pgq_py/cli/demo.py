"""The command that shows the queue at work."""

from __future__ import annotations

import click

from . import database, dsn_option


@click.command("demo")
@dsn_option
def demo_command(dsn: str | None) -> int:
    """Do real work, end to end: a job for each file of Python's standard library."""
    from .. import demo

    return demo.main(database(dsn))
