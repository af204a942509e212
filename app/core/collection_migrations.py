"""Creates and drops the tables of collections and links, for the revisions in `alembic/versions`.

`create_collection` creates the columns and indexes that `RegisterObject` and `register_table` declare, and the triggers
of search, which Alembic does not see; `create_link_table` creates the columns that `link_end` declares. A landed
revision runs this code in every new database, so the functions of this module are as frozen as the revision
(`tests/test_migrations.py` has the digest): if collections get more columns, add a function for new revisions.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from alembic import op

# Copies, so that a change of the models does not change a revision.
_NAMING_CONVENTION = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
_GENERATED: dict[str, tuple[Any, str]] = {
    "search_name": (TSVECTOR(), "search_name_words((code)::text, (name)::text)"),
    "search_text": (TSVECTOR(), "search_text_words((code)::text, (name)::text, description)"),
    "brief_json": (sa.Text(), "brief_json(id, (code)::text, (name)::text)"),
}
_TRIGGERS = {
    "note_search_words_insert": "AFTER INSERT ON {table} REFERENCING NEW TABLE AS written FOR EACH STATEMENT",
    "note_search_words_update": "AFTER UPDATE ON {table} FOR EACH ROW WHEN (OLD.search_text <> NEW.search_text)",
}


def create_collection(
    name: str,
    *items: sa.schema.SchemaItem,
    tree: bool = False,
    texts: tuple[str, ...] = (),
    exact_texts: tuple[str, ...] = (),
) -> None:
    """Create the table of a collection, with its indexes and triggers.

    `items` are the collection's own columns, then constraints and indexes over them. A CHECK has its name of the model,
    without `ck_` and the table. `tree`, `texts` and `exact_texts` are those of `register_table`.
    """
    metadata = sa.MetaData(naming_convention=_NAMING_CONVENTION)
    parent = [reference("parent_id", name)] if tree else []
    table = sa.Table(name, metadata, *_first_columns(), *parent, *items, *_last_columns())
    if tree:
        table.append_constraint(sa.CheckConstraint("parent_id <> id", name="parent_id"))
    _add_indexes(table, tree=tree, texts=texts, exact_texts=exact_texts)
    _create(table)
    for trigger, when in _TRIGGERS.items():
        op.execute(f"CREATE TRIGGER {trigger} {when.format(table=name)} EXECUTE FUNCTION note_search_words()")


def drop_collection(name: str) -> None:
    """Drop the table of a collection, with its indexes and triggers, and delete its words."""
    op.drop_table(name)
    op.execute(sa.text("DELETE FROM search_vocabulary WHERE collection = :name").bindparams(name=name))


def create_link_table(name: str, *items: sa.schema.SchemaItem, owner: tuple[str, str], target: tuple[str, str]) -> None:
    """Create a table of links; `owner` and `target` each name the column and the collection of a side.

    `items` are the links' own columns and constraints, as in `create_collection`. A link is deleted with its owner, and
    prevents the deletion of its target.
    """
    ends = (_link_end(*owner, "CASCADE"), _link_end(*target, "RESTRICT"))
    table = sa.Table(name, sa.MetaData(naming_convention=_NAMING_CONVENTION), *ends, *items)
    sa.Index(f"ix_{name}_{target[0]}", table.c[target[0]], table.c[owner[0]])
    _create(table)


def drop_link_table(name: str) -> None:
    """Drop a table of links."""
    op.drop_table(name)


def reference(name: str, target: str) -> sa.Column[Any]:
    """Return the column of an optional reference to the collection `target`. The caller must add an index on it."""
    return sa.Column(name, sa.BigInteger(), sa.ForeignKey(f"{target}.id", ondelete="RESTRICT"))


def _link_end(name: str, target: str, ondelete: str) -> sa.Column[Any]:
    return sa.Column(name, sa.BigInteger(), sa.ForeignKey(f"{target}.id", ondelete=ondelete), primary_key=True)


def _create(table: sa.Table) -> None:
    """Create a table; add the tables to which its foreign keys refer to its metadata."""
    for key in table.foreign_keys:
        target = key.target_fullname.partition(".")[0]
        if target not in table.metadata.tables:
            sa.Table(target, table.metadata, sa.Column("id", sa.BigInteger(), primary_key=True))
    table.create(op.get_bind())


def _first_columns() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), primary_key=True),
        sa.Column("code", sa.String(64)),
        sa.Column("external_id", sa.String(512)),
        sa.Column("name", sa.String(500), nullable=False),
        sa.Column("description", sa.Text()),
    ]


def _last_columns() -> list[sa.Column[Any]]:
    instant = sa.DateTime(timezone=True)
    return [
        sa.Column("created_at", instant, server_default=sa.text("statement_timestamp()"), nullable=False),
        sa.Column("updated_at", instant, server_default=sa.text("statement_timestamp()"), nullable=False),
        reference("created_by_id", "users"),
        reference("updated_by_id", "users"),
        sa.Column("version", sa.BigInteger(), server_default=sa.text("1"), nullable=False),
        *(
            sa.Column(name, kind, sa.Computed(expression, persisted=True), nullable=False)
            for name, (kind, expression) in _GENERATED.items()
        ),
    ]


def _add_indexes(table: sa.Table, *, tree: bool, texts: tuple[str, ...], exact_texts: tuple[str, ...]) -> None:
    name, columns = table.name, table.c
    sa.Index(f"uq_{name}_code", sa.func.fold(columns.code), unique=True)
    is_known = columns.external_id.is_not(None)
    sa.Index(f"uq_{name}_external_id", columns.external_id, unique=True, postgresql_where=is_known)
    folded_code = sa.func.coalesce(sa.func.fold(columns.code), sa.literal_column("''"))
    sa.Index(f"ix_{name}_code", sa.func.num_nulls(columns.code), folded_code, columns.id)
    for ordered in ("created_at", "updated_at", "version"):
        sa.Index(f"ix_{name}_{ordered}", columns[ordered], columns.id)
    for whole in ("name", *exact_texts):
        sa.Index(f"ix_{name}_{whole}", sa.func.fold_key(columns[whole]), columns.id)
    for nullable in ("external_id", "description", *texts, *exact_texts):
        sa.Index(f"ix_{name}_{nullable}_null", sa.func.num_nulls(columns[nullable]), columns.id)
    for referring in ("created_by_id", "updated_by_id", *(["parent_id"] if tree else [])):
        sa.Index(f"ix_{name}_{referring}", columns[referring])
    trigrams = {
        f"folded_{each}": sa.func.fold(columns[each]).label(f"folded_{each}")
        for each in ("code", "external_id", "name", "description", *texts)
    }
    operators = dict.fromkeys(trigrams, "gin_trgm_ops")
    sa.Index(f"ix_{name}_text", *trigrams.values(), postgresql_using="gin", postgresql_ops=operators)
    for words in ("search_name", "search_text"):
        sa.Index(
            f"ix_{name}_{words}",
            columns[words],
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": "64"},
        )
