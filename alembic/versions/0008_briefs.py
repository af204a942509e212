"""Of every object the JSON of its brief; no object of a tree is its own parent"""

from collections.abc import Sequence

from alembic import op

revision: str = "0008"
down_revision: str | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLLECTIONS = ("departments", "locations", "processes", "resources", "roles", "users")
# `to_json` is not immutable for every type, but for text it is.
FUNCTIONS = {
    "brief_json(id bigint, code text, name text)": """
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN concat('{"id":', id, ',"code":', coalesce(CAST(to_json(code) AS text), 'null'), ',"name":', to_json(name))""",
}
TREES = ("departments", "locations", "processes")
COLUMN = "brief_json text GENERATED ALWAYS AS (brief_json(id, (code)::text, (name)::text)) STORED NOT NULL"


def upgrade() -> None:
    for function, definition in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {function} {definition}")
    for table in COLLECTIONS:
        op.execute(f"ALTER TABLE {table} ADD COLUMN {COLUMN}")
    for table in TREES:
        # One could be made that guessed its own id.
        op.execute(f"UPDATE {table} SET parent_id = NULL WHERE parent_id = id")  # noqa: S608 - of constants
        op.create_check_constraint(op.f(f"ck_{table}_parent_id"), table, "parent_id <> id")


def downgrade() -> None:
    for table in TREES:
        op.drop_constraint(op.f(f"ck_{table}_parent_id"), table)
    for table in COLLECTIONS:
        op.execute(f"ALTER TABLE {table} DROP COLUMN brief_json")
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")
