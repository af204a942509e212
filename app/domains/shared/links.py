"""Sets of links, brought to a wanted state by one statement over arrays, whatever their number."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import MISSING, BaseModel
from sqlalchemy import (
    ARRAY,
    CTE,
    BigInteger,
    ColumnElement,
    Select,
    String,
    Table,
    and_,
    column,
    delete,
    exists,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from app.domains.shared.models import Base, RegisterObject, model_of, table_of
from app.domains.shared.orders import hidden

Link = tuple[int, str | None]

# Of one kind, of one object.
MOST_LINKS = 1000


@dataclass(frozen=True, slots=True)
class LinkSet:
    """One kind of links of a collection.

    `field` is the member of bodies that lists them. `owner` and `target` are the columns of both ends, `detail` is
    that of the link's own field, if it has one, and `default` what it is where a body lists just ids.
    """

    field: str
    model: type[Base]
    owner: str
    target: str
    detail: str | None = None
    default: str | None = None

    @property
    def short(self) -> str:
        """The member of bodies that lists just ids."""
        return f"{self.target}s"

    @property
    def table(self) -> Table:
        return table_of(self.model)

    @property
    def owner_model(self) -> type[RegisterObject]:
        return model_of(self.table.c[self.owner])

    @property
    def target_model(self) -> type[RegisterObject]:
        return model_of(self.table.c[self.target])

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.target,) if self.detail is None else (self.target, self.detail)

    def arguments(self, links: Iterable[Link]) -> dict[str, list[Any]]:
        """Return the statement's arrays, sorted and without repetitions, so that all writers lock in one order."""
        wanted = sorted(set(links), key=lambda link: (link[0], link[1] or ""))
        arrays: dict[str, list[Any]] = {f"{self.field}_{self.target}": [target for target, _ in wanted]}
        if self.detail is not None:
            arrays[f"{self.field}_{self.detail}"] = [detail for _, detail in wanted]
        return arrays

    def inserted(self, owner: ColumnElement[int], after: CTE | None = None) -> CTE:
        """Return the CTE that adds the wanted links which are missing, once `after` has run."""
        wanted = self.wanted()
        rows: Select[Any] = select(owner, *wanted.c)
        if after is not None:
            # A CTE runs before another only if that one reads it: the old owner must go before the new one comes.
            removed = select(func.count()).select_from(after).scalar_subquery()
            rows = rows.where(removed >= literal_column("0"))
        statement = insert(self.table).from_select([self.owner, *self.columns], rows)
        if after is not None:
            statement = statement.on_conflict_do_nothing(index_elements=self.table.primary_key.columns)
        return statement.returning(*(self.table.c[name] for name in self.columns)).cte(f"added_{self.field}")

    def deleted(self, owner: ColumnElement[int]) -> CTE:
        """Return the CTE that removes the links which are not wanted."""
        table, wanted = self.table, self.wanted()
        same = and_(*(wanted.c[name] == table.c[name] for name in self.columns))
        statement = delete(table).where(table.c[self.owner] == owner, ~exists().where(same))
        return statement.returning(*(table.c[name] for name in self.columns)).cte(f"removed_{self.field}")

    def wanted(self) -> Any:
        """Return the wanted links as rows, with the columns of the link table besides the owner."""
        types: dict[str, Any] = {name: BigInteger() if name == self.target else String() for name in self.columns}
        arrays = [hidden(f"{self.field}_{name}", ARRAY(kind)) for name, kind in types.items()]
        columns: list[Any] = [column(name, kind) for name, kind in types.items()]
        return func.unnest(*arrays).table_valued(*columns).render_derived(name=f"wanted_{self.field}")


def wanted_links(body: BaseModel, link_set: LinkSet) -> list[Link] | None:
    """Return the links that a body lists in either form, or None when it is a patch that leaves them as they are."""
    if link_set.short in body.model_fields_set:
        return [(target, link_set.default) for target in getattr(body, link_set.short) or ()]
    links, target, detail = getattr(body, link_set.field), link_set.target, link_set.detail
    if links is MISSING:
        return None
    if detail is None:
        return [(getattr(link, target), None) for link in links or ()]
    return [(getattr(link, target), getattr(link, detail)) for link in links or ()]


def named_targets(body: BaseModel, link_set: LinkSet) -> list[tuple[str, type[RegisterObject], int]]:
    """Return pointer, model and id of every object that a body links to."""
    short = link_set.short in body.model_fields_set
    place = f"/{link_set.short}/{{}}" if short else f"/{link_set.field}/{{}}/{link_set.target}"
    links = wanted_links(body, link_set) or ()
    return [(place.format(index), link_set.target_model, target) for index, (target, _) in enumerate(links)]
