"""Hints for misspelt parameters."""

import httpx
import pytest

from app.core.http.hints import nearest_name
from app.domains.process.lists import ProcessListQuery
from tests.builders import make_department

PROCESS_PARAMETERS = tuple(ProcessListQuery.model_fields)

# Misspellings, and spellings and names of other APIs.
MISSPELT = """
statuss              status
departmnt_id         department_id
criticalty           criticality
limt                 limit
nmae                 name
responsable          responsibility
name_ic              name__ic
code_null            code__null
nmae__ic             name__ic
statuss__not         status__not
created_at_gte       created_at__gte
created_at__ge       created_at__gte
created_after        created_at__gt
updated_since        updated_at__gte
updated_at[gte]      updated_at__gte
status[]             status
status__in           status
statuss__in          status
status__ne           status__not
name__icontains      name__ic
name__contains       name__ic
name__like           name__ic
nmae__contains       name__ic
name__startswith     name__sw
name__isnull         name
owner__isnull        owner_id__null
Status               status
createdAt            created_at
departmentId         department_id
department-id        department_id
department           department_id
departments          department_id
department_ids       department_id
owner                owner_id
role                 role_id
parent               parent_id
created_by           created_by_id
order_by             sort
orderBy              sort
ordering             sort
sort_by              sort
page                 cursor
after                cursor
page_size            limit
per_page             limit
size                 limit
skip                 offset
start                offset
include              embed
expand               embed
field                fields
select               fields
with_count           count
total                count
"""


@pytest.mark.parametrize(("name", "expected"), [line.split() for line in MISSPELT.splitlines() if line])
def test_misspelt_parameter_of_a_list_is_recognised(name: str, expected: str) -> None:
    assert nearest_name(name, PROCESS_PARAMETERS) == expected


@pytest.mark.parametrize("name", ["xyzzy", "", "_", "__ic", "%", "[]", "größe", "type", "limit" * 20, "\ud800"])
def test_name_that_only_shares_letters_is_not_proposed(name: str) -> None:
    assert nearest_name(name, PROCESS_PARAMETERS) is None


def test_only_parameters_of_the_route_are_proposed() -> None:
    assert nearest_name("page", ("limit", "offset")) == "offset"
    assert nearest_name("order_by", ("limit", "offset")) is None
    assert nearest_name("search", ("name__ic", "q")) == "q"
    assert nearest_name("groupby", ("group_by",)) == "group_by"
    assert nearest_name("anything", ()) is None


async def test_every_kind_of_list_proposes_the_intended_parameter(client: httpx.AsyncClient) -> None:
    department = await make_department(client)
    for address, expected in {
        "/processes?statuss=draft": "status",
        "/processes/stats?group_by=status&departmnt_id=1": "department_id",
        "/processes/stats?groupby=status": "group_by",
        f"/departments/{department['id']}/processes?order_by=name": "sort",
        f"/departments/{department['id']}/changes?page=2": "cursor",
        "/departments?page_size=1": "limit",
        "/changes?actor=1": "actor_id",
        "/changes?object=1": "object_id",
    }.items():
        response = await client.get(address)
        problem = response.json()
        name = address.rpartition("&")[2].rpartition("?")[2].partition("=")[0]
        assert (response.status_code, problem["code"]) == (400, "bad_request")
        assert problem["detail"] == f"There is no parameter {name} here. Did you mean {expected}?"
        assert [(fault["source"], fault["pointer"]) for fault in problem["errors"]] == [("query", f"/{name}")]


async def test_without_a_hint_all_parameters_are_named(client: httpx.AsyncClient) -> None:
    detail = (await client.get("/changes?xyzzy=1")).json()["detail"]
    assert detail.startswith("There is no parameter xyzzy here. Known parameters: ")
    assert "object_id" in detail


async def test_only_the_first_unknown_parameters_get_a_hint(client: httpx.AsyncClient) -> None:
    query = "&".join(f"limit{number}=1" for number in range(200))
    problem = (await client.get(f"/processes?{query}")).json()
    has_hint = ["Did you mean limit?" in fault["detail"] for fault in problem["errors"]]
    assert has_hint == [True] * 10 + [False] * (len(has_hint) - 10)
    assert len(has_hint) > 10
