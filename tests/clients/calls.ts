// Calls of every kind through the generated TypeScript client. Each prints a line; tests/clients/test_clients.py reads them.
import createClient, { type Middleware } from "openapi-fetch";
import type { components, paths } from "./schema.ts";

type Schemas = components["schemas"];

const [server, username, password] = process.argv.slice(2);
if (server === undefined || username === undefined || password === undefined) {
  throw new Error("node calls.ts SERVER USERNAME PASSWORD");
}

function check(condition: boolean, what: string): asserts condition {
  if (!condition) throw new Error(what);
}

function report(operation: string, response: Response): void {
  console.log(`${operation} ${response.status}`);
}

// The error of a call is of the one type, whatever its status.
function problemOf(error: Schemas["Problem"] | undefined): Schemas["Problem"] {
  check(error !== undefined, "there is an error");
  return error;
}

// Lists come in other forms, too; these are what a client gets that does not ask for one.
const client = createClient<paths, "application/json" | "application/problem+json">({ baseUrl: server });

// 1. A form.
const signedIn = await client.POST("/api/v1/auth/token", {
  body: { username, password },
  headers: { "Content-Type": "application/x-www-form-urlencoded" },
});
report("sign_in", signedIn.response);
check(signedIn.data !== undefined, "signed in");
const tokens: Schemas["TokenPair"] = signedIn.data;
const authorisation: Middleware = {
  onRequest({ request }) {
    request.headers.set("Authorization", `${tokens.token_type} ${tokens.access_token}`);
    return request;
  },
};
client.use(authorisation);

// 2. Pages, with a filter given twice, an enumeration, and references by id and by code.
const names: string[] = [];
let cursor: string | undefined;
do {
  const { data, response } = await client.GET("/api/v1/processes", {
    params: {
      query: {
        ...{ kind: ["core", "support"], status__not: ["retired"], limit: 20, sort: "-name" },
        ...{ department_within: 1, id__not: [1, "code:P-1.1"] },
        ...(cursor && { cursor }),
      },
    },
  });
  if (cursor === undefined) report("list_processes", response);
  check(data !== undefined, "a page");
  names.push(...data.items.map((process: Schemas["ProcessRead"]) => process.name));
  const owners = data.items.flatMap((process) => process.departments.filter((link) => link.relation === "owner"));
  check(owners.length <= data.items.length, "at most one owner each");
  cursor = data.next === null ? undefined : (new URL(data.next, server).searchParams.get("cursor") ?? undefined);
} while (cursor !== undefined);
check(names.length > 20 && new Set(names).size === names.length, "every process once");

// 3. A new object: only what must be given is given.
const created = await client.POST("/api/v1/departments", {
  body: { name: "Generated in TypeScript", description: "To be changed", parent_id: 1 },
  params: { header: { "X-Change-Message": "Made by a generated client" } },
});
report("create_department", created.response);
check(created.data !== undefined, "created");
const reference = String(created.data.id);
const tag = created.response.headers.get("ETag");
check(tag !== null && created.data.code === null, "a tag, and no code");

// 4. One object, by its code.
const read = await client.GET("/api/v1/departments/{reference}", { params: { path: { reference: "code:FIN" } } });
report("get_department", read.response);
check(read.data?.code === "FIN" && read.data.parent?.code === "TARN", "finance");

// 5. All new values: what was absent has its default.
const replaced = await client.PUT("/api/v1/departments/{reference}", {
  params: { path: { reference }, header: { "If-Match": tag } },
  body: { name: "Generated", code: "GEN-TS", description: "To be cleared" },
});
report("replace_department", replaced.response);
check(replaced.data?.parent_id === null && replaced.data.code === "GEN-TS", "replaced");

// 6. A merge patch: null clears, what is absent stays.
const updated = await client.PATCH("/api/v1/departments/{reference}", {
  params: { path: { reference: "code:GEN-TS" } },
  body: { description: null, parent_id: read.data.id },
});
report("update_department", updated.response);
check(updated.data?.description === null && updated.data.code === "GEN-TS", "cleared, kept");

// 7. The tag is stale by now.
const stale = await client.PUT("/api/v1/departments/{reference}", {
  params: { path: { reference }, header: { "If-Match": tag } },
  body: { name: "Too late" },
});
report("replace_department", stale.response);
check(problemOf(stale.error).code === "precondition_failed", "stale");

// 8. A link, and the process that has it.
const process_ = await client.POST("/api/v1/processes", {
  body: { name: "Generate clients", criticality: "low", departments: [{ department_id: 1, relation: "owner" }] },
});
report("create_process", process_.response);
check(process_.data !== undefined && process_.data.kind === "core", "the default");
const processReference = String(process_.data.id);
const linked = await client.PUT("/api/v1/processes/{reference}/departments/{department}", {
  params: { path: { reference: processReference, department: "code:GEN-TS" } },
  body: { relation: "supplier" },
});
report("link_process_department", linked.response);

// 9. A tree.
const tree = await client.GET("/api/v1/departments/{reference}/tree", {
  params: { path: { reference: "code:FIN" }, query: { depth: 1 } },
});
report("get_department_tree", tree.response);
check(tree.data?.items.some((node) => node.code === "GEN-TS" && node.depth === 1) === true, "below finance");

// Statistics by one field, and by two.
const counted = await client.GET("/api/v1/processes/stats", { params: { query: { group_by: "status" } } });
report("count_processes", counted.response);
check(counted.data?.groups.every((group) => group.second === undefined) === true, "one key each");
const pairs = await client.GET("/api/v1/processes/stats", { params: { query: { group_by: "department,status" } } });
check(pairs.data?.groups.some((group) => group.object?.code === "GEN-TS" && group.second?.key === "draft") === true, "a pair");

// A role, in a department by its code, and its holders, by id and by code.
const role = await client.POST("/api/v1/roles", {
  body: { name: "Keeper in TypeScript", department_id: { code: "GEN-TS" } },
});
report("create_role", role.response);
check(role.data?.department?.code === "GEN-TS" && role.data.holders === undefined, "by code, without holders");
const path = { reference: String(role.data.id) };
const held = await client.PUT("/api/v1/roles/{reference}/holders", { params: { path }, body: { user_ids: [1] } });
report("replace_role_holders", held.response);
const shown = await client.GET("/api/v1/roles/{reference}", { params: { path, query: { embed: "holders" } } });
report("get_role", shown.response);
check(shown.data?.holders?.[0]?.id === 1, "the holder");
const roleDeleted = await client.DELETE("/api/v1/roles/{reference}", { params: { path } });
report("delete_role", roleDeleted.response);

// 10. What is referred to stays: the problem says by what.
const refused = await client.DELETE("/api/v1/departments/{reference}", { params: { path: { reference } } });
report("delete_department", refused.response);
const dependant = problemOf(refused.error).dependants?.first[0];
check(dependant?.type === "processes" && dependant.id === process_.data.id, "the dependant");

// 11. A body with two faults.
const invalid = await client.POST("/api/v1/departments", { body: { name: "", parent_id: -1 } });
report("create_department", invalid.response);
const pointers = problemOf(invalid.error).errors.map((fault) => `${fault.source} ${fault.pointer}`);
check(pointers.includes("body /name") && pointers.includes("body /parent_id"), "both faults");

// 12. The changes from the beginning, as far as they are committed.
let position: string | undefined;
const changed: Schemas["FeedChange"][] = [];
for (let hasMore = true; hasMore; ) {
  const page = await client.GET("/api/v1/changes/feed", {
    params: { query: { type: ["departments"], limit: 1000, ...(position && { after: position }) } },
  });
  if (position === undefined) report("follow_changes", page.response);
  check(page.data !== undefined, "a page of the feed");
  changed.push(...page.data.items);
  position = page.data.position;
  hasMore = page.data.has_more;
}
check(changed.some((change) => change.object.id === created.data.id && change.action === "created"), "the new object");

// 13. Deleted, and gone.
const processDeleted = await client.DELETE("/api/v1/processes/{reference}", {
  params: { path: { reference: processReference } },
});
report("delete_process", processDeleted.response);
const deleted = await client.DELETE("/api/v1/departments/{reference}", { params: { path: { reference } } });
report("delete_department", deleted.response);
const gone = await client.GET("/api/v1/departments/{reference}", { params: { path: { reference } } });
report("get_department", gone.response);
check(problemOf(gone.error).type === "/problems/not-found", "gone");
