"""Suggests the nearest known name for an unknown name."""

import difflib
import re
from collections.abc import Iterator, Sequence

# Longer names are not typing errors, and take long to compare.
_MAX_COMPARED_LENGTH = 64
# Names less similar than this have only letters in common (`difflib`).
_MIN_SIMILARITY = 0.6

# Names that other services use. The first of several suggestions that is known counts.
_FOREIGN_NAMES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("order", "order_by", "orderby", "ordering", "sort_by", "sortby", "sort_order"), ("sort",)),
    **dict.fromkeys(
        ("page", "page_number", "page_token", "after", "before", "next", "starting_after"), ("cursor", "offset")
    ),
    **dict.fromkeys(("page_size", "pagesize", "per_page", "perpage", "size", "top", "max", "max_results"), ("limit",)),
    **dict.fromkeys(("skip", "start", "from", "start_index"), ("offset",)),
    **dict.fromkeys(("search", "query", "text", "term", "keyword", "filter"), ("q", "name__ic")),
    **dict.fromkeys(("select", "columns", "only", "attributes"), ("fields",)),
    **dict.fromkeys(("include", "expand", "with", "populate"), ("embed",)),
    **dict.fromkeys(("total", "with_count", "with_total", "include_total", "total_count"), ("count",)),
    **dict.fromkeys(("group", "groupby", "by", "facet"), ("group_by",)),
    **dict.fromkeys(("title", "label"), ("name",)),
    **dict.fromkeys(("user", "user_id", "actor"), ("actor_id", "user_id")),
}
_SUFFIXES: dict[str, str] = {
    **dict.fromkeys(("ic", "icontains", "contains", "like", "ilike"), "__ic"),
    **dict.fromkeys(("sw", "startswith", "istartswith", "starts_with", "prefix"), "__sw"),
    **dict.fromkeys(("gte", "ge", "min", "from", "since"), "__gte"),
    **dict.fromkeys(("gt", "after"), "__gt"),
    **dict.fromkeys(("lte", "le", "max", "until", "to"), "__lte"),
    **dict.fromkeys(("lt", "before"), "__lt"),
    **dict.fromkeys(("not", "ne", "neq", "not_in", "nin", "exclude"), "__not"),
    **dict.fromkeys(("null", "isnull", "is_null", "exists"), "__null"),
    **dict.fromkeys(("in", "eq", "exact", "iexact", "is"), ""),
}
_SUFFIXED = re.compile(rf"(.+?)_{{1,2}}({'|'.join(_SUFFIXES)})")


def nearest_name(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that the client probably meant, or None if no name is similar."""
    if len(name) > _MAX_COMPARED_LENGTH:
        return None
    spelling = _normalise(name)
    for candidate in _candidates(spelling):
        if candidate in known:
            return candidate
    return _closest_name(spelling, known)


def name_hint(name: str, known: Sequence[str], kind: str = "names") -> str:
    """Return a sentence with the nearest known name, or else with all known names; empty if there are none."""
    near = nearest_name(name, known)
    if near:
        return f"Did you mean {near}?"
    return f"Known {kind}: {', '.join(known)}." if known else ""


def listed_name_hint(name: str, known: Sequence[str], kind: str = "names") -> str:
    """Return the hint for an unknown name in a comma-separated list; see `name_hint`."""
    hint = name_hint(name, known, kind)
    is_separated = name != "" and name == name.strip()
    return hint if is_separated else f"Separate names by commas without blanks, and leave none empty. {hint}"


def _normalise(name: str) -> str:
    """Return a name such as `createdAt`, `created-at[gte]` or `Status[]` in the spelling of this API."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9_]+", "_", words.lower()).strip("_")


def _candidates(name: str) -> Iterator[str]:
    yield name
    yield from _FOREIGN_NAMES.get(name, ())
    suffixed = _SUFFIXED.fullmatch(name)
    if suffixed is not None:
        field, suffix = suffixed[1], _SUFFIXES[suffixed[2]]
        # `created_after` means `created_at__gt`, and `owner__null` means `owner_id__null`.
        yield from (f"{field}{end}{suffix}" for end in ("", "_at", "_id"))
    yield f"{name}_id"
    yield f"{name.removesuffix('s')}_id"


def _closest_name(name: str, known: Sequence[str]) -> str | None:
    # Compare a misspelt field without its suffix, with which another field could be more similar.
    suffixed = _SUFFIXED.fullmatch(name)
    if suffixed is not None:
        near = difflib.get_close_matches(suffixed[1], known, n=1, cutoff=_MIN_SIMILARITY)
        if near:
            full_name = near[0] + _SUFFIXES[suffixed[2]]
            return full_name if full_name in known else near[0]
    near = difflib.get_close_matches(name, known, n=1, cutoff=_MIN_SIMILARITY)
    return near[0] if near else None
