"""The collection of every word of the search vocabulary; quotas of users"""

from collections.abc import Sequence

import sqlalchemy as sa

from alembic import op

revision: str = "0009"
down_revision: str | None = "0008"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

COLLECTIONS = ("departments", "locations", "processes", "resources", "roles", "users")

# Words are added under the name of the trigger's table. Housekeeping first marks the row of an unused word, and deletes
# it once no transaction is left that may have seen the row without the mark.
NOTE_WORDS = """
RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    words text[];
    own_collection text := TG_TABLE_NAME;
BEGIN
    IF TG_LEVEL = 'ROW' THEN
        words := tsvector_to_array(NEW.search_text);
    ELSE
        words := ARRAY(SELECT DISTINCT unnest(tsvector_to_array(search_text)) FROM written);
    END IF;
    INSERT INTO search_vocabulary (collection, word)
    SELECT own_collection, word
      FROM (SELECT unnest(words) COLLATE "C" AS word) AS found
     WHERE char_length(word) >= 4 AND word !~ '[0-9]'
       AND NOT EXISTS (SELECT FROM search_vocabulary AS known
                        WHERE known.word = found.word AND known.collection = own_collection AND NOT known.is_unused);
    RETURN NULL;
END $$"""
# As in revision 0006.
NOTE_WORDS_WITHOUT_COLLECTION = """
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
END $$"""
COLLECT_WORDS = """
INSERT INTO new_words (collection, word)
SELECT '{table}', word FROM ts_stat('SELECT search_text FROM {table}') WHERE char_length(word) >= 4 AND word !~ '[0-9]'
"""

# The arguments of the trigger are the greatest number of rows of one user, the column that tells these rows apart, and
# the column of their age. The lock makes inserts for one user take turns: the statements of a volatile function have
# snapshots of their own, so the count after the lock includes the rows of the transaction that had it before. Only rows
# beyond the number are locked, so that users of the other rows do not wait. Rows that another transaction has locked are
# skipped, as that may be deleting them; the next insert finds those that stay.
KEEP_NEWEST = """
RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(TG_TABLE_NAME, NEW.user_id));
    EXECUTE format(
        'WITH oldest AS MATERIALIZED (
             SELECT %2$I FROM %1$I WHERE user_id = $1 AND %2$I <> ($2).%2$I ORDER BY %3$I DESC OFFSET %4$s - 1
         )
         DELETE FROM %1$I WHERE user_id = $1 AND %2$I IN (
             SELECT %2$I FROM %1$I WHERE user_id = $1 AND %2$I IN (SELECT %2$I FROM oldest) FOR UPDATE SKIP LOCKED)',
        TG_TABLE_NAME, TG_ARGV[1], TG_ARGV[2], TG_ARGV[0]) USING NEW.user_id, NEW;
    RETURN NULL;
END $$"""
QUOTAS = {
    "sessions": "100, 'id', 'last_used_at'",
    "familiar_addresses": "100, 'address', 'last_used_at'",
    "import_plans": "5, 'id', 'expires_at'",
}


def upgrade() -> None:
    _keep_writers_out()
    _replace_words()
    op.create_table(
        "idempotency_usage",
        sa.Column("user_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("responses", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("ends_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("user_id", name=op.f("pk_idempotency_usage")),
    )
    op.execute(f"CREATE FUNCTION keep_newest_rows() {KEEP_NEWEST}")
    for table, arguments in QUOTAS.items():
        op.execute(
            f"CREATE TRIGGER keep_newest_rows AFTER INSERT ON {table} "
            f"FOR EACH ROW EXECUTE FUNCTION keep_newest_rows({arguments})"
        )


def _keep_writers_out() -> None:
    """Make writers of objects wait before their triggers begin, so that they run the new function.

    A trigger that waited inside the old function would then insert a row that the new table rejects.
    """
    op.execute(f"LOCK TABLE {', '.join(COLLECTIONS)} IN SHARE MODE")


def _replace_words() -> None:
    """Replace the words by those that objects have, once a collection. Searches wait for the second half only."""
    op.create_table("new_words", sa.Column("collection", sa.Text()), sa.Column("word", sa.Text(collation="C")))
    for table in COLLECTIONS:
        op.execute(COLLECT_WORDS.format(table=table))
    op.execute("TRUNCATE search_vocabulary")
    op.drop_index("ix_search_vocabulary_letters", "search_vocabulary")
    op.drop_index("ix_search_vocabulary_word", "search_vocabulary")
    op.add_column("search_vocabulary", sa.Column("collection", sa.Text(), nullable=False))
    op.add_column(
        "search_vocabulary", sa.Column("is_unused", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.execute("INSERT INTO search_vocabulary (collection, word) SELECT collection, word FROM new_words")
    op.drop_table("new_words")
    op.create_index("ix_search_vocabulary_word", "search_vocabulary", ["word", "collection"])
    op.create_index(
        "ix_search_vocabulary_letters",
        "search_vocabulary",
        ["letters"],
        postgresql_using="gin",
        postgresql_ops={"letters": "gin_trgm_ops"},
    )
    op.execute(f"CREATE OR REPLACE FUNCTION note_search_words() {NOTE_WORDS}")


def downgrade() -> None:
    _keep_writers_out()
    for table in QUOTAS:
        op.execute(f"DROP TRIGGER keep_newest_rows ON {table}")
    op.execute("DROP FUNCTION keep_newest_rows()")
    op.drop_table("idempotency_usage")
    # A word of several collections becomes several rows, which revision 0006 permits.
    op.drop_index("ix_search_vocabulary_word", "search_vocabulary")
    op.drop_column("search_vocabulary", "is_unused")
    op.drop_column("search_vocabulary", "collection")
    op.create_index("ix_search_vocabulary_word", "search_vocabulary", ["word"])
    op.execute(f"CREATE OR REPLACE FUNCTION note_search_words() {NOTE_WORDS_WITHOUT_COLLECTION}")
