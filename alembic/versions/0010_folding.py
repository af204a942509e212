"""One folding of codes, names, texts and e-mail addresses"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from alembic.util import CommandError
from sqlalchemy.exc import IntegrityError

from alembic import op

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

# A copy of the table of `app/utils/text/folding.py`, apart from ASCII, so that no change there changes this revision.
_LOWER_CASE = """
C6>E6 D0>F0 D8>F8 DE>FE 110>111 126>127 132>133 13F-141>140 14A>14B 152>153 166>167 181>253 182-184>183
186>254 187>188 189-18A>256 18B>18C 18E>1DD 18F>259 190>25B 191>192 193>260 194>263 196>269 197>268 198>199 19C>26F
19D>272 19F>275 1A2-1A4>1A3 1A6>280 1A7>1A8 1A9>283 1AC>1AD 1AE>288 1B1-1B2>28A 1B3-1B5>1B4 1B7>292 1B8>1B9 1BC>1BD
1C4>1C6 1C5>1C6 1C7>1C9 1C8>1C9 1CA>1CC 1CB>1CC 1E4>1E5 1F1>1F3 1F2>1F3 1F6>195 1F7>1BF 21C>21D 220>19E 222-224>223
23A>2C65 23B>23C 23D>19A 23E>2C66 241>242 243>180 244>289 245>28C 246-24E>247 370-372>371 376>377 37F>3F3
391-3A1>3B1 3A3-3A9>3C3 3C2>3C3 3CF>3D7 3D8-3EE>3D9 3F4>3B8 3F7>3F8 3F9>3F2 3FA>3FB 3FD-3FF>37B 402>452 404-406>454
408-40B>458 40F>45F 410-418>430 41A-42F>43A 460-474>461 478-480>479 48A-4BE>48B 4C0>4CF 4C3-4CD>4C4 4D4>4D5 4D8>4D9
4E0>4E1 4E8>4E9 4F6>4F7 4FA-52E>4FB 531-556>561 10A0-10C5>2D00 10C7>2D27 10CD>2D2D 13A0-13EF>AB70 13F0-13F5>13F8
1C90-1CBA>10D0 1CBD-1CBF>10FD 1E9E>DF 1EFA-1EFE>1EFB 2132>214E 2160-216F>2170 2183>2184 24B6-24CF>24D0
2C00-2C2F>2C30 2C60>2C61 2C62>26B 2C63>1D7D 2C64>27D 2C67-2C6B>2C68 2C6D>251 2C6E>271 2C6F>250 2C70>252 2C72>2C73
2C75>2C76 2C7E-2C7F>23F 2C80-2CE2>2C81 2CEB-2CED>2CEC 2CF2>2CF3 A640-A66C>A641 A680-A69A>A681 A722-A72E>A723
A732-A76E>A733 A779-A77B>A77A A77D>1D79 A77E-A786>A77F A78B>A78C A78D>265 A790-A792>A791 A796-A7A8>A797 A7AA>266
A7AB>25C A7AC>261 A7AD>26C A7AE>26A A7B0>29E A7B1>287 A7B2>29D A7B3>AB53 A7B4-A7C2>A7B5 A7C4>A794 A7C5>282
A7C6>1D8E A7C7-A7C9>A7C8 A7D0>A7D1 A7D6-A7D8>A7D7 A7F5>A7F6 FF21-FF3A>FF41 10400-10427>10428 104B0-104D3>104D8
10570-1057A>10597 1057C-1058A>105A3 1058C-10592>105B3 10594-10595>105BB 10C80-10CB2>10CC0 118A0-118BF>118C0
16E40-16E5F>16E60 1E900-1E921>1E922
"""


def _letters() -> Iterator[tuple[str, str]]:
    """Yield each letter in upper case, and in lower case."""
    for run in _LOWER_CASE.split():
        letters, lower = run.split(">")
        first, _, last = letters.partition("-")
        offset = int(lower, 16) - int(first, 16)
        for code in range(int(first, 16), int(last or first, 16) + 1, 2 if offset == 1 else 1):
            yield chr(code), chr(code + offset)


_LETTERS = dict(_letters())
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
    """Return the definition of each index, beginning with the table.

    Unique ones come last. From its build until the swap, the service does not know the name of the index that rejects a
    write, and responds with 500.
    """
    code, email = form["text"].format("code"), form["email"].format("email")
    unique = {f"uq_{table}_code": f"{table} ({code})" for table in TEXTS} | {"uq_users_email": f"users ({email})"}
    others = {"ix_users_email": f"users ({email}, id)"}
    for table, texts in TEXTS.items():
        others[f"ix_{table}_code"] = f"{table} (num_nulls(code), coalesce({code}, ''), id)"
        others[f"ix_{table}_name"] = f"{table} ({form['key'].format('name')}, id)"
        columns = ("code", "external_id", "name", "description", *texts)
        trigrams = (f"{form['email' if name == 'email' else 'text'].format(name)} gin_trgm_ops" for name in columns)
        others[f"ix_{table}_text"] = f"{table} USING gin ({', '.join(trigrams)})"
    return others | unique


def _replace_indexes(definitions: Mapping[str, str], suffix: str) -> None:
    """Build indexes under names of their own while the service writes, then give them the names of the former ones."""
    try:
        # Waits for transactions that are older, but keeps none waiting.
        with _concurrently(lock_timeout="1min"):
            for name, definition in definitions.items():
                _build(f"{name}_{suffix}", definition, unique=_is_unique(name))
        with op.get_bind().begin_nested():
            op.execute(f"LOCK TABLE {', '.join(TEXTS)} IN ACCESS EXCLUSIVE MODE")
            for name in definitions:
                op.execute(f"DROP INDEX {name}")
                op.execute(f"ALTER INDEX {name}_{suffix} RENAME TO {name}")
    except Exception as error:
        # Unique indexes, even invalid ones, reject writes, with names that the service does not know.
        with _concurrently(lock_timeout="0"):
            for name in filter(_is_unique, definitions):
                op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}_{suffix}")
        if isinstance(error, IntegrityError):
            _reject_collisions()
        raise


def _is_unique(name: str) -> bool:
    return name.startswith("uq_")


@contextmanager
def _concurrently(lock_timeout: str) -> Iterator[None]:
    """Run statements outside a transaction."""
    with op.get_context().autocommit_block():
        op.execute(f"SET lock_timeout = '{lock_timeout}'")
        try:
            yield
        finally:
            op.execute("RESET lock_timeout")


def _build(name: str, definition: str, *, unique: bool) -> None:
    """Build an index unless an earlier run has built it. What an interrupted run has left is not valid."""
    valid = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)").bindparams(name=name)
    if not op.get_bind().scalar(valid):
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE {'UNIQUE ' if unique else ''}INDEX CONCURRENTLY {name} ON {definition}")
