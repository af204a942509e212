"""Indexes of the filters and orders of lists"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0005"
down_revision: str | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The columns of text besides those that every collection has.
TEXTS = {
    "departments": (),
    "locations": ("address", "country", "timezone"),
    "processes": (),
    "resources": ("url",),
    "roles": (),
    "users": ("email",),
}
CRITICALITY = "coalesce(array_position(ARRAY['low', 'medium', 'high', 'critical']::text[], criticality::text), 5)"
OTHERS = {
    "locations": ("kind", "latitude", "longitude"),
    "processes": ("kind", "status", "criticality"),
    "resources": ("kind", "criticality"),
    "users": ("email", "access_level", "is_active"),
}
EXPRESSIONS = {"criticality": sa.text(CRITICALITY), "email": sa.text("lower(email)")}


def upgrade() -> None:
    # Trusted: whoever may create things in the database may create it.
    op.execute("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    for table, texts in TEXTS.items():
        op.drop_index(f"ix_{table}_code", table)
        op.create_index(
            f"ix_{table}_code", table, [sa.text("num_nulls(code)"), sa.text("coalesce(lower(code), '')"), "id"]
        )
        op.create_index(f"ix_{table}_version", table, ["version", "id"])
        trigrams = [
            sa.text(f"lower({name}) gin_trgm_ops") for name in ("code", "external_id", "name", "description", *texts)
        ]
        op.create_index(f"ix_{table}_text", table, trigrams, postgresql_using="gin")
        for name in _nullable(texts):
            op.create_index(f"ix_{table}_{name}_null", table, [sa.text(f"num_nulls({name})"), "id"])
        for name in OTHERS.get(table, ()):
            op.create_index(f"ix_{table}_{name}", table, [EXPRESSIONS.get(name, name), "id"])


def downgrade() -> None:
    for table, texts in TEXTS.items():
        names = ["version", "text", *OTHERS.get(table, ()), *(f"{name}_null" for name in _nullable(texts))]
        for name in names:
            op.drop_index(f"ix_{table}_{name}", table)
        op.drop_index(f"ix_{table}_code", table)
        op.create_index(
            f"ix_{table}_code", table, [sa.text("(code IS NULL)"), sa.text("coalesce(lower(code), '')"), "id"]
        )
    # The extension stays: something else may have come to use it.


def _nullable(texts: tuple[str, ...]) -> tuple[str, ...]:
    return ("external_id", "description", *(name for name in texts if name != "email"))
