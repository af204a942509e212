"""Any text is either rejected with a reason or stored in one clean form."""

import unicodedata
from typing import Annotated, Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from app.domains.location.schemas import LocationPatch
from app.domains.process.schemas import ProcessPatch
from app.domains.shared.schemas import Schema, merge_patch
from app.domains.shared.texts import Code, Description, Name
from app.utils.text.invisible import trimmed
from tests.builders import make_department, make_location
from tests.domains.shared.properties import draw_examples

# Any Python string, lone surrogates included, with many unusual characters.
anything = st.text(st.characters(categories=None), max_size=600)
awkward = st.text(
    st.sampled_from(" \t\n\u00a0\u200b\u200d\u0301\u1100\u1161eE\u00e9\x00\x1f\x85\u2028\ud800😀"), max_size=12
)
name_type: TypeAdapter[str] = TypeAdapter(Name)
description_type: TypeAdapter[str] = TypeAdapter(Description)
code_type: TypeAdapter[str] = TypeAdapter(Code)


def is_clean(value: str) -> bool:
    return (
        unicodedata.is_normalized("NFC", value)
        and value == trimmed(value)
        and 1 <= len(value) <= 500
        and not any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp"} for character in value)
    )


def accepted(adapter: TypeAdapter[str], text: str) -> str | None:
    try:
        return adapter.validate_python(text, strict=True)
    except ValidationError:
        return None


@given(anything | awkward)
def test_name_is_rejected_or_clean(text: str) -> None:
    value = accepted(name_type, text)
    assert value is None or is_clean(value)


@given(anything | awkward)
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    for adapter in (name_type, description_type):
        value = accepted(adapter, text)
        assert value is None or accepted(adapter, value) == value


@given(anything | awkward)
def test_clean_text_is_stored_unchanged(text: str) -> None:
    visible = any(unicodedata.category(character)[0] in "LNPS" for character in text)
    if is_clean(text) and visible:
        assert accepted(name_type, text) == text


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True))
def test_code_that_matches_the_pattern_is_valid(code: str) -> None:
    assert accepted(code_type, code) == code


@given(awkward)
def test_code_with_other_characters_is_rejected(text: str) -> None:
    if not (text.isascii() and text.isalnum()):
        assert accepted(code_type, text) is None


@pytest.mark.parametrize("text", draw_examples(anything | awkward, 60))
async def test_name_comes_back_as_it_was_stored(client: httpx.AsyncClient, text: str) -> None:
    expected = accepted(name_type, text)
    response = await client.post("/departments", content=_json(text), headers={"Content-Type": "application/json"})
    if expected is None:
        assert response.status_code == 422
        assert {error["pointer"] for error in response.json()["errors"]} == {"/name"}
    else:
        assert response.status_code == 201
        assert response.json()["name"] == expected
        again = await client.get(f"/departments/{response.json()['id']}")
        assert again.json()["name"] == expected


def _json(name: str) -> bytes:
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf16(name))
    return f'{{"name": "{escaped}"}}'.encode()


def _utf16(text: str) -> list[int]:
    data = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(data[index : index + 2], "big") for index in range(0, len(data), 2)]


# The examples of RFC 7396, appendix A, that an object without nested objects can have.
@pytest.mark.parametrize(
    ("original", "patch", "result"),
    [
        ({"code": "b"}, {"code": "c"}, {"code": "c"}),
        ({"code": "b"}, {"external_id": "c"}, {"code": "b", "external_id": "c"}),
        ({"code": "b"}, {"code": None}, {"code": None}),
        ({"code": "b", "external_id": "c"}, {"code": None}, {"code": None, "external_id": "c"}),
        ({"code": "b"}, {}, {"code": "b"}),
    ],
)
async def test_merge_patch_conforms_to_rfc_7396(
    client: httpx.AsyncClient, original: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    made = await make_department(client, **original)
    merged = (await client.patch(f"/departments/{made['id']}", json=patch)).json()
    assert {name: merged[name] for name in result} == result


def test_patch_distinguishes_null_from_omitted_members() -> None:
    assert ProcessPatch.model_validate({}).model_dump(exclude_unset=True) == {}
    named = {"roles": None, "criticality": None, "department_ids": [1]}
    assert ProcessPatch.model_validate(named).model_dump(exclude_unset=True) == named
    # Both coordinates are needed in the whole, not in the patch.
    assert LocationPatch.model_validate({"latitude": 1.5}).model_dump(exclude_unset=True) == {"latitude": 1.5}


def merged(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Return the result of RFC 7396, section 2, for a patch without nested objects."""
    return {name: value for name, value in (target | patch).items() if value is not None}


# The possible values of each member, and its default.
MEMBERS: dict[str, tuple[list[Any], Any]] = {
    "description": (["a", "two\nlines"], None),
    "kind": (["site", "room"], "site"),
    "country": (["CH", "GB"], None),
    "latitude": ([0, 1.5, -90], None),
    "longitude": ([0, 2.5, 180], None),
}
ABSENT = {name: default for name, (_, default) in MEMBERS.items()}
documents = st.fixed_dictionaries({}, optional={name: st.sampled_from(some) for name, (some, _) in MEMBERS.items()})
patches = st.fixed_dictionaries(
    {},
    optional={
        name: st.sampled_from(some if default is not None else [None, *some])
        for name, (some, default) in MEMBERS.items()
    },
)


def has_half_a_place(document: dict[str, Any]) -> bool:
    return ("latitude" in document) != ("longitude" in document)


@pytest.mark.parametrize(
    ("document", "patch"),
    draw_examples(st.tuples(documents.filter(lambda document: not has_half_a_place(document)), patches), 60),
)
async def test_patch_equals_put_of_the_merged_object(
    client: httpx.AsyncClient, document: dict[str, Any], patch: dict[str, Any]
) -> None:
    made = await make_location(client, name="Location", **document)
    path, wanted = f"/locations/{made['id']}", merged(document, patch)
    response = await client.patch(path, json=patch)
    if has_half_a_place(wanted):
        assert response.status_code == 422
        assert (await client.get(path)).json() == made
        return
    assert response.status_code == 200
    assert {name: response.json()[name] for name in MEMBERS} == ABSENT | wanted
    assert response.json()["version"] == (1 if ABSENT | wanted == ABSENT | document else 2)
    put = await client.put(path, json={"name": "Location"} | wanted)
    assert put.content == response.content


class Whole(Schema):
    required: Annotated[str, Field(min_length=1)]
    optional: Annotated[str, Field(min_length=1)] | None = None
    default: Annotated[int, Field(ge=1)] = 1
    items: list[int] = []


@merge_patch
class Patch(Whole):
    pass


@pytest.mark.parametrize(
    ("patch", "name"),
    [
        ({"required": None}, "required"),
        ({"required": ""}, "required"),
        ({"optional": ""}, "optional"),
        ({"default": None}, "default"),
        ({"default": 0}, "default"),
        ({"default": "1"}, "default"),
        ({"items": [None]}, "items"),
        ({"items": 1}, "items"),
        ({"nonsense": None}, "nonsense"),
    ],
)
def test_patch_keeps_the_constraints_of_the_whole(patch: dict[str, Any], name: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Patch.model_validate(patch)
    assert {error["loc"][0] for error in raised.value.errors()} == {name}


def test_patch_schema_leaves_the_body_schema_unchanged() -> None:
    assert Whole(required="a").model_dump() == {"required": "a", "optional": None, "default": 1, "items": []}
    with pytest.raises(ValidationError):
        Whole.model_validate({"required": "a", "default": None})


@pytest.mark.parametrize("patch", [[], ["a"], "a", 1, None, True])
async def test_non_object_patch_is_rejected(client: httpx.AsyncClient, patch: Any) -> None:
    made = await make_location(client)
    response = await client.patch(f"/locations/{made['id']}", json=patch)
    assert response.status_code == 422
    assert (await client.get(f"/locations/{made['id']}")).json() == made
