"""One folding of codes, names, texts and e-mail addresses"""

import json
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.exc import IntegrityError

from alembic import op
from app.utils.folding import LOWER_CASE

revision: str = "0010"
down_revision: str | None = "0009"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

# The columns of text with partial filters.
TEXTS = {
    "departments": (),
    "locations": ("address", "country", "timezone"),
    "processes": (),
    "resources": ("url",),
    "roles": (),
    "users": ("email",),
}
# The unique columns, each with the function that folds it.
KEYS = {table: {"code": "fold"} | ({"email": "fold_email"} if table == "users" else {}) for table in TEXTS}
MAX_COLLISIONS = 100

# How indexes fold a text, a key of a B-tree and an e-mail address, before this revision and after it.
BEFORE = {"text": "lower({})", "key": "lower({})", "email": "lower({})"}
AFTER = {"text": "fold({})", "key": "fold_key({})", "email": "fold_email({})"}

_LETTERS = {chr(upper): chr(lower) for upper, lower in LOWER_CASE.items() if not chr(upper).isascii()}
_JSON = json.dumps(_LETTERS, ensure_ascii=False, separators=(",", ":"))

# The locale of the database takes no part: `lower` with the collation C changes ASCII only, and the table has the rest.
# PostgreSQL's planner replaces the calls of `fold`, `fold_key` and `fold_email` by their expressions, so that ASCII text
# costs no call of a function that is not built in. PL/pgSQL keeps the expressions of `fold_letters` for the session.
FUNCTIONS = {
    # Letters are looked up one by one, so that the time does not depend on which letters a text has.
    "fold_letters(decomposed text)": f"""
RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE COST 10 AS $$
DECLARE
    folded text := lower(decomposed COLLATE "C");
BEGIN
    IF folded ~ '[{"".join(_LETTERS)}]' THEN
        folded := array_to_string(ARRAY(
            SELECT coalesce('{_JSON}'::jsonb ->> letter, letter) FROM string_to_table(folded, NULL) AS letter), '');
    END IF;
    RETURN normalize(folded, NFC);
END $$""",  # noqa: S608 - a constant
    "fold(value text)": """
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(value) = char_length(value) THEN lower(value COLLATE "C")
            ELSE fold_letters(normalize(value, NFKD)) END""",
    # For B-trees, whose keys have a maximum size: a compatibility form may be 18 times as long as the text.
    "fold_key(value text)": """
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN left(fold(value), 500)""",
    "fold_email(value text)": """
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(value) = char_length(value) THEN lower(value COLLATE "C")
            ELSE fold_letters(normalize(value, NFD)) END""",
    # A function of the array, so that the planner can estimate the number of rows.
    "fold_keys(keys text[])": """
RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ARRAY(SELECT fold_key(key) FROM unnest(keys) AS key)""",
}


def upgrade() -> None:
    # Until the first index is built, this is a transaction, which a collision rolls back. After an interruption, all of
    # it runs again.
    for function, definition in FUNCTIONS.items():
        op.execute(f"CREATE OR REPLACE FUNCTION {function} {definition}")
    _reject_collisions()
    _replace_indexes(_indexes(AFTER), "folded")


def downgrade() -> None:
    _replace_indexes(_indexes(BEFORE), "lower")
    for function in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {function}")


def _reject_collisions() -> None:
    """Raise an error with the objects whose keys would be equal."""
    lines = []
    for table, keys in KEYS.items():
        for column, fold in keys.items():
            query = sa.text(
                f"SELECT array_agg(id ORDER BY id), array_agg({column} ORDER BY id) FROM {table} "  # noqa: S608
                f"WHERE {column} IS NOT NULL GROUP BY {fold}({column}) HAVING count(*) > 1 ORDER BY 1"
            )
            for ids, values in op.get_bind().execute(query):
                objects = ", ".join(f"{key} ({value!r})" for key, value in zip(ids, values, strict=True))
                lines.append(f"{table}, {column}: {objects}")
    if lines:
        more = [f"and {len(lines) - MAX_COLLISIONS} more"] if len(lines) > MAX_COLLISIONS else []
        raise CommandError(
            "Codes and e-mail addresses that differ only in case or form will be equal, so these objects would have "
            "the same key. No object is changed. Change all but one key of each line, then migrate again.\n"
            + "\n".join(lines[:MAX_COLLISIONS] + more)
        )


def _indexes(form: Mapping[str, str]) -> dict[str, str]:
    """Return the definition of each index, beginning with the table; unique ones come first."""
    code, email = form["text"].format("code"), form["email"].format("email")
    unique = {f"uq_{table}_code": f"{table} ({code})" for table in TEXTS} | {"uq_users_email": f"users ({email})"}
    others = {"ix_users_email": f"users ({email}, id)"}
    for table, texts in TEXTS.items():
        others[f"ix_{table}_code"] = f"{table} (num_nulls(code), coalesce({code}, ''), id)"
        others[f"ix_{table}_name"] = f"{table} ({form['key'].format('name')}, id)"
        columns = ("code", "external_id", "name", "description", *texts)
        trigrams = (f"{form['email' if name == 'email' else 'text'].format(name)} gin_trgm_ops" for name in columns)
        others[f"ix_{table}_text"] = f"{table} USING gin ({', '.join(trigrams)})"
    return unique | others


def _replace_indexes(definitions: Mapping[str, str], suffix: str) -> None:
    """Build indexes under names of their own while the service writes, then give them the names of the former ones."""
    with op.get_context().autocommit_block():
        # Waits for transactions that are older, but keeps none waiting.
        op.execute("SET lock_timeout = '1min'")
        try:
            for name, definition in definitions.items():
                _build(f"{name}_{suffix}", definition, unique=name.startswith("uq_"))
        finally:
            op.execute("RESET lock_timeout")
    op.execute(f"LOCK TABLE {', '.join(TEXTS)} IN ACCESS EXCLUSIVE MODE")
    for name in definitions:
        op.execute(f"DROP INDEX {name}")
        op.execute(f"ALTER INDEX {name}_{suffix} RENAME TO {name}")


def _build(name: str, definition: str, *, unique: bool) -> None:
    """Build an index unless an earlier run has built it. What an interrupted run has left is not valid."""
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)").bindparams(name=name)
    if op.get_bind().scalar(valid):
        return
    op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    try:
        op.execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY {name} ON {definition}")
    except IntegrityError:
        # The invalid index would still reject writes.
        op.execute(f"DROP INDEX CONCURRENTLY {name}")
        _reject_collisions()
        raise
