"""Finds the changes of the OpenAPI document that break clients: `python -m tests.openapi_changes`.

`docs/openapi.contract.json` is the contract: the parts of the committed document that clients depend on, without its
texts. `--add` adds new parts; `--break` accepts breaking changes, too, so that the difference can be reviewed.

No maintained tool on PyPI or npm compares OpenAPI 3.1 documents. The rule here is that of most such tools: a valid
request stays valid, and a response stays one that the old document describes. Changed patterns, and the limits of
responses, are not compared.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "openapi.json"
CONTRACT = ROOT / "docs" / "openapi.contract.json"

WORDS = {"title", "summary", "description", "example", "examples", "tags", "default"}
# The members of these objects are names, not keywords.
NAMES = {"paths", "schemas", "properties", "headers", "content", "responses"}
# The components that operations refer to.
KINDS = ("responses", "schemas")
# A lower maximum or a higher minimum excludes values.
UPPER, LOWER = ("maximum", "maxLength", "maxItems"), ("minimum", "minLength", "minItems")


def contract(document: Any, *, of_names: bool = False) -> Any:
    """Return a document without its texts."""
    if isinstance(document, dict):
        return {
            name: contract(inner, of_names=name in NAMES and not of_names)
            for name, inner in sorted(document.items())
            if of_names or name not in WORDS
        }
    return [contract(inner) for inner in document] if isinstance(document, list) else document


def breaking(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return the changes that break a client of the old document."""
    return list(dict.fromkeys(_Comparison(old, new).faults()))


class _Comparison:
    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self.old, self.new = old, new
        self._is_response = False
        # The pairs of schemas under comparison, because a schema may refer to itself.
        self._open: list[tuple[int, int]] = []

    def faults(self) -> Iterator[str]:
        for path, operations in self.old["paths"].items():
            for method, old in operations.items():
                where = f"{method.upper()} {path}"
                new = self.new["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{where} is gone"
                else:
                    yield from (f"{where}: {fault}" for fault in self._operation(old, new))
        for name in self.old["components"]["schemas"].keys() - self.new["components"]["schemas"].keys():
            yield f"schema {name} is gone, after which generated clients name a type"

    def _operation(self, old: Any, new: Any) -> Iterator[str]:
        if old["operationId"] != new["operationId"]:
            yield f"{old['operationId']} is called {new['operationId']} now"
        if old["x-permission"] != new["x-permission"] and new["x-permission"] != "public":
            yield f"needs {new['x-permission']} now, not {old['x-permission']}"
        self._is_response = False
        yield from self._parameters(old, new)
        yield from self._body(old.get("requestBody"), new.get("requestBody"))
        self._is_response = True
        yield from self._responses(old["responses"], new["responses"])

    def _parameters(self, old: Any, new: Any) -> Iterator[str]:
        before, after = _by_name(old), _by_name(new)
        for key, parameter in after.items():
            required = parameter.get("required") and not before.get(key, {}).get("required")
            # Path parameters are part of the path, which is compared itself.
            if required and key[0] != "path":
                yield f"{' '.join(key)} is required now"
        for key, parameter in before.items():
            if key not in after:
                yield f"{' '.join(key)} is gone"
            else:
                yield from self._misfits(after[key]["schema"], parameter["schema"], " ".join(key))

    def _body(self, old: Any, new: Any) -> Iterator[str]:
        if new and new.get("required") and not (old or {}).get("required"):
            yield "a body is required now"
        for media_type, content in (old or {}).get("content", {}).items():
            if media_type not in (new or {}).get("content", {}):
                yield f"no longer takes {media_type}"
            else:
                yield from self._misfits(new["content"][media_type]["schema"], content["schema"], "body")

    def _responses(self, old: Any, new: Any) -> Iterator[str]:
        for status, response in old.items():
            if status in new:
                yield from self._response(_resolved(response, self.old), _resolved(new[status], self.new), status)
            else:
                yield f"{status} is gone"

    def _response(self, old: Any, new: Any, status: str) -> Iterator[str]:
        for header in sorted(old.get("headers", {}).keys() - new.get("headers", {}).keys()):
            yield f"{status} no longer has the header {header}"
        for media_type, content in old.get("content", {}).items():
            after = new.get("content", {}).get(media_type)
            if after is None:
                yield f"{status} no longer comes as {media_type}"
            else:
                yield from self._misfits(content["schema"], after["schema"], status)

    def _misfits(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        """Yield the reasons why a value that is valid in `narrow` may be invalid in `wide`."""
        for each in _alternatives(narrow, self._narrow):
            yield from self._misfits_of_all(_alternatives(wide, self._wide), each, where)

    def _misfits_of_all(self, kinds: list[Schema], narrow: Schema, where: str) -> Iterator[str]:
        found = [list(self._misfit(kind, narrow, where)) for kind in kinds if _fits_type(kind, narrow)]
        if not found:
            kind = narrow.get("type", "of any type")
            yield f"{where} may be {kind} now" if self._is_response else f"{where} no longer takes {kind}"
        elif all(found):
            # The alternative with the fewest differences is the corresponding one.
            yield from min(found, key=len)

    def _misfit(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        pair = id(wide), id(narrow)
        if pair in self._open:
            return
        self._open.append(pair)
        yield from self._values(wide, narrow, where)
        if not self._is_response:
            yield from _limits(wide, narrow, where)
        yield from self._members(wide, narrow, where)
        for inner, label in (("items", "each"), ("additionalProperties", "any member")):
            if isinstance(wide.get(inner), dict) and isinstance(narrow.get(inner), dict):
                yield from self._misfits(wide[inner], narrow[inner], f"{where}/{label}")
        self._open.pop()

    @property
    def _wide(self) -> dict[str, Any]:
        """The document that must allow all values of the other: the new one for requests, the old one for responses."""
        return self.old if self._is_response else self.new

    @property
    def _narrow(self) -> dict[str, Any]:
        return self.new if self._is_response else self.old

    def _values(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        allowed, possible = _values_of(wide), _values_of(narrow)
        if allowed is not None and possible is None:
            yield f"{where} may be any value now" if self._is_response else f"{where} takes only some values now"
        elif allowed is not None and possible is not None and (others := possible - allowed):
            listed = ", ".join(sorted(others))
            yield f"{where} may be {listed} now" if self._is_response else f"{where} no longer takes {listed}"

    def _members(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        old, new = (wide, narrow) if self._is_response else (narrow, wide)
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before.keys() - after.keys():
            yield f"{where}/{name} is gone"
        for name in set(wide.get("required", ())) - set(narrow.get("required", ())):
            if name in after:
                yield f"{where}/{name} may be absent now" if self._is_response else f"{where}/{name} is required now"
        for name in before.keys() & after.keys():
            members = (before[name], after[name]) if self._is_response else (after[name], before[name])
            yield from self._misfits(*members, f"{where}/{name}")


def _by_name(operation: Any) -> dict[tuple[str, str], Any]:
    return {(each["in"], each["name"].lower()): each for each in operation.get("parameters", ())}


def _resolved(node: Any, document: dict[str, Any]) -> Any:
    """Return a schema or a response, with its reference resolved."""
    if "$ref" not in node:
        return node
    *_, kind, name = node["$ref"].split("/")
    return document["components"][kind][name]


def _alternatives(schema: Schema, document: dict[str, Any]) -> list[Schema]:
    """Return the alternatives of a schema: a value must be valid in one of them."""
    if "$ref" in schema:
        return _alternatives(_resolved(schema, document), document)
    if isinstance(schema.get("type"), list):
        return [{**schema, "type": kind} for kind in schema["type"]]
    choices = schema.get("anyOf") or schema.get("oneOf")
    return [each for choice in choices for each in _alternatives(choice, document)] if choices else [schema]


def _fits_type(wide: Schema, narrow: Schema) -> bool:
    kinds = wide.get("type"), narrow.get("type")
    return kinds[0] in {None, kinds[1]} or kinds == ("number", "integer")


def _values_of(schema: Schema) -> set[str] | None:
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    return None if values is None else {json.dumps(value) for value in values}


def _limits(wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
    for name in (*UPPER, *LOWER):
        if name in wide:
            sign = 1 if name in UPPER else -1
            if name not in narrow or sign * wide[name] < sign * narrow[name]:
                yield f"{where} has {name} {wide[name]} now"
    for name in ("pattern", "format"):
        if name in wide and name not in narrow and not (name == "pattern" and _match_all(wide[name], narrow)):
            yield f"{where} has the {name} {wide[name]} now"


def _match_all(pattern: str, narrow: Schema) -> bool:
    """Return whether `narrow` has a few values only, which the pattern allows."""
    values = [narrow["const"]] if "const" in narrow else narrow.get("enum")
    return values is not None and all(isinstance(each, str) and re.search(pattern, each) for each in values)


def written(document: dict[str, Any]) -> str:
    """Return the contract as text with one line per operation, schema and response, so that differences are legible."""
    paths = [
        f"{json.dumps(path)}:{_lines(operations)}"
        for path, operations in contract(document["paths"], of_names=True).items()
    ]
    components = contract({kind: document["components"][kind] for kind in KINDS})
    shared = [f"{json.dumps(kind)}:{_lines(named)}" for kind, named in components.items()]
    return '{"paths":{\n' + ",\n".join(paths) + '},\n"components":{\n' + ",\n".join(shared) + "}}\n"


def _lines(members: dict[str, Any]) -> str:
    lines = (f"{json.dumps(name)}:{json.dumps(inner, separators=(',', ':'))}" for name, inner in members.items())
    return "{\n" + ",\n".join(lines) + "}"


def main(arguments: list[str]) -> int:
    """Compare the document with the contract. `--add` adds new parts to the contract, and `--break` replaces it."""
    document = json.loads(DOCUMENT.read_text("utf-8"))
    text, old = written(document), CONTRACT.read_text("utf-8")
    if arguments != ["--break"]:
        faults = breaking(json.loads(old), contract(document))
        for fault in faults:
            sys.stderr.write(f"Breaks clients: {fault}\n")
        if faults:
            sys.stderr.write("If this is intended, run `make break-openapi`.\n")
            return 1
    if arguments:
        CONTRACT.write_text(text, "utf-8")
    elif text != old:
        sys.stderr.write(f"{CONTRACT.name} lacks new parts of the document: run `make openapi`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
