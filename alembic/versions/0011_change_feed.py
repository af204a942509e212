"""The feed of changes"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0011"
down_revision: str | None = "0010"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEX = "ix_changes_transaction_id"


def upgrade() -> None:
    # First, so that after an interruption all of it runs again.
    with _concurrently():
        valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)").bindparams(name=INDEX)
        if not op.get_bind().scalar(valid):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
            op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON changes (transaction_id, id)")
    op.create_table(
        "feed_state",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.Uuid(), nullable=False),
        sa.Column("cluster", sa.String(length=64), nullable=False),
        sa.Column("row_version", sa.BigInteger(), nullable=False),
        sa.Column("settled_through", sa.BigInteger(), nullable=False),
        sa.Column("live_from", sa.BigInteger(), nullable=False),
        sa.Column("thinnings", sa.BigInteger(), nullable=False),
        sa.Column("thinned_before", postgresql.ARRAY(sa.BigInteger()), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_feed_state_single")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_feed_state")),
    )


def downgrade() -> None:
    with _concurrently():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
    op.drop_table("feed_state")


@contextmanager
def _concurrently() -> Iterator[None]:
    """Run statements outside a transaction. They wait for older transactions, but keep none waiting."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '1min'")
        try:
            yield
        finally:
            op.execute("RESET lock_timeout")
