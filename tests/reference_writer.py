"""The reference of single writes, which the fast path must equal: only ORM objects and the unit of work.

Bodies are valid, the caller has every scope, and no other transaction writes at the same time.
"""

from collections.abc import Callable
from typing import Any

from pydantic import ValidationError
from sqlalchemy import func, inspect, select

from app.core.caller import Caller
from app.core.database import RegisterSession
from app.core.database_errors import IntegrityViolation
from app.domains.shared import trees
from app.domains.shared.collection import LinkSet, body_link_targets, body_links
from app.domains.shared.query.representations import default_members
from app.domains.shared.rules import Link
from app.models import Change, Session, User
from app.utils import exceptions as errors
from app.utils.text.folding import fold, fold_email
from app.utils.validation import invalid_content
from tests.catalogue import LINKS

Document = dict[str, Any]
# Whether a write is permitted for an object with this version.
Permits = Callable[[int], bool]
UNUSED_ID = 2**62
BOOKKEEPING = {"id", "version", "created_at", "updated_at", "created_by", "updated_by"}


def always(_version: int) -> bool:
    return True


class ReferenceWriter:
    """Writes one collection; `whole` is the schema of bodies that replace an object, `read` that of documents."""

    def __init__(self, session: RegisterSession, caller: Caller, model: Any, whole: Any, read: Any) -> None:
        self.session, self.caller, self.model, self.whole, self.read = session, caller, model, whole, read
        self.links = LINKS[model.__tablename__]
        self.unknown: list[errors.Fault] = []
        self.columns = [name for name in whole.model_fields if name in inspect(model).columns]
        self.related = {name: relation.mapper.class_ for name, relation in inspect(model).relationships.items()}

    async def with_ids(self, body: Document, schema: Any) -> Document:
        """Return a body with ids in place of keys, if it is valid then; an unknown key becomes an unused id."""
        found = dict(body)
        for name in self.columns:
            if isinstance(body.get(name), dict):
                found[name] = await self._id_of(f"/{name}", self.related[name.removesuffix("_id")], body[name])
        for links in self.links:
            model, short, entries = links.target_model, body.get(links.short), body.get(links.field)
            if short:
                found[links.short] = [await self._id_of(f"/{links.short}/{n}", model, e) for n, e in enumerate(short)]
            if entries:
                found[links.field] = []
            for number, entry in enumerate(entries or ()):
                end = await self._id_of(f"/{links.field}/{number}/{links.target}", model, entry[links.target])
                found[links.field].append(entry | {links.target: end})
        try:
            if body:
                schema.model_validate(found)
        except ValidationError as error:
            raise errors.InvalidContent(errors=[*self.unknown, *invalid_content(error).errors]) from error
        return found

    async def _id_of(self, pointer: str, model: Any, reference: Any) -> int:
        if isinstance(reference, int):
            return reference
        ((column, value),) = reference.items()
        is_named = func.fold(model.code) == fold(value) if column == "code" else model.external_id == value
        found: int | None = await self.session.scalar(select(model.id).where(is_named))
        if found is None:
            self.unknown.append(errors.Fault(pointer, "unknown_reference", ""))
        return found or UNUSED_ID + len(self.unknown)

    async def create(self, body: Document) -> Document:
        row = self.model(created_by_id=self.caller.id, updated_by_id=self.caller.id)
        whole = self.whole.model_validate(body)
        await self._check_depth(whole, None)
        row.id = await self.session.scalar(func.nextval(func.pg_get_serial_sequence(row.__tablename__, "id")))
        await self._check_cycles(whole, None, row.id)
        await self._assign(row, whole, None)
        await self._record(row, "created", None, difference(await self._document(row), {}))
        return await self._document(row)

    async def replace(self, reference: str, body: Document, permits: Permits) -> Document:
        row = await self._find(self.model, reference, permits)
        kept = {name: getattr(row, name) for name in self.columns if name in {"access_level", "is_active"}}
        whole, before = self.whole.model_validate(kept | body), await self._document(row)
        await self._check_rules(row, whole)
        await self._assign(row, whole, row.id)
        after = await self._document(row)
        if before.get("is_active") and not row.is_active:
            for session in await self.session.scalars(select(Session).where(Session.user_id == row.id)):
                await self.session.delete(session)
        await self._record(row, "updated", difference(before, after), difference(after, before))
        return await self._document(row)

    async def patch(self, reference: str, body: Document, permits: Permits) -> Document:
        """Merge a patch (RFC 7396) into the body that the object would have, and replace the object by the result."""
        row = await self._find(self.model, reference, permits)
        whole: Document = {name: getattr(row, name) for name in self.columns}
        for links in (each for each in self.links if each.short not in body):
            pairs = await self._linked(row, links)
            whole[links.field] = [dict(zip(links.columns, pair, strict=False)) for pair in pairs]
        return await self.replace(reference, {k: v for k, v in (whole | body).items() if v is not None}, always)

    async def delete(self, reference: str, permits: Permits) -> None:
        row = await self._find(self.model, reference, permits)
        if self.model is User and row.created_by_id is None:
            raise errors.FirstAdministrator
        if await self._is_last_administrator(row):
            raise errors.LastAdministrator
        try:
            async with self.session.begin_nested():
                before = difference(await self._document(row), {})
                for links in self.links:
                    await self._set_links(row, links, set())
                if self.model is User:
                    row.manager_id = None  # the unit of work cannot delete a row that refers to itself
                await self._record(row, "deleted", before, None)
                await self.session.delete(row)
        except IntegrityViolation as violation:
            raise errors.StillReferenced from violation

    async def link(self, links: LinkSet, owner: str, target: str, detail: str | None, permits: Permits) -> None:
        row, other = await self._find(self.model, owner, permits), await self._find(links.target_model, target)
        kept = {pair for pair in await self._linked(row, links) if links.is_repeatable or pair[0] != other.id}
        await self._change_links(row, links, "linked", kept | {(other.id, detail)})

    async def unlink(self, links: LinkSet, owner: str, target: str, detail: str | None, permits: Permits) -> None:
        row, other = await self._find(self.model, owner, permits), await self._find(links.target_model, target)
        kept = {pair for pair in await self._linked(row, links) if pair[0] != other.id or detail not in {None, pair[1]}}
        await self._change_links(row, links, "unlinked", kept)

    async def set_links(self, links: LinkSet, owner: str, ids: list[int], permits: Permits) -> None:
        row = await self._find(self.model, owner, permits)
        known = set(await self.session.scalars(select(links.target_model.id).where(links.target_model.id.in_(ids))))
        unknown = [f"/{links.short}/{place}" for place, key in enumerate(ids) if key not in known]
        if unknown:
            raise errors.UnknownReference(errors=[errors.Fault(each, "unknown_reference", "") for each in unknown])
        await self._change_links(row, links, "updated", {(key, links.default) for key in ids})

    async def _change_links(self, row: Any, links: LinkSet, action: str, wanted: set[Link]) -> None:
        nothing: Document | None = {} if action == "updated" else None
        try:
            async with self.session.begin_nested():
                gone, new = await self._set_links(row, links, wanted)
        except IntegrityViolation as violation:  # the process has another owner, or another accountable role
            raise errors.Conflict(errors=[errors.Fault(f"/{links.detail}", "conflict", "")]) from violation
        await self._record(row, action, *({links.field: entries} if entries else nothing for entries in (gone, new)))

    async def _find(self, model: Any, reference: str, permits: Permits = always) -> Any:
        code = reference.removeprefix("code:")
        is_named = model.id == int(reference) if code == reference else func.fold(model.code) == fold(code)
        if (row := await self.session.scalar(select(model).where(is_named))) is None:
            raise errors.NotFound
        if not permits(row.version):
            raise errors.PreconditionFailed
        return row

    async def _linked(self, row: Any, links: LinkSet) -> dict[Link, tuple[Any, Document]]:
        """Return each link's row and its entry in the document, in the order of the document."""
        other, (target, *detail) = links.target_model, [getattr(links.model, name) for name in links.columns]
        query = select(links.model, other).join(other, other.id == target).order_by(target, *detail)
        found = {}
        for link, end in await self.session.execute(query.where(getattr(links.model, links.owner) == row.id)):
            own = {name: getattr(link, name) for name in links.columns[1:]}
            entry = {"id": end.id, "code": end.code, "name": end.name, **own}
            found[end.id, own.get(links.detail or "")] = link, entry
        return found

    async def _set_links(self, row: Any, links: LinkSet, wanted: set[Link]) -> tuple[list[Document], list[Document]]:
        """Set the links of an object, and return the removed and the added entries of the document."""
        old = await self._linked(row, links)
        for pair in old.keys() - wanted:
            await self.session.delete(old[pair][0])
        await (
            self.session.flush()
        )  # a unit of work inserts first, but the old owner must be removed before the new one is added
        for pair in wanted - old.keys():
            self.session.add(links.model(**{links.owner: row.id}, **dict(zip(links.columns, pair, strict=False))))
        new = await self._linked(row, links)
        return [old[pair][1] for pair in old if pair not in new], [new[pair][1] for pair in new if pair not in old]

    async def _assign(self, row: Any, whole: Any, own_id: int | None) -> None:
        try:
            async with self.session.begin_nested():
                for name in self.columns:
                    setattr(row, name, getattr(whole, name))
                self.session.add(row)
                await self.session.flush()
                for links in self.links:
                    await self._set_links(row, links, set(body_links(whole, links) or ()))
        except IntegrityViolation as violation:
            raise await self._refusal(whole, own_id) from violation

    async def _document(self, row: Any) -> Document:
        await self.session.refresh(row)
        values: Document = {}
        for links in self.links:
            values[links.field] = [entry for _, entry in (await self._linked(row, links)).values()]
        for name in default_members(self.read) - values.keys():
            key = getattr(row, f"{name}_id" if name in self.related else name)
            values[name] = await self.session.get(self.related[name], key) if key and name in self.related else key
        return dict(self.read.model_validate(values, from_attributes=True).model_dump(mode="json"))

    async def _record(self, row: Any, action: str, before: Document | None, after: Document | None) -> None:
        if not before and not after:
            return  # a write without a difference records no change and keeps the version
        if action in {"updated", "linked", "unlinked"}:
            row.version, row.updated_at, row.updated_by_id = row.version + 1, func.now(), self.caller.id
        by = {"actor_id": self.caller.id, "actor_name": self.caller.name}
        request = {"request_id": self.caller.request_id, "message": self.caller.message}
        of = {"type": row.__tablename__, "object_id": row.id, "object_code": row.code, "object_name": row.name}
        self.session.add(Change(**by, **request, **of, action=action, before=before, after=after))
        await self.session.flush()

    async def _check_rules(self, row: Any, whole: Any) -> None:
        if await self._is_last_administrator(row) and not (whole.access_level == "admin" and whole.is_active):
            fault = errors.Fault("/access_level" if whole.is_active else "/is_active", "last_administrator", "")
            raise await self._refusal(whole, row.id, errors.LastAdministrator(errors=[fault]))
        await self._check_cycles(whole, row.id, row.id)
        if hasattr(whole, "parent_id") and whole.parent_id != row.parent_id:
            await self._check_depth(whole, row.id)

    async def _check_cycles(self, whole: Any, own_id: int | None, new_id: int) -> None:
        for name in ("parent_id", "manager_id"):
            above = getattr(whole, name, None)
            while above not in {None, new_id}:
                above = await self.session.scalar(select(getattr(self.model, name)).where(self.model.id == above))
            if above is not None:
                raise await self._refusal(whole, own_id, errors.Cycle(errors=[errors.Fault(f"/{name}", "cycle", "")]))

    async def _check_depth(self, whole: Any, own_id: int | None) -> None:
        above, ancestors = getattr(whole, "parent_id", None), 0
        while above is not None:
            above = await self.session.scalar(select(self.model.parent_id).where(self.model.id == above))
            ancestors += 1
        if ancestors and ancestors + await self._height(own_id) > trees.MAX_DEPTH:
            fault = errors.Fault("/parent_id", "too_deep", "")
            raise await self._refusal(whole, own_id, errors.TooDeep(errors=[fault]))

    async def _height(self, key: int | None) -> int:
        children = (await self.session.scalars(select(self.model.id).where(self.model.parent_id == key))).all()
        return 0 if key is None else max([1 + await self._height(child) for child in children], default=0)

    async def _is_last_administrator(self, row: Any) -> bool:
        administrators = await self.session.scalars(select(User).where(User.access_level == "admin", User.is_active))
        return administrators.all() == [row]

    async def _refusal(self, whole: Any, own_id: int | None, broken: errors.RegisterError | None = None) -> Exception:
        """Return the error with all faults of a body: the broken rule, duplicate keys and unknown references."""
        duplicates, unknown = [], []
        named = [fault for links in self.links for fault in body_link_targets(whole, links)]
        for name, value in whole.model_dump(include=set(self.columns), exclude_none=True).items():
            column = getattr(self.model, name)
            if name in {"code", "email", "external_id"}:
                is_same = {
                    "code": func.fold(column) == fold(value),
                    "email": func.fold_email(column) == fold_email(value),
                    "external_id": column == value,
                }[name]
                if await self.session.scalar(select(self.model.id).where(is_same, self.model.id != own_id)):
                    duplicates.append(errors.Fault(f"/{name}", "duplicate", ""))
            elif name.endswith("_id"):
                named.append((f"/{name}", self.related[name.removesuffix("_id")], value))
        broken_pointers = {fault.pointer for fault in broken.errors} if broken else set()
        for pointer, model, key in named:
            if pointer not in broken_pointers and await self.session.get(model, key) is None:
                unknown.append(errors.Fault(pointer, "unknown_reference", ""))
        kind = errors.Duplicate if broken is None else errors.Conflict if duplicates else type(broken)
        if unknown:
            kind = errors.InvalidContent if broken or duplicates else errors.UnknownReference
        return kind(errors=[*(broken.errors if broken else ()), *duplicates, *unknown])


def difference(one: Document, other: Document) -> Document:
    """Return the members that differ from another document: briefs by their reference, lists by their entries."""
    found = {}
    for name, value in one.items():
        if name not in BOOKKEEPING and one.get(f"{name}_id", value) != other.get(f"{name}_id", other.get(name)):
            found[name] = value
        if isinstance(value, list):
            found[name] = [entry for entry in value if entry not in other.get(name, ())]
    return {name: value for name, value in found.items() if value != []}
