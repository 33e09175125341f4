"""Queue. The two files of SQL beside this one say how."""

from pgq_py.migrate import run_file

revision = "0001"
down_revision = None


def upgrade() -> None:
    run_file("0001_queue.sql")


def downgrade() -> None:
    run_file("0001_queue.down.sql")
