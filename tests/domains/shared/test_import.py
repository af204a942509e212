"""Imports of files."""

import json
import tracemalloc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.domains.department.service import DepartmentService
from app.domains.process.service import ProcessService
from app.domains.shared.bulk import fault_budget
from app.domains.shared.bulk.fault_budget import FaultBudget
from app.domains.shared.imports import importing, plans
from app.domains.shared.imports import requests as import_requests
from app.domains.shared.imports.columns import members_of
from app.domains.shared.imports.importing import ImportFile
from tests.builders import make, make_department, make_user, token_with
from tests.catalogue import COLLECTIONS, IN_ORDER_OF_REFERENCES, LINKS, PLAIN_TEXTS, every_collection, required
from tests.conftest import Committed, Statements, register_like
from tests.domains.auth.conftest import call, make_account, sign_in

CSV = {"Content-Type": "text/csv"}
NDJSON = {"Content-Type": "application/x-ndjson"}


async def send(client: httpx.AsyncClient, collection: str, content: str | bytes, **parameters: Any) -> httpx.Response:
    return await client.post(f"/{collection}/import", content=content, headers=CSV, params=parameters)


def lines(*objects: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


async def send_lines(
    client: httpx.AsyncClient, collection: str, *objects: dict[str, Any], **parameters: Any
) -> httpx.Response:
    return await client.post(f"/{collection}/import", content=lines(*objects), headers=NDJSON, params=parameters)


async def list_objects(client: httpx.AsyncClient, collection: str) -> list[dict[str, Any]]:
    # A stream has its own connection, and would not see the uncommitted rows of the test's connection.
    page = (await client.get(f"/{collection}", params={"limit": 100})).json()
    assert len(page["items"]) < 100
    items: list[dict[str, Any]] = page["items"]
    return items


async def test_rows_create_objects_and_refer_to_one_another_in_any_order(client: httpx.AsyncClient) -> None:
    content = "code,external_id,name,parent\r\nA,,Leaf,~x/1\r\n,x/1,Middle,B\r\nB,,Root,\r\n,,Nameless key,A\r\n"
    response = await send(client, "departments", content)
    assert response.status_code == 200, response.text
    document = response.json()
    assert document["counts"] == {"create": 4, "change": 0, "unchanged": 0, "fault": 0}
    assert [(row["row"], row["action"], row["version"]) for row in document["rows"]] == [
        (number, "create", 1) for number in (2, 3, 4, 5)
    ]
    leaf = (await client.get("/departments/code:A")).json()
    middle = (await client.get(f"/departments/{leaf['parent_id']}")).json()
    assert (middle["external_id"], middle["parent"]["code"]) == ("x/1", "B")
    assert (await client.get(f"/departments/{document['rows'][3]['id']}")).json()["parent_id"] == leaf["id"]
    again = (await send(client, "departments", content.replace(",,Nameless key,A\r\n", ""))).json()
    assert again["counts"] == {"create": 0, "change": 0, "unchanged": 3, "fault": 0}


async def test_plan_shows_its_result_and_is_executed_once(client: httpx.AsyncClient) -> None:
    old = await make_department(client, code="OLD", name="Old", description="Stays")
    kept = await make_department(client, code="KEPT", name="Kept")
    content = "code;name;parent\r\nold;New;NEW\r\nKEPT;Kept;\r\nNEW;Made;\r\n"
    response = await send(client, "departments", content, dry_run=True)
    plan = response.json()
    assert plan["counts"] == {"create": 1, "change": 1, "unchanged": 1, "fault": 0}
    change, unchanged, create = plan["rows"]
    assert (change["row"], change["action"], change["id"]) == (2, "change", old["id"])
    assert (change["before"]["name"], change["after"]["name"]) == ("Old", "New")
    assert set(change["after"]) == {"code", "name", "parent_id", "parent"}
    assert unchanged == {"row": 3, "action": "unchanged", "id": kept["id"], "version": 1, "before": None, "after": None}
    assert (create["action"], create["id"], create["before"]) == ("create", None, None)
    assert (create["after"]["code"], create["after"]["name"]) == ("NEW", "Made")
    assert (await client.get(f"/departments/{old['id']}")).json() == old
    done = await client.post("/departments/import", params={"plan_id": plan["plan_id"]})
    assert done.status_code == 200, done.text
    assert (done.json()["counts"], done.json()["plan_id"]) == (plan["counts"], None)
    changed = (await client.get(f"/departments/{old['id']}")).json()
    assert (changed["name"], changed["description"], changed["parent"]["code"]) == ("New", "Stays", "NEW")
    again = await client.post("/departments/import", params={"plan_id": plan["plan_id"]})
    assert (again.status_code, again.json()["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "/departments/code:A", {"description": "Other"}),
        ("DELETE", "/departments/code:A", None),
        ("POST", "/departments", {"name": "Taken", "code": "B"}),
        ("PATCH", "/departments/code:P", {"code": "Q"}),
        ("DELETE", "/users/code:U", None),
    ],
)
async def test_plan_is_outdated_when_its_basis_has_changed(
    client: httpx.AsyncClient, method: str, path: str, body: Any
) -> None:
    await make_department(client, code="A")
    await make_department(client, code="P")
    await make_user(client, code="U")
    content = "code,name,parent,head\r\nA,Same,,\r\nB,New,P,U\r\n"
    plan = (await send(client, "departments", content, dry_run=True)).json()
    assert (await client.request(method, path, json=body)).is_success
    before = await list_objects(client, "departments")
    response = await client.post("/departments/import", params={"plan_id": plan["plan_id"]})
    assert (response.status_code, response.json()["code"]) == (409, "plan_outdated")
    assert await list_objects(client, "departments") == before


async def test_plan_is_outdated_after_a_change_of_the_rules(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = await make_user(client, code="U", access_level="editor")
    content = "code,name,access_level\r\nU,New,\r\n"
    monkeypatch.setattr(plans, "RULES_VERSION", plans.RULES_VERSION - 1)
    plan = (await send(client, "users", content, dry_run=True)).json()
    monkeypatch.undo()
    response = await client.post("/users/import", params={"plan_id": plan["plan_id"]})
    assert (response.status_code, response.json()["code"]) == (409, "plan_outdated")
    assert (await client.get(f"/users/{user['id']}")).json() == user


def test_rules_of_reading_files_have_a_version() -> None:
    """If files are read in another way, increase `plans.RULES_VERSION`, and adapt this test."""
    table = (
        "code,name,description,kind,status,owner,parent_id,departments,role_ids,version\r\n"
        "A,\u200bA , ,\u200b,,FIN,7,FIN:owner|~a\\:b,1|2,9\r\n"
        "B,,',,active,~x,,,,\r\n"
    )
    roles = [{"id": 2, "name": "R"}]
    line = {"code": "A", "name": " A", "kind": None, "owner": {"code": "FIN", "id": 1}, "roles": roles}
    files = (ImportFile(table.encode(), "csv"), ImportFile(json.dumps(line).encode(), "ndjson", match_ids=True))
    rows = [row for file in files for row in importing._read(ProcessService.collection, file, FaultBudget())]
    assert [code for row in rows for code in [fault.code for fault in row.faults]] == ["missing"]
    links = [{"department_id": {"code": "FIN"}, "relation": "owner"}, {"department_id": {"external_id": "a:b"}}]
    first = {"code": "A", "name": "\u200bA ", "description": None, "owner_id": {"code": "FIN"}, "parent_id": 7}
    second = {"code": "B", "description": "", "status": "active", "owner_id": {"external_id": "x"}, "parent_id": None}
    third = {"code": "A", "name": " A", "kind": None, "owner_id": {"code": "FIN"}, "roles": [{"role_id": 2}]}
    assert (plans.RULES_VERSION, [row.item for row in rows]) == (
        2,
        [
            {"op": "upsert", "code": "A", "data": first | {"departments": links, "role_ids": [1, 2]}},
            {"op": "upsert", "code": "B", "data": second | {"departments": [], "role_ids": []}},
            {"op": "upsert", "code": "A", "data": third},
        ],
    )


async def test_plan_is_valid_while_its_basis_is_unchanged(client: httpx.AsyncClient) -> None:
    parent = await make_department(client, code="P")
    content = "code,name,parent\r\nB,New,P\r\nC,Newer,B\r\n"
    plan = (await send(client, "departments", content, dry_run=True)).json()
    await client.patch(f"/departments/{parent['id']}", json={"name": "Renamed"})
    await make_department(client)
    response = await client.post("/departments/import", params={"plan_id": plan["plan_id"]})
    assert response.json()["counts"]["create"] == 2


async def test_every_fault_is_reported_with_its_row_and_column(client: httpx.AsyncClient) -> None:
    await make_department(client, code="HERE")
    content = (
        '"Code","External ID","Name","Parent","head_id"\r\n'
        "A,,First,,\r\n"
        "a,,Second,,\r\n"
        "bad code,,Third,ABSENT,\r\n"
        "B,,,HERE,x\r\n"
        "C,,Fifth\r\n"
        "D,,Sixth,B,\r\n"
        "E,,Seventh,E,\r\n"
        "\r\n"
        "F,,Ninth,#999,\r\n"
    )
    expected = {
        3: [("/3/Code", "same_object")],
        4: [("/4/Code", "string_pattern_mismatch"), ("/4/Parent", "unknown_reference")],
        5: [("/5/head_id", "bad_cell"), ("/5/Name", "missing")],
        6: [("/6", "wrong_number_of_cells")],
        7: [("/7/Parent", "failed_reference")],
        8: [("/8/Parent", "cycle")],
        10: [("/10/Parent", "unknown_reference")],
    }
    before = await list_objects(client, "departments")
    plan = (await send(client, "departments", content, dry_run=True)).json()
    assert plan["plan_id"] is None
    assert plan["counts"] == {"create": 1, "change": 0, "unchanged": 0, "fault": 7}
    found = {
        row["row"]: [(error["pointer"], error["code"]) for error in row["errors"]]
        for row in plan["rows"]
        if row["action"] == "fault"
    }
    assert {row: sorted(errors) for row, errors in found.items()} == {
        row: sorted(errors) for row, errors in expected.items()
    }
    same = [error["detail"] for error in plan["rows"][1]["errors"] if error["code"] == "same_object"]
    assert same == ["Row 2 of this request concerns the same department."]
    refused = await send(client, "departments", content)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_content")
    reported = {(error["pointer"], error["code"]) for error in refused.json()["errors"]}
    assert reported == {fault for faults in expected.values() for fault in faults}
    assert await list_objects(client, "departments") == before


async def test_beyond_the_limit_the_first_fault_of_each_row_is_reported(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_budget, "MAX_TOTAL_FAULTS", 30)
    objects = [{"name": "x", **{f"nme{row}_{n}": 1 for n in range(25)}} for row in range(4)]
    # Faults that the batch finds count, too.
    objects += [{"external_id": "a" * 300, "code": "bad code", "name": ""}] * 2
    plan = (await send_lines(client, "departments", *objects, dry_run=True)).json()
    assert [len(row["errors"]) for row in plan["rows"]] == [25, 5, 1, 1, 1, 1]
    hints = [error for row in plan["rows"] for error in row["errors"] if "Did you mean name?" in error["detail"]]
    assert [error["pointer"] for error in hints] == [f"/1/nme0_{n}" for n in range(10)]
    assert plan["counts"]["fault"] == 6


async def test_few_unknown_columns_get_a_hint(client: httpx.AsyncClient) -> None:
    header = ",".join(f"nme{n}" for n in range(900))
    response = await send(client, "departments", f"{header}\r\n{'x,' * 899}x\r\n")
    details = [error["detail"] for error in response.json()["errors"]]
    assert details == ["Objects have no such field. Did you mean name?"] * 10 + ["Objects have no such field."] * 90


async def test_cells_of_ignored_columns_are_not_stored(client: httpx.AsyncClient) -> None:
    # Names without a letter are ignored.
    header = ["name", *("-" * n for n in range(1, 200))]
    rows = [["x", *(f"{row:03d}c" for _ in header[1:])] for row in range(500)]
    content = "\n".join(",".join(cells) for cells in [header, *rows]).encode()
    tracemalloc.start()
    response = await send(client, "departments", content + b'\n"broken"row')
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert response.status_code == 400, response.text
    assert peak < 12 * len(content)


async def test_header_is_checked_before_the_rows_are_read(client: httpx.AsyncClient) -> None:
    response = await send(client, "departments", 'nmae\r\n"broken"row\r\n')
    assert [error["code"] for error in response.json()["errors"]] == ["unknown_column"]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_columns_must_be_distinct_members(client: httpx.AsyncClient, dry_run: bool) -> None:
    content = "nmae,code,Code,name,,description\r\nx,A,A,x,x,x\r\n"
    response = await send(client, "departments", content, dry_run=dry_run)
    assert response.status_code == 422
    assert [(error["pointer"], error["code"], error["detail"]) for error in response.json()["errors"]] == [
        ("/1/nmae", "unknown_column", "Objects have no such field. Did you mean name?"),
        ("/1/Code", "duplicate_column", "Another column is already `code`."),
    ]
    twice = await send(client, "departments", "\r\nname,name,nmae\r\nx,y,z\r\n", dry_run=dry_run)
    assert [(error["pointer"], error["code"]) for error in twice.json()["errors"]] == [
        ("/2/name", "duplicate_column"),
        ("/2/nmae", "unknown_column"),
    ]


async def test_columns_are_mapped_by_the_client(client: httpx.AsyncClient) -> None:
    content = "Kürzel;Bezeichnung;id;über\r\nB;Below;x/2;x/1\r\nA;Above;x/1;\r\n"
    mapping = ["Kürzel:code", "Bezeichnung:name", "id:external_id", "über:parent_external_id"]
    response = await send(client, "departments", content, map=mapping)
    assert response.json()["counts"]["create"] == 2, response.text
    below = (await client.get("/departments/code:B")).json()
    assert (below["external_id"], below["parent"]["code"]) == ("x/2", "A")
    passed = await send(client, "departments", content, map=["Kürzel:code", "Bezeichnung:name", "id:", "über:"])
    assert passed.json()["counts"]["unchanged"] == 2
    wrong = await send(
        client, "departments", content, map=["Kürzel:code", "Bezeichnung:name", "id:idd", "über:", "Name:description"]
    )
    assert [(error["source"], error["pointer"]) for error in wrong.json()["errors"]] == [
        ("query", "/map/4"),
        ("body", "/1/id"),
    ]


@pytest.mark.parametrize("dry_run", [True, False])
async def test_invalid_mapping_is_rejected(client: httpx.AsyncClient, dry_run: bool) -> None:
    mapping = ["A:name", "A:description", "B", "Bb:code", "A\0:code"]
    known = ", ".join(members_of(DepartmentService.collection))
    response = await send(client, "departments", "A,B,A\0\r\nx,y,z\r\n", map=mapping, dry_run=dry_run)
    assert response.status_code == 422
    assert [(error["pointer"], error["code"], error["detail"]) for error in response.json()["errors"]] == [
        ("/map/1", "mapping", "This column is already mapped."),
        ("/map/2", "mapping", "Write a mapping as `column:field`."),
        ("/map/3", "unknown_column", "The file has no such column. Known columns: A, B, A\0."),
        ("/map/4", "mapping", "A mapping must not contain the character NUL."),
        *(
            (f"/1/{name}", "unknown_column", f"Objects have no such field. Known fields: {known}.")
            for name in ("B", "A\0")
        ),
    ]


async def test_member_with_an_empty_name_is_unknown(client: httpx.AsyncClient) -> None:
    response = await send_lines(client, "departments", {"": 1, "name": "a"})
    assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [("/1/", "unknown_member")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\r\n"])
@pytest.mark.parametrize("end", ["\r\n", "\n"])
async def test_tables_of_all_programs_are_read(client: httpx.AsyncClient, delimiter: str, start: str, end: str) -> None:
    cells = [['"a,;b"', "code"], ['"A;,\t\nb ""quoted"""', "T-1"], ["Plain", ""], ["", ""]]
    content = start + end.join(delimiter.join(row) for row in cells) + end
    response = await send(client, "departments", content, map=["a,;b:name"])
    assert response.status_code == 422  # a name has one line
    content = content.replace("\t\nb", "b")
    response = await send(client, "departments", content, map=["a,;b:name"])
    assert response.json()["counts"]["create"] == 2, response.text
    assert (await client.get("/departments/code:T-1")).json()["name"] == 'A;,b "quoted"'


M = 1024 * 1024


@pytest.mark.parametrize(
    ("content", "status", "pointers"),
    [
        (b"name\r\nGr\xfc\xdfe\r\n", 400, [("/2/name", "not_utf8")]),
        (b'\xef\xbb\xbfcode;name\r\nA;"x\ny"\r\nB;"a;\xe4"\r\n', 400, [("/3/name", "not_utf8")]),
        ("name\r\nUTF-16\r\n".encode("utf-16"), 400, [("/1", "not_utf8")]),
        (b'code,name\r\nA,"open\r\nB,b\r\n', 400, [("/2/name", "csv_invalid")]),
        (b'name,code\r\n"a, ""b""\n",A\r\n"a"b,B\r\n', 400, [("/3/name", "csv_invalid")]),
        (b'name\r\na,"b\r\n', 400, [("/2", "csv_invalid")]),
        (b"", 422, [("", "missing_file")]),
        (b"\r\n", 422, [("", "empty_file")]),
        (b"name\r\n", 422, [("", "empty_file")]),
        (b"Finance,FIN\r\nPeople,HR\r\n", 422, [("/1/Finance", "unknown_column"), ("/1/FIN", "unknown_column")]),
        (b"code,name\r\nA,a\0b\r\n", 422, [("/2/name", "control_character")]),
        (b"code,na\0me\r\nA,b\r\n", 422, [("/1/na\0me", "unknown_column")]),
        (b"name\r\n" + b"x" * (16 * M - 6), 422, [("/2/name", "string_too_long")]),
        (b'name\r\n"' + b'""' * (8 * M - 4), 400, [("/2/name", "csv_invalid")]),
        (b"name\r\n" + b"x\r\n" * 10_001, 413, []),
        (b"\r\n" * 50_001, 413, []),
        (b"n," * 1000 + b"\r\nx\r\n", 413, []),
        (b"n" * 201 + b"\r\nx\r\n", 413, []),
        (b"name\r\n" + b"," * 300_001, 413, []),
        (b"name\r\n" + (b"," * 200_000 + b'"\n"') * 2, 413, []),
        (b"name\r\n" + b"," * 300_001 + b"\xff", 413, []),
    ],
)
async def test_malformed_table_is_rejected(
    client: httpx.AsyncClient, content: bytes, status: int, pointers: list[tuple[str, str]]
) -> None:
    response = await send(client, "departments", content)
    problem = response.json()
    assert response.status_code == status, response.text
    assert [(error["pointer"], error["code"]) for error in problem.get("errors", [])] == pointers


@pytest.mark.parametrize(
    ("content", "status", "pointers"),
    [
        (b"[" * M, 422, [("/1", "json_invalid")]),
        (b'{"name": "' + b"x" * M + b'"}', 422, [("/1/name", "string_too_long")]),
        (b"\n" * 50_001, 413, []),
        (b"\n".join(b'{"name": "x", "n%d": 1}' % n for n in range(1001)), 413, []),
        (b'{"name": "x", "departments": [' + b"1," * 200_000 + b"1]}", 413, []),
    ],
)
async def test_lines_that_need_too_much_memory_or_time_are_refused(
    client: httpx.AsyncClient, content: bytes, status: int, pointers: list[tuple[str, str]]
) -> None:
    response = await client.post("/processes/import", content=content, headers=NDJSON)
    assert response.status_code == status, response.text
    assert [(error["pointer"], error["code"]) for error in response.json().get("errors", [])] == pointers


async def test_cells_of_too_many_links_are_refused(client: httpx.AsyncClient) -> None:
    for column, entry in (("departments", "A|"), ("department_ids", "1|")):
        response = await send(client, "processes", f"name,{column}\r\n" + f"x,{entry * 1000}\r\n" * 200)
        assert response.status_code == 413, column
        response = await send(client, "processes", f"name,{column}\r\nx,{entry * 1000}\r\n")
        assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [
            (f"/2/{column}", "bad_cell")
        ]
        response = await send(client, "processes", f"name,{column}\r\nx,{entry * 1000}1\r\n")
        assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [
            (f"/2/{column}", "too_long")
        ]


async def test_cycle_through_many_rows_is_reported(client: httpx.AsyncClient) -> None:
    lines_ = (f"Z{n},x,Z{(n + 1) % 500}\r\n" for n in range(500))
    response = await send(client, "departments", "code,name,parent\r\n" + "".join(lines_))
    assert response.status_code == 409
    assert response.json()["code"] == "cycle"


async def test_bad_lines_are_faults_of_their_rows(client: httpx.AsyncClient) -> None:
    content = (
        b'\xef\xbb\xbf{"name": "Good"}\n{"name": \n\n[1]\n{"name": "x", "nmae": "y"}\n'
        b'{"name": "x", "name": "y"}\n{"name": "\\ud800"}\n\xff\n{"name": 1}\r\n{"name": "x", "parent": 1}'
    )
    response = await client.post("/departments/import", content=content, headers=NDJSON)
    assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [
        ("/2", "json_invalid"),
        ("/4", "not_an_object"),
        ("/5/nmae", "unknown_member"),
        ("/6", "json_invalid"),
        ("/7/name", "string_unicode"),
        ("/8", "json_invalid"),
        ("/9/name", "string_type"),
        ("/10/parent", "bad_cell"),
    ]


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "text/csv; charset=latin1", None])
async def test_other_files_are_unsupported(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post("/departments/import", content=b"name\r\nx\r\n", headers=headers)
    assert response.status_code == 415
    assert response.json()["detail"] == "Send the body as text/csv or application/x-ndjson in UTF-8."


async def test_bodies_have_a_higher_limit_than_other_requests(client: httpx.AsyncClient) -> None:
    text = "x" * 19_000
    content = "external_id,name,description\r\n" + "".join(f"{n},{n},{text}\r\n" for n in range(80))
    assert (await send(client, "departments", content)).status_code == 200
    assert (await send(client, "departments", b"x" * (16 * 1024 * 1024 + 1))).status_code == 413


async def test_rows_with_both_keys_are_matched_by_the_known_one(client: httpx.AsyncClient) -> None:
    by_code = await make_department(client, code="A")
    by_id = await make_department(client, code="B", external_id="x/2")
    content = "code,external_id,name\r\na,x/1,Learns where it is from\r\nC,x/2,Gets a new code\r\nD,x/3,New\r\n"
    response = await send(client, "departments", content)
    assert [row["action"] for row in response.json()["rows"]] == ["change", "change", "create"], response.text
    first = (await client.get(f"/departments/{by_code['id']}")).json()
    second = (await client.get(f"/departments/{by_id['id']}")).json()
    assert [(each["code"], each["external_id"]) for each in (first, second)] == [("a", "x/1"), ("C", "x/2")]


async def test_code_of_an_object_with_another_external_id_matches_no_row(client: httpx.AsyncClient) -> None:
    old = await make_department(client, code="C1", external_id="E1", name="Old")
    taken = await send(client, "departments", "external_id,code,name\r\nE9,c1,New\r\n")
    assert taken.status_code == 409, taken.text
    assert [(each["pointer"], each["code"]) for each in taken.json()["errors"]] == [("/2/code", "duplicate")]
    content = "external_id,code,name\r\nE9,C1,New\r\nE1,C2,Old\r\n"
    plan = (await send(client, "departments", content, dry_run=True)).json()
    assert [(row["action"], row["id"]) for row in plan["rows"]] == [("create", None), ("change", old["id"])], plan
    done = await client.post("/departments/import", params={"plan_id": plan["plan_id"]})
    assert done.json()["counts"] == {"create": 1, "change": 1, "unchanged": 0, "fault": 0}, done.text
    found = [(each["external_id"], each["code"], each["name"]) for each in await list_objects(client, "departments")]
    assert sorted(found) == [("E1", "C2", "Old"), ("E9", "C1", "New")]
    # A row without an external id is matched by code, even if the object has an external id.
    coded = await send(client, "departments", "code,name\r\nC1,Newer\r\n")
    assert coded.json()["counts"]["change"] == 1


async def test_empty_cells_clear_and_absent_columns_keep(client: httpx.AsyncClient) -> None:
    made = await make(
        client, "locations", code="L", kind="room", description="Kept", address="Gone", latitude=1, longitude=-2.5
    )
    content = "code,name,kind,address,latitude,longitude\r\nL,L,,,,\r\nM,M,,,'-1.5,1e1\r\n"
    assert (await send(client, "locations", content)).status_code == 200
    changed = (await client.get(f"/locations/{made['id']}")).json()
    assert [changed[name] for name in ("kind", "description", "address", "latitude")] == ["room", "Kept", None, None]
    new = (await client.get("/locations/code:M")).json()
    assert (new["latitude"], new["longitude"]) == (-1.5, 10.0)
    for cells in ("1_0,1", "nan,1", "1,inf", "1;5,1", "0x1,1", "1,", "91,1", "1e999,1"):
        content = f'code,name,latitude,longitude\r\nL,L,"{cells.split(",")[0]}",{cells.split(",")[1]}\r\n'
        assert (await send(client, "locations", content)).status_code == 422, cells


@pytest.mark.parametrize(
    ("latitude", "longitude", "expected"),
    [
        ("1,5", "2.5", [("/2/Breite", "bad_cell")]),
        ("1.5", "2,5", [("/2/longitude", "bad_cell")]),
        ("1,5", "2,5", [("/2/Breite", "bad_cell"), ("/2/longitude", "bad_cell")]),
        ("1.5", "", [("/2/longitude", "coordinates")]),
    ],
)
async def test_unreadable_cell_is_not_reported_as_missing_too(
    client: httpx.AsyncClient, latitude: str, longitude: str, expected: list[tuple[str, str]]
) -> None:
    content = f"name;Breite;longitude\r\nx;{latitude};{longitude}\r\n"
    response = await send(client, "locations", content, map="Breite:latitude")
    assert [(each["pointer"], each["code"]) for each in response.json()["errors"]] == expected
    plan = (await send(client, "locations", content, map="Breite:latitude", dry_run=True)).json()
    assert [(each["pointer"], each["code"]) for each in plan["rows"][0]["errors"]] == expected


async def test_links_are_cells(client: httpx.AsyncClient) -> None:
    coded = await make_department(client, code="FIN")
    other = await make_department(client, external_id="a|b:c\\d")
    bare = await make_department(client)
    cell = rf"FIN:owner|~a\|b\:c\\d|#{bare['id']}:customer"
    content = f'code;name;departments;location_ids\r\nP;P;"{cell}";\r\n'
    assert (await send(client, "processes", content)).status_code == 200
    process = (await client.get("/processes/code:P")).json()
    assert [(link["id"], link["relation"]) for link in process["departments"]] == [
        (coded["id"], "owner"),
        (other["id"], "participant"),
        (bare["id"], "customer"),
    ]
    assert (await send(client, "processes", content)).json()["counts"]["unchanged"] == 1
    spaced = cell.replace(":owner", " : owner").replace("|~", "\t| ~").replace(":customer", ": customer ")
    assert (await send(client, "processes", content.replace(cell, f" {spaced}"))).json()["counts"]["unchanged"] == 1
    ids = f"code,name,department_ids\r\nP,P, {coded['id']} | {bare['id']}\r\n"
    assert (await send(client, "processes", ids)).json()["counts"]["change"] == 1
    for wrong in ("FIN:owner:x", "|FIN", " |FIN", "F IN", "FIN:boss", ":owner", "#x", "ABSENT"):
        response = await send(client, "processes", f"code,name,departments\r\nP,P,{wrong}\r\n")
        assert response.status_code == 422, wrong
        assert response.json()["errors"][0]["pointer"].startswith("/2/departments")
    assert (await send(client, "processes", "code,name,locations\r\nP,P,X:owner\r\n")).status_code == 422
    assert (await send(client, "processes", "code,name,departments\r\nP,P,\r\n")).json()["counts"]["change"] == 1
    assert (await client.get("/processes/code:P")).json()["departments"] == []


async def test_ids_are_matched_only_with_match_ids(client: httpx.AsyncClient) -> None:
    made = await make_department(client, name="Before")
    child = await make_department(client, parent_id=made["id"])
    content = f"id,name,parent\r\n{made['id']},After,\r\n{child['id']},Child,#{made['id']}\r\n"
    matched = (await send(client, "departments", content, match_ids=True)).json()
    assert [(row["action"], row["id"]) for row in matched["rows"]] == [("change", made["id"]), ("change", child["id"])]
    assert (await client.get(f"/departments/{child['id']}")).json()["parent_id"] == made["id"]
    copied = (await send(client, "departments", content)).json()
    assert [row["action"] for row in copied["rows"]] == ["create", "create"]
    copy = (await client.get(f"/departments/{copied['rows'][1]['id']}")).json()
    assert copy["parent_id"] == copied["rows"][0]["id"] != made["id"]
    unknown = await send(client, "departments", "id,name\r\n999999,x\r\n", match_ids=True)
    assert unknown.json()["errors"][0]["pointer"] == "/2/id"


@pytest.mark.parametrize("cell", ["47.0", "#47", "abc", "-1", "+1", "1e1", "4 7", "\u0664"])
async def test_row_with_an_unreadable_id_creates_no_object(client: httpx.AsyncClient, cell: str) -> None:
    before = await list_objects(client, "departments")
    content = f"Nr,code,name\r\n{cell},NEW,New\r\n"
    for dry_run in (True, False):
        response = await send(client, "departments", content, match_ids=True, map="Nr:id", dry_run=dry_run)
        assert response.status_code == (200 if dry_run else 422), response.text
        errors = response.json()["rows"][0]["errors"] if dry_run else response.json()["errors"]
        assert [(error["pointer"], error["code"]) for error in errors] == [("/2/Nr", "bad_cell")]
    assert await list_objects(client, "departments") == before
    # Without `match_ids`, an unreadable id is ignored.
    copied = await send(client, "departments", content, map="Nr:id")
    assert copied.json()["counts"]["create"] == 1, copied.text


@pytest.mark.parametrize("value", [47.0, True, [], {}, "", "x"])
async def test_line_with_an_invalid_id_creates_no_object(client: httpx.AsyncClient, value: Any) -> None:
    before = await list_objects(client, "departments")
    response = await send_lines(client, "departments", {"id": value, "name": "New"}, match_ids=True)
    assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [("/1/id", "bad_cell")]
    assert await list_objects(client, "departments") == before


async def test_blanks_around_an_id_are_ignored(client: httpx.AsyncClient) -> None:
    made = await make_department(client, name="Before")
    content = f"id,name\r\n {made['id']} ,After\r\n,New\r\n"
    response = await send(client, "departments", content, match_ids=True)
    assert [row["action"] for row in response.json()["rows"]] == ["change", "create"], response.text
    assert (await client.get(f"/departments/{made['id']}")).json()["name"] == "After"


@pytest.mark.parametrize(("header", "parameters"), [("Nr", {"map": "Nr:id"}), ("ID", {})])
async def test_faults_of_ids_have_the_name_of_their_column(
    client: httpx.AsyncClient, header: str, parameters: dict[str, str]
) -> None:
    made = await make_department(client)
    content = f"{header},name\r\n{made['id']},x\r\n{made['id']},y\r\n{10**15},x\r\n{10**25},x\r\n0,x\r\n"
    response = await send(client, "departments", content, match_ids=True, **parameters)
    assert [(each["pointer"], each["code"]) for each in response.json()["errors"]] == [
        (f"/3/{header}", "same_object"),
        (f"/4/{header}", "not_found"),
        (f"/5/{header}", "less_than_equal"),
        (f"/6/{header}", "greater_than_equal"),
    ]


async def test_import_may_take_longer_than_other_requests(
    client: httpx.AsyncClient, statements: Statements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_requests, "STATEMENT_SECONDS", 0.001)
    response = await send(client, "departments", "code,name\r\n" + "".join(f"T{n},x\r\n" for n in range(500)))
    assert (response.status_code, response.json()["code"]) == (503, "database_busy")
    assert any("set_config" in each for each in statements)


async def test_brief_with_an_id_alone_must_have_the_name_of_the_object(client: httpx.AsyncClient) -> None:
    expected = await make_department(client, name="Ours")
    brief = {"id": expected["id"], "code": None, "external_id": None}
    process = {"code": "P", "name": "P"}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("roles", {"department": brief | {"name": "Theirs"}}, "/1/department"),
        ("roles", {"department": brief | {"name": 5}}, "/1/department"),
        ("departments", {"parent": brief | {"name": "Theirs"}}, "/1/parent"),
        (
            "processes",
            {"departments": [brief | {"name": "Theirs", "relation": "owner"}]},
            "/1/departments/0",
        ),
    ]
    for collection, members, pointer in cases:
        refused = await send_lines(client, collection, process | members)
        assert [(each["pointer"], each["code"]) for each in refused.json()["errors"]] == [(pointer, "other_name")]
        assert (await client.get(f"/{collection}/code:P")).status_code == 404
        # With `match_ids` the ids are those of this register, whatever the name.
        taken = await send_lines(client, collection, process | members, match_ids=True)
        assert taken.status_code == 200, taken.text
        await client.delete(f"/{collection}/code:P")
    links = [brief | {"name": "Ours", "relation": "owner"}]
    for members in ({"departments": links}, {"departments": [{"id": expected["id"], "relation": "owner"}]}):
        done = await send_lines(client, "processes", process | members)
        assert done.status_code == 200, done.text
        assert (await client.get("/processes/code:P")).json()["departments"][0]["id"] == expected["id"]
    gone = await send_lines(client, "roles", process | {"department": brief | {"id": 10**12, "name": "Ours"}})
    assert [(each["pointer"], each["code"]) for each in gone.json()["errors"]] == [
        ("/1/department", "unknown_reference")
    ]
    for key in (10**30, 0, -1):
        wrong = await send_lines(client, "roles", process | {"department": brief | {"id": key, "name": "Ours"}})
        assert wrong.status_code == 422, wrong.text


async def test_reference_to_an_id_of_several_rows_is_rejected(client: httpx.AsyncClient) -> None:
    for member, reference in (("parent_id", "5"), ("parent", "#5")):
        rows = f"id,name,{member}\n5,A,\n5,B,\n6,C,\n7,D,{reference.replace('5', '6')}\n"
        assert (await send(client, "departments", rows)).status_code == 200
        refused = await send(client, "departments", f"{rows}8,E,{reference}\n")
        faults = [(each["pointer"], each["code"]) for each in refused.json()["errors"]]
        assert faults == [(f"/6/{member}", "bad_cell")]
    brief = {"id": 5, "code": None, "name": "A"}
    refused = await send_lines(client, "departments", {"id": 5, "name": "A"}, {"id": 5, "name": "B"}, {"parent": brief})
    assert ("/3/parent", "bad_cell") in [(each["pointer"], each["code"]) for each in refused.json()["errors"]]


async def test_object_that_a_file_renames_can_be_referred_to_by_either_name(client: httpx.AsyncClient) -> None:
    above, below = await make_department(client, name="Old"), await make_department(client)
    for name in ("Old", "New"):
        content = [
            {"id": above["id"], "name": "New"},
            {"id": below["id"], "name": "Below", "parent": {"id": above["id"], "code": None, "name": name}},
        ]
        response = await send_lines(client, "departments", *content, match_ids=True)
        assert response.status_code == 200, response.text
    assert (await client.get(f"/departments/{below['id']}")).json()["parent"]["name"] == "New"


async def test_lines_of_another_register_refer_by_external_id(committed: Committed, other: Committed) -> None:
    await make_department(committed.client, external_id="x/1", name="Meant")
    found = (await committed.client.get("/departments")).json()["items"][0]["id"]
    await make(committed.client, "roles", code="R", department_id=found)
    await make_department(other.client, name="Has the id")
    await make_department(other.client, external_id="x/1", name="Meant")
    form = "application/x-ndjson"
    await send_file(other, "roles", form, await exported(committed.client, "roles", form))
    assert (await other.client.get("/roles/code:R")).json()["department"]["name"] == "Meant"


async def test_rows_of_existing_objects_refer_to_each_other_by_id(client: httpx.AsyncClient) -> None:
    await make_department(client, code="A")
    await make_department(client, code="B")
    content = "id,code,parent_id\r\n7,A,\r\n8,B,7\r\n"
    assert (await send(client, "departments", content)).json()["counts"]["change"] == 1
    assert (await client.get("/departments/code:B")).json()["parent"]["code"] == "A"
    assert (await send(client, "departments", content)).json()["counts"]["unchanged"] == 2


async def test_plan_is_executed_without_other_parameters(client: httpx.AsyncClient) -> None:
    plan = (await send(client, "departments", "name\r\nx\r\n", dry_run=True)).json()["plan_id"]
    for parameters, content in (
        ({"plan_id": plan, "dry_run": "true"}, b""),
        ({"plan_id": plan}, b"name\r\nx\r\n"),
        ({"plan_id": "x"}, b""),
        ({}, b""),
    ):
        response = await client.post("/departments/import", params=parameters, content=content, headers=CSV)
        assert response.status_code == 422, response.text
    other = await client.post("/roles/import", params={"plan_id": plan})
    assert other.status_code == 404
    assert (await client.post("/departments/import", params={"plan_id": plan})).status_code == 200


async def test_plan_belongs_to_its_creator(app: FastAPI, client: httpx.AsyncClient) -> None:
    plan = (await send(client, "departments", "name\r\nx\r\n", dry_run=True)).json()["plan_id"]
    other = await sign_in(app, (await make_account(app, "admin"))["email"])
    refused = await call(app, other["access_token"], "POST", f"/departments/import?plan_id={plan}")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert (await client.post("/departments/import", params={"plan_id": plan})).status_code == 200


async def test_plan_expires(client: httpx.AsyncClient, connection: AsyncConnection) -> None:
    made = (await send(client, "departments", "name\r\nx\r\n", dry_run=True)).json()
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=30) < left <= timedelta(minutes=60)
    for moved, status in (("now()", 404), ("now() + interval '1 hour'", 200)):
        await connection.execute(text(f"UPDATE import_plans SET expires_at = {moved}"))
        response = await client.post("/departments/import", params={"plan_id": made["plan_id"]})
        assert response.status_code == status, response.text


async def test_plan_is_not_outdated_by_a_token_with_fewer_scopes(client: httpx.AsyncClient) -> None:
    await make_user(client, code="U")
    content = "code,access_level\r\nU,admin\r\n"
    plan = (await send(client, "users", content, dry_run=True)).json()["plan_id"]
    narrow = await token_with(client, "users:write")
    refused = await client.post("/users/import", params={"plan_id": plan}, headers=narrow)
    assert (refused.status_code, refused.json()["scope"].split()[0]) == (403, "admin"), refused.text
    assert [error["pointer"] for error in refused.json()["errors"]] == ["/2/access_level"]
    assert (await client.post("/users/import", params={"plan_id": plan})).status_code == 200


async def test_number_of_plans_of_a_caller_is_limited(client: httpx.AsyncClient) -> None:
    plans = [(await send(client, "roles", f"name\r\n{n}\r\n", dry_run=True)).json()["plan_id"] for n in range(6)]
    responses = [await client.post("/roles/import", params={"plan_id": plan}) for plan in plans]
    assert sum(response.status_code == 200 for response in responses) == 5


@pytest.mark.parametrize(
    ("row", "pointer"),
    [
        ("NEW,New,new@x.example,admin", "/3/access_level"),
        ("EDITOR,Editor,editor@x.example,admin", "/3/access_level"),
        ("ADMIN,Renamed,admin@x.example,admin", "/3"),
        ("ADMIN,Admin,admin@x.example,viewer", "/3/access_level"),
    ],
)
async def test_only_administrators_create_and_change_administrators(
    client: httpx.AsyncClient, row: str, pointer: str
) -> None:
    for code in ("EDITOR", "ADMIN"):
        await make_user(
            client, code=code, name=code.title(), email=f"{code.lower()}@x.example", access_level=code.lower()
        )
    before = await list_objects(client, "users")
    content = f"code,name,email,access_level\r\nV,Viewer,v@x.example,viewer\r\n{row}\r\n"
    headers = CSV | await token_with(client, "users:read", "users:write")
    plan = await client.post("/users/import?dry_run=true", content=content, headers=headers)
    assert plan.status_code == 200, plan.text
    assert plan.json()["plan_id"] is None
    assert [planned["action"] for planned in plan.json()["rows"]] == ["create", "fault"]
    assert (pointer, "forbidden") in {(each["pointer"], each["code"]) for each in plan.json()["rows"][1]["errors"]}
    refused = await client.post("/users/import", content=content, headers=headers)
    scope = refused.json()["scope"]
    assert (refused.status_code, refused.json()["code"], scope.split()[0]) == (403, "forbidden", "admin")
    assert refused.json()["errors"] == plan.json()["rows"][1]["errors"]
    assert f'scope="{scope}"' in refused.headers["www-authenticate"]
    assert await list_objects(client, "users") == before
    # With the scope the file is imported.
    assert (await send(client, "users", content)).status_code == 200


async def test_last_administrator_stays(client: httpx.AsyncClient) -> None:
    (first,) = await list_objects(client, "users")
    for column, cell in (("is_active", "FALSE"), ("access_level", "editor")):
        content = f"id,name,{column}\r\n{first['id']},Gone,{cell}\r\n"
        response = await send(client, "users", content, match_ids=True)
        assert (response.status_code, response.json()["code"]) == (409, "last_administrator")
        assert [(error["pointer"], error["code"]) for error in response.json()["errors"]] == [
            (f"/2/{column}", "last_administrator")
        ]
    assert await list_objects(client, "users") == [first]
    await make_user(client, access_level="admin")
    assert (await send(client, "users", content, match_ids=True)).json()["counts"]["change"] == 1


async def test_flags_are_true_or_false(client: httpx.AsyncClient) -> None:
    for cell, status in (("TRUE", 200), ("false", 200), ("no", 422), ("1", 422)):
        response = await send(client, "users", f"code,name,email,is_active\r\nU,U,u@x.example,{cell}\r\n")
        assert response.status_code == status, cell
        if status == 200:
            assert (await client.get("/users/code:U")).json()["is_active"] == (cell == "TRUE")
        else:
            assert [error["code"] for error in response.json()["errors"]] == ["bad_cell"]


@every_collection
async def test_number_of_statements_is_fixed(
    client: httpx.AsyncClient, statements: Statements, collection: str
) -> None:
    def table(number: int, name: str) -> str:
        things = [
            required(collection, f"n{n}") | {"code": f"T-{n}", "external_id": f"x/{n}", "name": name}
            for n in range(number)
        ]
        return "\r\n".join([",".join(things[0]), *(",".join(map(str, each.values())) for each in things)])

    await send(client, collection, table(1, "Warm"))
    counts: dict[str, set[int]] = {"plan": set(), "create": set(), "change": set(), "same": set()}
    for number in (2, 60):
        for what, name, dry_run in (("plan", "A", True), ("create", "A", False), ("change", "B", False)):
            with statements.counted() as seen:
                response = await send(client, collection, table(number, f"{name}{number}"), dry_run=dry_run)
            assert response.status_code == 200, response.text
            counts[what].add(len(seen))
        with statements.counted() as seen:
            await send(client, collection, table(number, f"B{number}"))
        counts["same"].add(len(seen))
    assert {what: len(numbers) for what, numbers in counts.items()} == dict.fromkeys(counts, 1)
    assert max(counts["plan"]) <= 13


HOSTILE = [
    "=1+1",
    "+49",
    "-1",
    "@a",
    "'quoted'",
    "''",
    "'=x",
    'a "b", c;d\te'.replace("\t", " "),
    "\U0001f9ea \u00e9 \u4e2d",
    "x|y:z\\",
    "~#1",
    "a\u2028b".replace("\u2028", " "),
]
HOSTILE_TEXT = ["=1\n2\r\n3", "", '"', "'", "\ttab", "a\u2028b\u2029c\x85d".replace("\x85", ""), None, "-", "|:\\"]


async def fill(client: httpx.AsyncClient) -> None:
    """Create objects of all collections, with names that are hard to encode."""
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in COLLECTIONS}
    for number, name in enumerate(HOSTILE):
        keys = {"code": f"C.{number}-_"} if number % 3 == 0 else {}
        keys |= {"external_id": f"{name}|:\\{number}"} if number % 3 < 2 else {}
        text = {"name": name, "description": HOSTILE_TEXT[number % len(HOSTILE_TEXT)]}

        def last(collection: str) -> int | None:
            return made[collection][-1]["id"] if made[collection] else None

        fields: dict[str, dict[str, Any]] = {
            "users": {"email": f"u{number}@x.example", "manager_id": last("users"), "is_active": number % 2 == 0},
            "departments": {"parent_id": last("departments"), "head_id": last("users")},
            "locations": {"parent_id": last("locations"), "latitude": -1.5e-7, "longitude": 179.123456789012},
            "resources": {"kind": "equipment", "location_id": last("locations"), "url": "http://x.example/?=,;|"},
            "roles": {"department_id": last("departments")},
        }
        fields |= {name: {} for name in COLLECTIONS if name not in fields and name != "processes"}
        for collection, members in fields.items():
            plain = dict.fromkeys(PLAIN_TEXTS[collection], "=S|:")
            made[collection].append(await make(client, collection, **text, **keys, **plain, **members))
        links = {each.short: [it["id"] for it in made[each.field]] for each in LINKS["processes"] if not each.detail}
        links |= {
            "departments": [
                {"department_id": each["id"], "relation": "owner" if place == 0 else "customer"}
                for place, each in enumerate(made["departments"])
            ],
            "resources": [{"resource_id": each["id"], "usage": "writes"} for each in made["resources"]],
            "roles": [
                {"role_id": made["roles"][-1]["id"], "responsibility": responsibility}
                for responsibility in ("accountable", "informed")
            ],
        }
        made["processes"].append(
            await make(client, "processes", **text, **keys, parent_id=last("processes"), status="active", **links)
        )


async def exported(client: httpx.AsyncClient, collection: str, form: str) -> bytes:
    return (await client.get(f"/{collection}", headers={"Accept": form})).content


@pytest.mark.parametrize("form", ["text/csv", "application/x-ndjson"])
async def test_import_of_an_unchanged_export_changes_nothing(committed: Committed, form: str) -> None:
    client = committed.client
    await fill(client)
    for collection in COLLECTIONS:
        content = await exported(client, collection, form)
        response = await client.post(
            f"/{collection}/import", content=content, headers={"Content-Type": form}, params={"match_ids": "true"}
        )
        number = len(HOSTILE) + (collection == "users")
        assert response.status_code == 200, response.text
        assert response.json()["counts"] == {"create": 0, "change": 0, "unchanged": number, "fault": 0}, response.text


@pytest.fixture
async def other(server_url: URL, template: URL) -> AsyncIterator[Committed]:
    """An empty second register."""
    async with register_like(server_url, template) as register:
        yield register


async def send_file(register: Committed, collection: str, form: str, content: bytes, **parameters: Any) -> None:
    response = await register.client.post(
        f"/{collection}/import", content=content, headers={"Content-Type": form}, params=parameters
    )
    assert response.status_code == 200, response.text


@pytest.mark.parametrize("form", ["text/csv", "application/x-ndjson"])
async def test_round_trip_into_an_empty_register_is_identical(
    committed: Committed, other: Committed, form: str
) -> None:
    await fill(committed.client)
    # The first administrator exists already; the heads of departments come before the departments. Objects without keys
    # are referred to by ids, which agree because both registers assign the same ids.
    plain = (await committed.client.get("/users?id__not=1&fields=code,external_id,name,email")).json()["items"]
    files = {name: await exported(committed.client, name, form) for name in COLLECTIONS}
    await send_lines(other.client, "users", *plain)
    for collection in IN_ORDER_OF_REFERENCES:
        if collection != "users":
            await send_file(other, collection, form, files[collection])
    await send_file(other, "users", form, await exported(committed.client, "users?id__not=1", form), match_ids="true")
    for collection in COLLECTIONS:
        expected, found = [
            without_ids(await list_objects(register.client, collection)) for register in (committed, other)
        ]
        assert found == expected


def without_ids(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return objects without ids and without the members that the register sets itself."""
    own = {"id", "created_at", "updated_at", "created_by", "updated_by", "version"}

    def kept(value: Any) -> Any:
        if isinstance(value, dict):
            members = {name: kept(each) for name, each in value.items()}
            return {name: each for name, each in members.items() if name not in own and not name.endswith("_id")}
        return [kept(each) for each in value] if isinstance(value, list) else value

    return [kept(each) | {"external_id": each["external_id"]} for each in objects]
