"""Import plans, and what became of imported objects"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from alembic import op

revision: str = "0007"
down_revision: str | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "import_plans",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.BigInteger(), nullable=False),
        sa.Column("collection", sa.String(length=64), nullable=False),
        sa.Column("options", postgresql.JSONB(), nullable=False),
        sa.Column("file", sa.LargeBinary(), nullable=False),
        sa.Column("basis", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_plans")),
    )
    op.create_index("ix_import_plans_expires_at", "import_plans", ["expires_at"], unique=False)
    op.create_index("ix_import_plans_user_id", "import_plans", ["user_id", "expires_at"], unique=False)
    op.create_table(
        "register_imports",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_register_imports")),
        sa.UniqueConstraint("digest", name=op.f("uq_register_imports_digest")),
    )
    op.create_table(
        "imported_objects",
        sa.Column("import_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("collection", sa.String(length=64), nullable=False),
        sa.Column("old_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("new_id", sa.BigInteger(), nullable=False),
        sa.Column("run", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("import_id", "collection", "old_id", name=op.f("pk_imported_objects")),
    )


def downgrade() -> None:
    op.drop_table("imported_objects")
    op.drop_table("register_imports")
    op.drop_table("import_plans")
