"""What alembic runs: find the database and the schema, then the migrations in one transaction."""

from logging.config import fileConfig

from alembic import context
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pgq_py import migrate


def configure(schema, **where):
    """A version table of our own, in the schema itself: several installations in one database don't meet."""
    context.configure(version_table=migrate.VERSION_TABLE, version_table_schema=schema, **where)


def run(schema):
    # `alembic current` and its like only read: they come without a function that migrates.
    reading = context.get_context().opts.get("dont_mutate")
    with context.begin_transaction():
        if not reading:
            migrate.run_text(context.get_context(), migrate.before(schema))
        context.run_migrations()
        if not reading:
            migrate.run_text(context.get_context(), migrate.after())


def offline(schema):
    """Print a script for psql."""
    configure(schema, dialect_name="postgresql")
    run(schema)


def online(schema, dsn):
    if dsn is None:
        raise CommandError("no database is named: set DATABASE_URL or PGHOST, or give -x dsn=postgresql://…")
    # psycopg reads the DSN, so that all of libpq's forms work, and not SQLAlchemy's alone.
    engine = create_engine("postgresql+psycopg://", creator=lambda: migrate.connect(dsn), poolclass=NullPool)
    with engine.connect() as connection:
        configure(schema, connection=connection)
        run(schema)


def main():
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    given = context.get_x_argument(as_dictionary=True)
    schema = given.get("schema", "public")
    if context.is_offline_mode():
        offline(schema)
    else:
        online(schema, migrate.named_dsn(given.get("dsn")))


main()
