"""Makes the OpenAPI document fit for code generators: names for recurring parts, and no redundant ones."""

import sys
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from app.core.permissions import SCOPES, AccessLevel
from app.domains.change.schemas import CHANGE_TYPES
from app.domains.collections import COLLECTIONS
from app.domains.location.schemas import countries
from app.domains.search.schemas import TYPES
from app.domains.shared.idempotency.store import REPLAYED
from app.domains.shared.models import ChangeAction
from app.domains.shared.query.link_filters import Match
from app.domains.shared.query.reference_parameters import REFERENCE_SCHEMA
from app.utils.exceptions import RegisterError, error_classes, problem_types
from app.utils.problems import MEDIA_TYPE


def _declared_enumerations() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the names and values of the `Literal`s in the models of all collections."""
    for entry in COLLECTIONS:
        for name, value in vars(sys.modules[entry.collection.model.__module__]).items():
            if get_origin(value) is Literal:
                yield name, get_args(value)


# Pydantic repeats the values at every use, so a generated client would have a separate type for each.
_ENUMERATIONS: dict[str, tuple[str, ...]] = {
    **dict(_declared_enumerations()),
    "AccessLevel": get_args(AccessLevel),
    "ChangeAction": get_args(ChangeAction),
    "ChangeType": CHANGE_TYPES,
    "CountryCode": tuple(sorted(countries())),
    "LinkMatch": get_args(Match),
    "Scope": tuple(SCOPES),
    "SearchType": TYPES,
}
# The schemas that the document repeats, and what the shared ones have besides.
_REPEATED: dict[str, dict[str, Any]] = {
    **{name: {"type": "string", "enum": list(values)} for name, values in _ENUMERATIONS.items()},
    "ReferenceParameter": REFERENCE_SCHEMA,
}
_TEXTS: dict[str, dict[str, Any]] = {
    "ReferenceParameter": {
        "description": "An `id`; `code:` and a code, in any case; or `external_id:` and an external id, which requires "
        "the scope to read the collection of the object.",
        "examples": [3, "code:FIN-01", "external_id:HR-7"],
    }
}
_STATUSES = {str(error.status) for error in problem_types()}
# The most general class of each code, apart from `RegisterError` itself.
_NAMES = {error.code: error.__name__ for error in reversed([*error_classes(RegisterError)][1:])}
_REFERENCE = "#/components/schemas/"
_TOKEN_PROBLEM = f"{_REFERENCE}TokenProblem"
_NULL = {"type": "null"}
# The members of examples are values, not schemas.
_EXAMPLES = ("example", "examples")


def simplify(document: dict[str, Any]) -> None:
    """Name pages, problems and repeated schemas, remove null from parameters, and drop titles that repeat names."""
    _use_titles(document)
    _refer_to_copies(document)
    for operation in _operations(document):
        for parameter in operation.get("parameters", ()):
            _drop_null(parameter["schema"])
        for response in operation["responses"].values():
            _describe_success(response, document)
    names = set()
    for schema in list(all_schemas(document)):
        schema.pop("title", None)
        _hoist_description(schema)
        names |= _refer_to_repeated(schema)
    schemas = {name: _REPEATED[name] | _TEXTS.get(name, {}) for name in names}
    document["components"]["schemas"] = dict(sorted((document["components"]["schemas"] | schemas).items()))
    _share_problems(document)


def all_schemas(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every schema of the document, nested ones included."""
    for schema in document["components"]["schemas"].values():
        yield from _with_nested(schema)
    for schema in _outer_schemas(document["paths"]):
        yield from _with_nested(schema)


def _operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for operations in document["paths"].values():
        yield from operations.values()


def _outer_schemas(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, list):
        for inner in node:
            yield from _outer_schemas(inner)
    elif isinstance(node, dict):
        for key, inner in node.items():
            if key == "schema":
                yield inner
            elif key not in _EXAMPLES:
                yield from _outer_schemas(inner)


def _with_nested(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for kind in ("anyOf", "allOf", "oneOf"):
        inner += schema.get(kind, ())
    for each in inner:
        if isinstance(each, dict):
            yield from _with_nested(each)


def _drop_null(schema: dict[str, Any]) -> None:
    """Remove null from the choices of a parameter, which is present or absent but never null."""
    kinds = schema.get("anyOf", [])
    if _NULL in kinds:
        kinds.remove(_NULL)
        if len(kinds) == 1:
            schema |= schema.pop("anyOf")[0]


def _hoist_description(schema: dict[str, Any]) -> None:
    """Move the description of a nullable type to the member: generators read members' texts, not those of choices."""
    match schema.get("anyOf"):
        case [kind, {"type": "null"}]:
            for keyword in ("description", "examples"):
                if keyword in kind:
                    schema.setdefault(keyword, kind.pop(keyword))
            if set(kind) == {"anyOf"}:
                schema["anyOf"] = [*kind["anyOf"], _NULL]


def _describe_success(response: dict[str, Any], document: dict[str, Any]) -> None:
    """Replace FastAPI's "Successful Response" by the description of the response's schema."""
    if response["description"] != "Successful Response":
        return
    content: dict[str, Any] = next(iter(response.get("content", {}).values()), {})
    schema = content.get("schema", {})
    model = document["components"]["schemas"].get(schema.get("$ref", "").rpartition("/")[2], {})
    response["description"] = model.get("description") or (
        "The requested content." if schema else "Success, without content."
    )


def _refer_to_repeated(schema: dict[str, Any]) -> set[str]:
    """Replace a schema that the document repeats by a reference; return its name, or an empty set."""
    for name, repeated in _REPEATED.items():
        if repeated.items() <= schema.items():
            for keyword in repeated:
                del schema[keyword]
            schema["$ref"] = _REFERENCE + name
            return {name}
    return set()


def _use_titles(document: dict[str, Any]) -> None:
    """Name each schema like its class: Pydantic names a generic one `Page_DepartmentRead_`."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    names = {_REFERENCE + name: _REFERENCE + schema["title"] for name, schema in schemas.items()}
    assert len(set(names.values())) == len(names)
    for schema in all_schemas(document):
        if "$ref" in schema:
            schema["$ref"] = names.get(schema["$ref"], schema["$ref"])
    document["components"]["schemas"] = {schema["title"]: schema for schema in schemas.values()}


def _refer_to_copies(document: dict[str, Any]) -> None:
    """Replace copies of named schemas by references: Pydantic copies that of a class whose validation is skipped."""
    schemas: dict[str, Any] = document["components"]["schemas"]
    for schema in all_schemas(document):
        named = schemas.get(schema.get("title", ""))
        if schema is not named and schema == named:
            schema.clear()
            schema["$ref"] = _REFERENCE + named["title"]


def _share_problems(document: dict[str, Any]) -> None:
    """Share the responses to failed requests: they are equal in most operations and made up half of the document."""
    shared: dict[str, Any] = {}
    for operation in _operations(document):
        for status, response in operation["responses"].items():
            if status in _STATUSES:
                name = _NAMES[response["content"][MEDIA_TYPE]["example"]["code"]]
                if REPLAYED in response["headers"]:
                    name = f"Replayable{name}"
                elif _TOKEN_PROBLEM in str(response["content"]):
                    name = operation["operationId"].title().replace("_", "") + name
                assert shared.setdefault(name, response) == response, name
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    document["components"]["responses"] = dict(sorted(shared.items()))
