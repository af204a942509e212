"""What in the OpenAPI document would break clients: `python -m tests.openapi_changes`.

`docs/openapi.contract.json` has what clients of the last commit depend on, and none of the words. What is new is added
by `--add`; what breaks clients, only when somebody means it (`--break`), and then the change is there to be reviewed.

No maintained tool that PyPI or npm has compares OpenAPI 3.1 documents. This one knows the rule behind most of
theirs: what was a valid request stays one, and an answer stays one that the old document describes. It does not judge
patterns that change, nor the limits of answers.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "openapi.json"
CONTRACT = ROOT / "docs" / "openapi.contract.json"

WORDS = {"title", "summary", "description", "example", "examples", "tags", "default"}
# Members of these are names, not keywords.
NAMES = {"paths", "schemas", "properties", "headers", "content", "responses"}
# What operations refer to.
KINDS = ("responses", "schemas")
# A value that fits the one limit may not fit the other when the comparison holds.
UPPER, LOWER = ("maximum", "maxLength", "maxItems"), ("minimum", "minLength", "minItems")


def contract(document: Any, *, of_names: bool = False) -> Any:
    """Return a document without what is only for people."""
    if isinstance(document, dict):
        return {
            name: contract(inner, of_names=name in NAMES and not of_names)
            for name, inner in sorted(document.items())
            if of_names or name not in WORDS
        }
    return [contract(inner) for inner in document] if isinstance(document, list) else document


def breaking(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Return what a client of the old document would trip over."""
    return list(dict.fromkeys(_Comparison(old, new).faults()))


class _Comparison:
    def __init__(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        self.old, self.new = old, new
        self._is_answer = False
        # The pairs of schemas that are being compared: one may refer to itself.
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
        self._is_answer = False
        yield from self._parameters(old, new)
        yield from self._body(old.get("requestBody"), new.get("requestBody"))
        self._is_answer = True
        yield from self._responses(old["responses"], new["responses"])

    def _parameters(self, old: Any, new: Any) -> Iterator[str]:
        before, after = _by_name(old), _by_name(new)
        for key, parameter in after.items():
            required = parameter.get("required") and not before.get(key, {}).get("required")
            # Those of a path are the path's.
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
        """Yield why not everything that fits the one schema fits the other."""
        for each in _alternatives(narrow, self._narrow):
            yield from self._misfits_of_all(_alternatives(wide, self._wide), each, where)

    def _misfits_of_all(self, kinds: list[Schema], narrow: Schema, where: str) -> Iterator[str]:
        found = [list(self._misfit(kind, narrow, where)) for kind in kinds if _fits_type(kind, narrow)]
        if not found:
            kind = narrow.get("type", "of any type")
            yield f"{where} may be {kind} now" if self._is_answer else f"{where} no longer takes {kind}"
        elif all(found):
            # The one it was meant to be is the one it comes closest to.
            yield from min(found, key=len)

    def _misfit(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        pair = id(wide), id(narrow)
        if pair in self._open:
            return
        self._open.append(pair)
        yield from self._values(wide, narrow, where)
        if not self._is_answer:
            yield from _limits(wide, narrow, where)
        yield from self._members(wide, narrow, where)
        for inner, label in (("items", "each"), ("additionalProperties", "any member")):
            if isinstance(wide.get(inner), dict) and isinstance(narrow.get(inner), dict):
                yield from self._misfits(wide[inner], narrow[inner], f"{where}/{label}")
        self._open.pop()

    @property
    def _wide(self) -> dict[str, Any]:
        """The document that must allow what the other does: of requests the new one, of answers the old one."""
        return self.old if self._is_answer else self.new

    @property
    def _narrow(self) -> dict[str, Any]:
        return self.new if self._is_answer else self.old

    def _values(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        allowed, possible = _values_of(wide), _values_of(narrow)
        if allowed is not None and possible is None:
            yield f"{where} may be any value now" if self._is_answer else f"{where} takes only some values now"
        elif allowed is not None and possible is not None and (others := possible - allowed):
            listed = ", ".join(sorted(others))
            yield f"{where} may be {listed} now" if self._is_answer else f"{where} no longer takes {listed}"

    def _members(self, wide: Schema, narrow: Schema, where: str) -> Iterator[str]:
        old, new = (wide, narrow) if self._is_answer else (narrow, wide)
        before, after = old.get("properties", {}), new.get("properties", {})
        for name in before.keys() - after.keys():
            yield f"{where}/{name} is gone"
        for name in set(wide.get("required", ())) - set(narrow.get("required", ())):
            if name in after:
                yield f"{where}/{name} may be absent now" if self._is_answer else f"{where}/{name} is required now"
        for name in before.keys() & after.keys():
            members = (before[name], after[name]) if self._is_answer else (after[name], before[name])
            yield from self._misfits(*members, f"{where}/{name}")


def _by_name(operation: Any) -> dict[tuple[str, str], Any]:
    return {(each["in"], each["name"].lower()): each for each in operation.get("parameters", ())}


def _resolved(node: Any, document: dict[str, Any]) -> Any:
    """Return a schema or a response, or that to which it refers."""
    if "$ref" not in node:
        return node
    *_, kind, name = node["$ref"].split("/")
    return document["components"][kind][name]


def _alternatives(schema: Schema, document: dict[str, Any]) -> list[Schema]:
    """Return the schemas of which a value fits one."""
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
        if name in wide and name not in narrow:
            yield f"{where} has the {name} {wide[name]} now"


def written(document: dict[str, Any]) -> str:
    """Return the contract as text, with a line for each operation, schema and response: a difference can be read."""
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
    """Compare, and with `--add` take what is new into the contract; with `--break`, everything, whatever it breaks."""
    document = json.loads(DOCUMENT.read_text("utf-8"))
    text, old = written(document), CONTRACT.read_text("utf-8")
    if arguments != ["--break"]:
        faults = breaking(json.loads(old), contract(document))
        for fault in faults:
            sys.stderr.write(f"Breaks clients: {fault}\n")
        if faults:
            sys.stderr.write("If that is meant: `make break-openapi`.\n")
            return 1
    if arguments:
        CONTRACT.write_text(text, "utf-8")
    elif text != old:
        sys.stderr.write(f"{CONTRACT.name} lacks what is new: run `make openapi`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
