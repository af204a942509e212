"""Positions in lists: the order by code has no NULL"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLLECTIONS = ("departments", "locations", "processes", "resources", "roles", "users")


def upgrade() -> None:
    for table in COLLECTIONS:
        op.drop_index(f"ix_{table}_code", table)
        op.create_index(
            f"ix_{table}_code", table, [sa.text("(code IS NULL)"), sa.text("coalesce(lower(code), '')"), "id"]
        )


def downgrade() -> None:
    for table in COLLECTIONS:
        op.drop_index(f"ix_{table}_code", table)
        op.create_index(f"ix_{table}_code", table, [sa.text("lower(code)"), "id"])
