"""For a host's own alembic history: `op.pgq_py_upgrade("0001")` and `op.pgq_py_downgrade("base")`.

Alembic finds this module through the entry point `alembic.plugins`.
"""

from __future__ import annotations

from alembic.operations import MigrateOperation, Operations
from alembic.runtime.plugins import Plugin

from . import migrate


class Move(MigrateOperation):
    """Bring the queue from one version to another, in the transaction of the host's migration."""

    def __init__(self, schema: str, revision: str, since: str) -> None:
        self.schema = schema
        self.revision = revision
        self.since = since

    @classmethod
    def pgq_py_upgrade(
        cls, operations: Operations, revision: str, *, schema: str = "public", since: str = migrate.BASE
    ) -> None:
        """Bring the queue in `schema` from version `since` to `revision`: from "base" the first time.

        Raises MigrationError for a version that this package doesn't know.
        """
        operations.invoke(cls(schema, revision, since))

    @classmethod
    def pgq_py_downgrade(cls, operations: Operations, revision: str, *, schema: str = "public", since: str) -> None:
        """Take the queue in `schema` back from version `since` to `revision`; "base" removes it.

        Raises MigrationError for a version that this package doesn't know.
        """
        operations.invoke(cls(schema, revision, since))


def move(operations: Operations, operation: Move) -> None:
    """Run, or offline print, the SQL of the operation."""
    text = migrate.script(operation.schema, operation.revision, operation.since)
    migrate.run_text(operations.get_context(), text)


def setup(plugin: Plugin) -> None:
    """Register the two operations. Alembic calls this when it starts."""
    Operations.register_operation("pgq_py_upgrade")(Move)
    Operations.register_operation("pgq_py_downgrade")(Move)
    Operations.implementation_for(Move)(move)


__all__ = ["Move", "setup"]
