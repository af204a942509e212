"""Filters of the history"""

from collections.abc import Iterable, Mapping, Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0013"
down_revision: str | None = "0012"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The members of a change, each with its type and action: one look-up finds the rare ones of all three.
FUNCTIONS = {
    "change_members(type text, action text, before jsonb, after jsonb)": """
RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT type || '.' || action || '.' || member
               FROM jsonb_object_keys(coalesce(before, '{}') || coalesce(after, '{}')) AS member)"""
}

# `action` comes first: an index that began as `ix_changes_object` does would be replaced by it in some plans.
NEW = {
    "ix_changes_action": "(action, type, id)",
    "ix_changes_actor": "(actor_id, action, type, id)",
    "ix_changes_day": "((timezone('UTC', at)::date), id)",
    "ix_changes_code": "(fold(object_code), id) WHERE object_code IS NOT NULL",
    "ix_changes_members": "USING gin (change_members(type, action, before, after)) WITH (gin_pending_list_limit = 64)",
}
FORMER = {"ix_changes_actor_id": "(actor_id, id)", "ix_changes_type": "(type, id)"}


def upgrade() -> None:
    # Committed before the first index is built. After an interruption, all of it runs again.
    for function, definition in FUNCTIONS.items():
        op.execute(f"CREATE OR REPLACE FUNCTION {function} {definition}")
    _replace(FORMER, NEW)


def downgrade() -> None:
    _replace(NEW, FORMER)
    for function in FUNCTIONS:
        op.execute(f"DROP FUNCTION {function}")


def _replace(old: Iterable[str], new: Mapping[str, str]) -> None:
    """Replace indexes while the service reads and writes. Builds wait for older transactions, but keep none waiting."""
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '1min'")
        try:
            for name, definition in new.items():
                _build(name, definition)
            for name in old:
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        finally:
            op.execute("RESET lock_timeout")


def _build(name: str, definition: str) -> None:
    """Build an index unless an earlier run has built it. What an interrupted run has left is not valid."""
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)").bindparams(name=name)
    if not op.get_bind().scalar(valid):
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE INDEX CONCURRENTLY {name} ON changes {definition}")
