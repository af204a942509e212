"""Times that never go back"""

from collections.abc import Sequence

from alembic import op

revision: str = "0012"
down_revision: str | None = "0011"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


# The columns that have the time of a creation by default.
COLUMNS = {
    **dict.fromkeys(
        ("departments", "locations", "processes", "resources", "roles", "users"), ("created_at", "updated_at")
    ),
    "api_tokens": ("created_at",),
    "changes": ("at",),
}


def upgrade() -> None:
    _set_default("statement_timestamp()")


def downgrade() -> None:
    _set_default("now()")


def _set_default(expression: str) -> None:
    # Changes the catalogue only. The former version relies on the same defaults, and writes with either.
    for table, columns in COLUMNS.items():
        for column in columns:
            op.execute(f"ALTER TABLE {table} ALTER {column} SET DEFAULT {expression}")
