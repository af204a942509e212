"""The description at the top of the OpenAPI document: the rules that hold for all operations."""

from app.core.http.authorisation import MAX_MESSAGE_LENGTH
from app.domains.shared.idempotency.store import RETENTION_HOURS
from app.domains.shared.query.filters import MAX_VALUES
from app.domains.shared.query.pages import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, MAX_SORT_FIELDS

DESCRIPTION = f"""
Paths take the `id` of an object, or `code:` followed by its code: `/api/v1/departments/code:FIN`. Query parameters also
take `external_id:` followed by the external id (`owner_id=external_id:hr/4711`), and bodies take an object in place of
an id: `{{"code": "FIN"}}` or `{{"external_id": "hr/4711"}}`.

## Authentication

Use **Authorize**, or send `Authorization: Bearer …` with an access token from `POST /api/v1/auth/token` or with an API
token. The description of each operation names the scope that it requires.

## Writing

- **PUT** replaces an object: omitted fields are reset to their defaults, except `access_level` and `is_active` of a
  user, which are kept.
- **PATCH** merges (RFC 7396): omitted fields are kept, and `null` clears a list of links or a field that can have no
  value. Any other field takes no `null`: 422 `null_not_allowed`.
- **If-Match** with the `ETag` of an object prevents lost updates: the response is 412 if the object has changed since.
  **If-None-Match** with `*` or an `ETag` is 412 if the object exists, or still has that version.
- **Idempotency-Key** makes POST and PATCH repeatable: for {RETENTION_HOURS} hours, a repeat with the same key changes
  nothing and returns the first response.
- **X-Change-Message** (at most {MAX_MESSAGE_LENGTH} characters) records the reason for a change in the history.

## Lists

- **Pages**: `limit` is 1 to {MAX_LIMIT} ({DEFAULT_LIMIT} by default) unless the operation states another range. `next`
  and `prev` are the URLs of the adjacent pages, and `count=exact` sets `total`.
- **Cursors**: in all lists, `next` and `prev` contain a `cursor`, which reaches any page and is unaffected by created
  and deleted objects. A cursor is valid only with the same filters and `sort`. All lists take an `offset` of up to
  {MAX_OFFSET:,}.
- **Exports**: with `Accept: application/x-ndjson` or `text/csv`, a list of objects or changes is streamed whole from
  one snapshot, with the same filters, `sort`, `fields` and `embed`. `limit` then has no default, `count` has no effect,
  and a cursor from `prev` is rejected.
- **Following changes**: `GET /changes/feed` delivers every committed change exactly once; `wait=30` waits for the next.
- Unknown parameters are rejected with 400.

## Sorting

`sort=-updated_at,name` sorts by up to {MAX_SORT_FIELDS} different fields; the prefix `-` means descending order. Ties
are broken by `id`, in descending order if the last field has the prefix. Objects without a `code` or `criticality` come
last, or first in descending order. Without `sort`, objects are sorted by `id`, and with `q` by relevance.

## Selecting fields

`fields=id,name` returns only the named fields. `embed=owner,departments` returns only these references and links,
together with all other fields; `embed=none` returns no references and links. With both parameters, the response
contains the fields that either parameter names. The order of the names has no effect. Fields that are not returned are
not queried. `holders` of roles are returned only if one of the parameters names them: `embed=department,holders`.

## Filters

All filters of a request must match, except that `field__null=true` is an alternative to the other conditions on the
field: `criticality=low&criticality__null=true`. A suffix of the parameter selects the comparison:

| parameter | selects objects whose field |
| --- | --- |
| `field=…` | equals one of the values; repeat the parameter for up to {MAX_VALUES} values |
| `field__not=…` | equals none of the values, or has no value |
| `field__null=…` | has no value (`true`) or a value (`false`) |
| `field__ic=…` | contains the text, ignoring case |
| `field__sw=…` | starts with the text, ignoring case |
| `field__gt=…`, `field__gte=…` | is greater than the value, or at least the value |
| `field__lt=…`, `field__lte=…` | is less than the value, or at most the value |

- Equality ignores the case of `code` and `email` only. Instants have an offset from UTC (RFC 3339).
- **Trees**: `within=1` selects an object and its descendants. `department_within=1` selects objects that refer or link
  to one of them. `level=1` selects roots, `level=2` their children, and `has_children=false` objects without children.
- **Links**: several conditions on links to the same kind of object must match the same link:
  `department_id=1&relation=owner` selects the processes that department 1 owns. If the path fixes a link, as in
  `/departments/1/processes`, they apply to this link unless the query names another `department_id`.
  `role_match=all` requires all values of `role_id`; `role_match=none` or `role_id__null=true` selects objects without a
  role.
- **Search**: `q` ignores case and accents. Results are ranked: (1) whole code or name, (2) beginning of code or name,
  (3) words of code and name, (4) words of code, name and description, (5) similar words.

## Errors

Every error is a problem document (RFC 9457) with a JSON pointer to each error in the request.
`GET /problems/{{name}}` explains each kind of problem.
"""
