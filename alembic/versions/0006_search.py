"""Search: the words of every object, and the vocabulary"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0006"
down_revision: str | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLLECTIONS = ("departments", "locations", "processes", "resources", "roles", "users")

# What a word is must not depend on the locale of a database: so neither PostgreSQL's parser of text nor its dictionaries
# take part. Words are cut at white space and punctuation, and folded: compatibility forms, case, accents and vowel signs
# make no difference (Unicode NFKD). Of scripts that write without blanks, and of symbols, every two neighbours are a
# word, and so is the last one of a run.

# Marks that change nothing: accents, vowel signs of Hebrew and Arabic, joiners and variants.
_MARKS = (
    r"\u0300-\u036f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    r"\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff"
)
_SEPARATORS = (
    r"\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a9\u00ab-\u00b4\u00b6-\u00b9\u00bb-\u00bf\u00d7\u00f7"
    r"\u055a-\u055f\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u060c\u061b\u061f\u066a-\u066d\u06d4\u0964\u0965"
    r"\u1361-\u1368\u1680\u2000-\u206f\u20a0-\u20cf\u3000-\u3004\u3008-\u3020\u3030\u303d\u30fb"
)
# Thai to Tibetan, Burmese, Hangul, Khmer, symbols, Kana, Han, emoji.
_UNSPACED = (
    r"\u0e00-\u109f\u1100-\u11ff\u1780-\u17ff\u2190-\u2bff\u2e80-\u2fff\u3005-\u3007\u3021-\u302f"
    r"\u3031-\u30fa\u30fc-\ud7ff\uf900-\ufaff\U0001f000-\U0001faff\U00020000-\U0003ffff"
)

# Their bodies are parsed here and now, so they do not depend on a search path, which a restore leaves empty.
FUNCTIONS = {
    "search_folded(value text)": rf"""
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN octet_length(value) = char_length(value) THEN lower(value) ELSE normalize(
    replace(replace(replace(translate(
        lower(regexp_replace(normalize(value, NFKD), '[{_MARKS}]+', '', 'g')),
        'ςøđłıħŧ', 'σodliht'), 'ß', 'ss'), 'æ', 'ae'), 'œ', 'oe'),
    NFC) END""",  # noqa: RUF001
    "search_pairs(words text)": rf"""
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN octet_length(words) = char_length(words) OR words !~ '[{_UNSPACED}]' THEN words ELSE
    regexp_replace(regexp_replace(words, '([{_UNSPACED}]+)', ' \1 ', 'g'), '([{_UNSPACED}]{{2}})', '\1 ', 'g')
    || ' ' || regexp_replace(
        regexp_replace(regexp_replace(' ' || words, '[^{_UNSPACED}]+', ' ', 'g'), ' [^ ]', ' ', 'g'),
        '([^ ]{{2}})', '\1 ', 'g')
    END""",
    # The words of a text between blanks, each cut to what no word of a language exceeds.
    "search_words(value text)": rf"""
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN ltrim(regexp_replace(
    search_pairs(regexp_replace(search_folded(value), '[{_SEPARATORS}]+', ' ', 'g')),
    '([^ ]{{64}})[^ ]+', '\1', 'g'))""",
    # The words of what is searched for. In truth it is safe, but a page is read before a parallel worker has started, and
    # what calls this has none.
    "search_asked(value text)": """
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL UNSAFE
RETURN search_words(value)""",
    "search_name_words(code text, name text)": """
RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN (SELECT CAST(concat_ws(' ', '^' || code_words, code_words, '^' || name_words, name_words) AS tsvector)
          FROM (SELECT search_words(code) AS code_words, search_words(name) AS name_words) AS words)""",
    "search_text_words(code text, name text, description text)": """
RETURNS tsvector LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CAST(search_words(concat_ws(' ', code, name, description)) AS tsvector)""",
    "search_letters(word text)": """
RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN octet_length(word) = char_length(word) THEN word ELSE (
    SELECT string_agg(substr('abcdefghijklmnopqrstuvwxyz0123456789', mod(ascii(letter), 36) + 1, 1), '' ORDER BY place)
      FROM regexp_split_to_table(word, '') WITH ORDINALITY AS each (letter, place)
    ) END""",
    "note_search_words()": """
RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    words text[];
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        words := tsvector_to_array(NEW.search_text);
    ELSE
        words := ARRAY(SELECT DISTINCT unnest(tsvector_to_array(search_text)) FROM written);
    END IF;
    INSERT INTO search_vocabulary (word)
    SELECT word
      FROM (SELECT unnest(words) COLLATE "C" AS word) AS found
     WHERE char_length(word) >= 4 AND word !~ '[0-9]'
       AND NOT EXISTS (SELECT FROM search_vocabulary AS known WHERE known.word = found.word);
    RETURN NULL;
END $$""",
}

TRIGGERS = {
    # Once a statement: many objects are added at once.
    "note_search_words_insert": "AFTER INSERT ON {table} REFERENCING NEW TABLE AS written FOR EACH STATEMENT",
    # Once a row, but most changes leave its words as they are.
    "note_search_words_update": "AFTER UPDATE ON {table} FOR EACH ROW WHEN (OLD.search_text <> NEW.search_text)",
}


# Of all rows there are; each word once a collection, which does no harm.
KNOWN_WORDS = """
INSERT INTO search_vocabulary (word)
SELECT word FROM ts_stat('SELECT search_text FROM {table}') WHERE char_length(word) >= 4 AND word !~ '[0-9]'
"""
COLUMNS = {
    "search_name": "search_name_words((code)::text, (name)::text)",
    "search_text": "search_text_words((code)::text, (name)::text, description)",
}


def upgrade() -> None:
    for function, definition in FUNCTIONS.items():
        op.execute(f"CREATE FUNCTION {function} {definition}")
    op.create_table(
        "search_vocabulary",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("word", sa.Text(collation="C"), nullable=False),
        sa.Column("letters", sa.Text(), sa.Computed("search_letters(word)", persisted=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_search_vocabulary"),
    )
    for table in COLLECTIONS:
        # Both at once: each makes PostgreSQL write the table anew.
        added = ", ".join(
            f"ADD {name} tsvector GENERATED ALWAYS AS ({words}) STORED NOT NULL" for name, words in COLUMNS.items()
        )
        op.execute(f"ALTER TABLE {table} {added}")
        for name in COLUMNS:
            op.create_index(
                f"ix_{table}_{name}",
                table,
                [name],
                postgresql_using="gin",
                postgresql_with={"gin_pending_list_limit": "64"},
            )
        op.execute(KNOWN_WORDS.format(table=table))
    op.create_index("ix_search_vocabulary_word", "search_vocabulary", ["word"])
    op.create_index(
        "ix_search_vocabulary_letters",
        "search_vocabulary",
        ["letters"],
        postgresql_using="gin",
        postgresql_ops={"letters": "gin_trgm_ops"},
    )
    for table in COLLECTIONS:
        for name, when in TRIGGERS.items():
            op.execute(f"CREATE TRIGGER {name} {when.format(table=table)} EXECUTE FUNCTION note_search_words()")


def downgrade() -> None:
    for table in COLLECTIONS:
        for name in TRIGGERS:
            op.execute(f"DROP TRIGGER {name} ON {table}")
        for name in COLUMNS:
            op.drop_column(table, name)
    op.drop_table("search_vocabulary")
    for function in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {function}")
