"""The versions: of the package, and of the schema it works with."""

__version__ = "0.1.0.dev0"

SCHEMA_VERSION = "0001"
"""The newest migration: alembic's revision, the extension's version and `queue_version()`."""
