"""The command that shows the queue at work."""

from __future__ import annotations

import click

from . import database, dsn_option


@click.command("demo")
@dsn_option
def demo_command(dsn: str | None) -> int:
    """Do real work, end to end: a job for each file of Python's standard library.

    \b
        $ pgq-py demo

    Four processes work, one of them is killed half-way, and at the end every result is compared with a plain walk over
    the files. It uses a schema of its own, `pgq_py_demo`.
    """
    from .. import demo

    return demo.main(database(dsn))
