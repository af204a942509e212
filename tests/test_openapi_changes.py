"""Breaking changes of the OpenAPI document are found, and no others."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests import openapi_changes
from tests.openapi_changes import breaking, contract, main, written

Document = dict[str, Any]
Change = Callable[[Document], object]

OLD: Document = {
    "paths": {
        "/things": {
            "post": {
                "operationId": "create_thing",
                "summary": "Create Thing",
                "x-permission": "things:write",
                "parameters": [
                    {"in": "query", "name": "limit", "schema": {"type": "integer", "maximum": 200, "minimum": 1}},
                    {
                        "in": "query",
                        "name": "kind",
                        "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Kind"}},
                    },
                    {"in": "header", "name": "If-Match", "schema": {"type": "string"}},
                ],
                "requestBody": {
                    "content": {
                        "application/json": {"schema": {"$ref": "#/components/schemas/ThingCreate"}},
                        "text/csv": {"schema": {"type": "string"}},
                    }
                },
                "responses": {
                    "201": {
                        "description": "Made.",
                        "headers": {"ETag": {"schema": {"type": "string"}}},
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}},
                    },
                    "404": {"$ref": "#/components/responses/NotFound"},
                },
            }
        }
    },
    "components": {
        "responses": {
            "NotFound": {
                "description": "Not found.",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            }
        },
        "schemas": {
            "Problem": {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
            "Kind": {"type": "string", "enum": ["one", "two"]},
            "ThingCreate": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string", "maxLength": 20},
                    "title": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                    "weight": {"type": "number"},
                },
                "required": ["name"],
            },
            "Thing": {
                "type": "object",
                "properties": {
                    "name": {"type": "string"},
                    "kind": {"$ref": "#/components/schemas/Kind"},
                    "parent": {"anyOf": [{"$ref": "#/components/schemas/Thing"}, {"type": "null"}]},
                    "counts": {"type": "object", "additionalProperties": {"type": "integer"}},
                },
                "required": ["name", "kind"],
            },
        },
    },
}


def operation(document: Document) -> Document:
    found: Document = document["paths"]["/things"]["post"]
    return found


def parameter(document: Document, place: int) -> Document:
    found: Document = operation(document)["parameters"][place]["schema"]
    return found


def body(document: Document) -> Document:
    found: Document = document["components"]["schemas"]["ThingCreate"]
    return found


def thing(document: Document) -> Document:
    found: Document = document["components"]["schemas"]["Thing"]
    return found


def kinds(document: Document) -> list[str]:
    found: list[str] = document["components"]["schemas"]["Kind"]["enum"]
    return found


def not_found(document: Document) -> Document:
    found: Document = document["components"]["responses"]["NotFound"]
    return found


def created(document: Document) -> Document:
    found: Document = operation(document)["responses"]["201"]
    return found


def a_parameter(**members: Any) -> Document:
    return {"in": "query", "name": "new", "schema": {"type": "string"}} | members


HERE = "POST /things"
BREAKING: dict[str, tuple[Change, list[str]]] = {
    "path": (lambda new: new["paths"].clear(), [f"{HERE} is gone"]),
    "method": (lambda new: new["paths"]["/things"].pop("post"), [f"{HERE} is gone"]),
    "name of the operation": (
        lambda new: operation(new).update(operationId="make_thing"),
        [f"{HERE}: create_thing is called make_thing now"],
    ),
    "permission": (
        lambda new: operation(new).update({"x-permission": "admin"}),
        [f"{HERE}: needs admin now, not things:write"],
    ),
    "schema": (
        lambda new: (
            new["components"]["schemas"].update(
                Type=new["components"]["schemas"].pop("Kind"),
                Thing=json.loads(json.dumps(thing(new)).replace("Kind", "Type")),
            )
            or parameter(new, 1)["items"].update({"$ref": "#/components/schemas/Type"})
        ),
        ["schema Kind is gone, after which generated clients name a type"],
    ),
    "parameter": (lambda new: operation(new)["parameters"].pop(0), [f"{HERE}: query limit is gone"]),
    "new parameter that is required": (
        lambda new: operation(new)["parameters"].append(a_parameter(required=True)),
        [f"{HERE}: query new is required now"],
    ),
    "parameter that becomes required": (
        lambda new: operation(new)["parameters"][2].update(required=True),
        [f"{HERE}: header if-match is required now"],
    ),
    "lower maximum": (
        lambda new: parameter(new, 0).update(maximum=100),
        [f"{HERE}: query limit has maximum 100 now"],
    ),
    "higher minimum": (lambda new: parameter(new, 0).update(minimum=2), [f"{HERE}: query limit has minimum 2 now"]),
    "new limit": (lambda new: parameter(new, 2).update(maxLength=9), [f"{HERE}: header if-match has maxLength 9 now"]),
    "new pattern": (
        lambda new: parameter(new, 2).update(pattern="^a$"),
        [f"{HERE}: header if-match has the pattern ^a$ now"],
    ),
    "pattern that excludes a value": (
        lambda new: parameter(new, 1).update(items={"type": "string", "pattern": "^(one|three)$"}),
        [f"{HERE}: query kind/each has the pattern ^(one|three)$ now"],
    ),
    "type of a parameter": (
        lambda new: parameter(new, 0).update(type="boolean"),
        [f"{HERE}: query limit no longer takes integer"],
    ),
    "one value instead of several": (
        lambda new: operation(new)["parameters"][1].update(schema={"$ref": "#/components/schemas/Kind"}),
        [f"{HERE}: query kind no longer takes array"],
    ),
    "values of a parameter": (
        lambda new: parameter(new, 1).update(items={"type": "string", "enum": ["one"]}),
        [f'{HERE}: query kind/each no longer takes "two"'],
    ),
    "value of an enumeration": (
        lambda new: kinds(new).remove("two"),
        [f'{HERE}: query kind/each no longer takes "two"'],
    ),
    "free text that gets values": (
        lambda new: body(new)["properties"]["title"].update(anyOf=[{"const": "Dr"}, {"type": "null"}]),
        [f"{HERE}: body/title takes only some values now"],
    ),
    "member of a body": (lambda new: body(new)["properties"].pop("weight"), [f"{HERE}: body/weight is gone"]),
    "member called title": (lambda new: body(new)["properties"].pop("title"), [f"{HERE}: body/title is gone"]),
    "new member that is required": (
        lambda new: (body(new)["properties"].update(new={"type": "string"}), body(new)["required"].append("new")),
        [f"{HERE}: body/new is required now"],
    ),
    "null in a body": (
        lambda new: body(new)["properties"].update(title={"type": "string"}),
        [f"{HERE}: body/title no longer takes null"],
    ),
    "narrower number": (
        lambda new: body(new)["properties"]["weight"].update(type="integer"),
        [f"{HERE}: body/weight no longer takes number"],
    ),
    "body that is required": (
        lambda new: operation(new)["requestBody"].update(required=True),
        [f"{HERE}: a body is required now"],
    ),
    "media type of the body": (
        lambda new: operation(new)["requestBody"]["content"].pop("text/csv"),
        [f"{HERE}: no longer takes text/csv"],
    ),
    "whole body": (
        lambda new: operation(new).pop("requestBody"),
        [f"{HERE}: no longer takes application/json", f"{HERE}: no longer takes text/csv"],
    ),
    "status": (lambda new: operation(new)["responses"].pop("404"), [f"{HERE}: 404 is gone"]),
    "header": (lambda new: created(new)["headers"].clear(), [f"{HERE}: 201 no longer has the header ETag"]),
    "media type of a shared response": (
        lambda new: not_found(new)["content"].clear(),
        [f"{HERE}: 404 no longer comes as application/problem+json"],
    ),
    "media type of the response": (
        lambda new: created(new).update(content={"text/csv": {"schema": {"type": "string"}}}),
        [f"{HERE}: 201 no longer comes as application/json"],
    ),
    "member of a response": (lambda new: thing(new)["properties"].pop("kind"), [f"{HERE}: 201/kind is gone"]),
    "member that may be absent": (
        lambda new: thing(new)["required"].remove("kind"),
        [f"{HERE}: 201/kind may be absent now"],
    ),
    "null in a response": (
        lambda new: thing(new)["properties"].update(name={"type": ["string", "null"]}),
        [f"{HERE}: 201/name may be null now"],
    ),
    "new value in a response": (lambda new: kinds(new).append("three"), [f'{HERE}: 201/kind may be "three" now']),
    "free text in a response": (
        lambda new: thing(new)["properties"].update(kind={"type": "string"}),
        [f"{HERE}: 201/kind may be any value now"],
    ),
    "wider number in a response": (
        lambda new: thing(new)["properties"]["counts"].update(additionalProperties={"type": "number"}),
        [f"{HERE}: 201/counts/any member may be number now"],
    ),
}
HARMLESS: dict[str, Change] = {
    "nothing": lambda _new: None,
    "words": lambda new: operation(new).update(summary="Make", description="Makes a thing.", tags=["things"]),
    "public operation": lambda new: operation(new).update({"x-permission": "public"}),
    "new path": lambda new: new["paths"].update({"/others": new["paths"]["/things"]}),
    "new parameter": lambda new: operation(new)["parameters"].append(a_parameter()),
    "header in other letters": lambda new: operation(new)["parameters"][2].update(name="if-match"),
    "wider limits": lambda new: parameter(new, 0).update(maximum=500, minimum=0),
    "no limits": lambda new: operation(new)["parameters"][0].update(schema={"type": "integer"}),
    "integer that may be any number": lambda new: parameter(new, 0).update(type="number"),
    "new member of a body": lambda new: body(new)["properties"].update(new={"type": "string"}),
    "member of a body that may be absent": lambda new: body(new).update(required=[]),
    "another alternative in a body": lambda new: body(new)["properties"]["title"]["anyOf"].append({"type": "integer"}),
    "new status": lambda new: operation(new)["responses"].update({"409": {}}),
    "response that is no longer shared": lambda new: operation(new)["responses"].update({"404": not_found(new)}),
    "shared response with another name": lambda new: (
        new["components"]["responses"].update(Missing=not_found(new))
        or operation(new)["responses"].update({"404": {"$ref": "#/components/responses/Missing"}})
    ),
    "pattern instead of values": lambda new: parameter(new, 1).update(
        items={"type": "string", "pattern": "^(one|two)(,(one|two))?$"}
    ),
    "new header": lambda new: created(new)["headers"].update(Link={"schema": {"type": "string"}}),
    "new media type": lambda new: created(new)["content"].update({"text/csv": {"schema": {"type": "string"}}}),
    "new member of a response": lambda new: thing(new)["properties"].update(new={"type": "string"}),
    "member of a response that becomes required": lambda new: thing(new)["required"].append("parent"),
    "member of a response that is never null": lambda new: thing(new)["properties"].update(
        parent={"$ref": "#/components/schemas/Thing"}
    ),
    "limit of a response": lambda new: thing(new)["properties"]["name"].update(maxLength=5),
}


@pytest.mark.parametrize("change", BREAKING)
def test_breaking_change_is_found(change: str) -> None:
    make, expected = BREAKING[change]
    new = deepcopy(OLD)
    make(new)
    assert breaking(contract(OLD), contract(new)) == expected


@pytest.mark.parametrize("change", HARMLESS)
def test_harmless_change_is_no_fault(change: str) -> None:
    new = deepcopy(OLD)
    HARMLESS[change](new)
    assert breaking(contract(OLD), contract(new)) == []


def test_contract_is_written_with_a_line_for_each_operation_schema_and_response() -> None:
    text = written(OLD)
    assert json.loads(text) == contract(OLD)
    starts = [line.partition(":")[0] for line in text.splitlines()]
    assert starts == [
        *('{"paths"', '"/things"', '"post"', '"components"', '"responses"', '"NotFound"'),
        *('"schemas"', '"Kind"', '"Problem"', '"Thing"', '"ThingCreate"'),
    ]
    assert "Create Thing" not in text


@pytest.fixture
def document(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Document:
    """A copy of the old document, which is the contract; a test changes it and calls `save`."""
    monkeypatch.setattr(openapi_changes, "DOCUMENT", tmp_path / "openapi.json")
    monkeypatch.setattr(openapi_changes, "CONTRACT", tmp_path / "openapi.contract.json")
    openapi_changes.CONTRACT.write_text(written(OLD), "utf-8")
    return deepcopy(OLD)


def save(document: Document) -> None:
    openapi_changes.DOCUMENT.write_text(json.dumps(document), "utf-8")


def test_command_adds_new_parts(document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    operation(document)["responses"]["409"] = not_found(document)
    save(document)
    assert main([]) == 1
    assert capsys.readouterr().err == "openapi.contract.json lacks new parts of the document: run `make openapi`.\n"
    assert main(["--add"]) == 0
    assert main([]) == 0
    operation(document)["responses"].pop("409")
    save(document)
    assert main([]) == 1, "from now on it is part of the contract"


def test_command_accepts_breaking_changes_only_with_its_option(
    document: Document, capsys: pytest.CaptureFixture[str]
) -> None:
    operation(document)["responses"].pop("404")
    save(document)
    for arguments in ([], ["--add"]):
        assert main(arguments) == 1
        assert capsys.readouterr().err == (
            "Breaks clients: POST /things: 404 is gone\nIf this is intended, run `make break-openapi`.\n"
        )
        assert openapi_changes.CONTRACT.read_text("utf-8") == written(OLD)
    assert main(["--break"]) == 0
    assert main([]) == 0
    assert capsys.readouterr().err == ""
