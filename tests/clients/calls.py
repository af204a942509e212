"""Calls of every kind through the generated Python client.

Each call prints a line, which `test_clients.py` reads. The test generates the client, so it is not part of the project.
"""

import sys
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from process_register_client import AuthenticatedClient, Client
from process_register_client.api.auth import sign_in
from process_register_client.api.changes import follow_changes
from process_register_client.api.departments import (
    create_department,
    delete_department,
    get_department,
    get_department_tree,
    replace_department,
    update_department,
)
from process_register_client.api.processes import (
    count_processes,
    create_process,
    delete_process,
    link_process_department,
    list_processes,
)
from process_register_client.api.roles import create_role, delete_role, get_role, replace_role_holders
from process_register_client.models import (
    CodeReference,
    Criticality,
    DepartmentCreate,
    DepartmentLink,
    DepartmentLinkFields,
    DepartmentPatch,
    DepartmentRead,
    DepartmentRelation,
    DepartmentReplace,
    FeedPage,
    Problem,
    ProblemDependants,
    ProcessCreate,
    ProcessKind,
    ProcessPage,
    ProcessRead,
    ProcessStatus,
    RoleCreate,
    RoleHolders,
    SignIn,
    Stats,
    TokenPair,
    Tree,
)
from process_register_client.types import UNSET, Response, Unset

Answer = TypeVar("Answer")


def report(operation: str, status: HTTPStatus) -> None:
    print(f"{operation} {status.value}")


def parsed(operation: str, response: Response[Answer | Problem]) -> Answer:
    """Return the parsed document of a response. Fails for a problem."""
    report(operation, response.status_code)
    assert response.parsed is not None, response.content
    assert not isinstance(response.parsed, Problem), response.parsed
    return response.parsed


def refused(operation: str, response: Response[Answer | Problem]) -> Problem:
    report(operation, response.status_code)
    assert isinstance(response.parsed, Problem), response.content
    return response.parsed


def token(client: Client, username: str, password: str) -> TokenPair:
    response = sign_in.sync_detailed(client=client, body=SignIn(username=username, password=password))
    report("sign_in", response.status_code)
    assert isinstance(response.parsed, TokenPair), response.content
    return response.parsed


def all_names(client: AuthenticatedClient) -> list[str]:
    """Read all pages of a list, with a repeated filter, an enumeration, and references by id and by code."""
    names: list[str] = []
    cursor: str | Unset = UNSET
    while True:
        page = list_processes.sync(
            client=client,
            kind=[ProcessKind.CORE, ProcessKind.SUPPORT],
            status_not=[ProcessStatus.RETIRED],
            department_within=1,
            id_not=[1, "code:P-1.1"],
            limit=20,
            sort="-name",
            cursor=cursor,
        )
        assert isinstance(page, ProcessPage), page
        names += [process.name for process in page.items]
        if page.next_ is None:
            return names
        (cursor,) = parse_qs(urlsplit(page.next_).query)["cursor"]


def write(client: AuthenticatedClient, finance: DepartmentRead) -> int:
    """Create, replace and change a department; return its id."""
    body = DepartmentCreate(name="Generated in Python", description="To be changed", parent_id=1)
    response = create_department.sync_detailed(client=client, body=body, x_change_message="Made by a generated client")
    made = parsed("create_department", response)
    reference, tag = str(made.id), response.headers["ETag"]
    assert (made.code, made.version) == (None, 1)

    new = DepartmentReplace(name="Generated", code="GEN-PY", description="To be cleared")
    replaced = parsed(
        "replace_department", replace_department.sync_detailed(reference, client=client, body=new, if_match=tag)
    )
    assert (replaced.parent_id, replaced.code) == (None, "GEN-PY"), "an omitted member has its default"

    changes = DepartmentPatch(description=None, parent_id=finance.id)
    updated = parsed("update_department", update_department.sync_detailed(reference, client=client, body=changes))
    assert (updated.description, updated.code) == (None, "GEN-PY"), "null clears a member, an omitted member stays"

    stale = refused(
        "replace_department", replace_department.sync_detailed(reference, client=client, body=new, if_match=tag)
    )
    assert stale.code == "precondition_failed", "the entity tag is that of the first version"
    return made.id


def link(client: AuthenticatedClient) -> ProcessRead:
    """Create a process, link the department to it, and return the process."""
    owner = DepartmentLink(department_id=1, relation=DepartmentRelation.OWNER)
    body = ProcessCreate(name="Generate clients", criticality=Criticality.LOW, departments=[owner])
    process = parsed("create_process", create_process.sync_detailed(client=client, body=body))
    assert (process.kind, process.criticality) == (ProcessKind.CORE, Criticality.LOW), "the default and the given value"
    linked = link_process_department.sync_detailed(
        str(process.id),
        "code:GEN-PY",
        client=client,
        body=DepartmentLinkFields(relation=DepartmentRelation.SUPPLIER),
    )
    report("link_process_department", linked.status_code)
    return process


def count(client: AuthenticatedClient) -> None:
    """Count the processes by one field, and by two."""
    counted = parsed("count_processes", count_processes.sync_detailed(client=client, group_by="status"))
    assert all(isinstance(group.second, Unset) for group in counted.groups), "one key each"
    pairs = count_processes.sync(client=client, group_by="department,status")
    assert isinstance(pairs, Stats), pairs
    found = {
        (group.object_.code, group.second.key)
        for group in pairs.groups
        if group.object_ is not None and not isinstance(group.second, Unset)
    }
    assert ("GEN-PY", "draft") in found, "a pair"


def hold(client: AuthenticatedClient) -> None:
    """Create a role in a department by its code, set its holder, and delete the role."""
    body = RoleCreate(name="Keeper in Python", department_id=CodeReference(code="GEN-PY"))
    role = parsed("create_role", create_role.sync_detailed(client=client, body=body))
    assert role.department is not None
    assert (role.department.code, role.holders) == ("GEN-PY", UNSET), "by code, without holders"
    reference = str(role.id)
    held = replace_role_holders.sync_detailed(reference, client=client, body=RoleHolders(user_ids=[1]))
    report("replace_role_holders", held.status_code)
    embed = "created_by,updated_by,department,holders"
    shown = parsed("get_role", get_role.sync_detailed(reference, client=client, embed=embed))
    assert shown.holders
    assert shown.holders[0].id == 1, "the holder"
    report("delete_role", delete_role.sync_detailed(reference, client=client).status_code)


def delete(client: AuthenticatedClient, reference: str, process: ProcessRead) -> None:
    """Delete the department, after an attempt that is refused because of the link."""
    problem = refused("delete_department", delete_department.sync_detailed(reference, client=client))
    assert isinstance(problem.dependants, ProblemDependants), problem
    (dependant,) = problem.dependants.first
    assert (dependant.type_, dependant.id) == ("processes", process.id), "a referenced object cannot be deleted"

    report("delete_process", delete_process.sync_detailed(str(process.id), client=client).status_code)
    report("delete_department", delete_department.sync_detailed(reference, client=client).status_code)
    gone = refused("get_department", get_department.sync_detailed(reference, client=client))
    assert gone.type_ == "/problems/not-found", "gone"


def main(server: str, username: str, password: str) -> None:
    tokens = token(Client(base_url=server), username, password)
    with AuthenticatedClient(base_url=server, token=tokens.access_token) as client:
        names = all_names(client)
        assert len(names) == len(set(names)) > 20, "every process once, on several pages"
        report("list_processes", HTTPStatus.OK)
        finance = parsed("get_department", get_department.sync_detailed("code:FIN", client=client))
        assert finance.parent is not None
        assert finance.parent.code == "TARN"
        reference = write(client, finance)
        process = link(client)
        count(client)
        hold(client)
        tree: Tree = parsed(
            "get_department_tree", get_department_tree.sync_detailed("code:FIN", client=client, depth=1)
        )
        assert ("GEN-PY", 1) in [(node.code, node.depth) for node in tree.items], "below finance"
        body = DepartmentCreate(name="", parent_id=-1)
        invalid = refused("create_department", create_department.sync_detailed(client=client, body=body))
        faults = {(fault.source.value, fault.pointer) for fault in invalid.errors}
        assert faults == {("body", "/name"), ("body", "/parent_id")}, "both faults"
        feed: FeedPage = parsed("follow_changes", follow_changes.sync_detailed(client=client, limit=1))
        assert (len(feed.items), feed.has_more) == (1, True), "the first of many changes"
        delete(client, str(reference), process)


main(*sys.argv[1:])
