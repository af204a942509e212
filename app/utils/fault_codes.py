"""The texts of all faults: the `code` and the `detail` of each entry of a problem document's `errors`.

Each fault takes its text from these tables by key: a code, or `code:variant` if a code has several texts. A fault
whose code has no text cannot be raised, and `docs/12-error-codes.md` is generated from these tables. Texts never
repeat a value that a client sent.
"""

from typing import Any

from pydantic_core import PydanticCustomError

_ARRAY = "Must be an array."
_BOOLEAN = "Must be true or false."
_INSTANT = "Must be an instant in RFC 3339 format, with its offset from UTC."
_INTEGER = "Must be an integer."
_NUMBER = "Must be a number."
_OBJECT = "Must be an object."
_UUID = "Must be a UUID."

# Pydantic's error types. `{characters}` and `{items}` are a limit with its noun, `{format}` is the text of a pattern.
PYDANTIC_TEXTS: dict[str, str] = {
    "bool_parsing": _BOOLEAN,
    "bool_type": _BOOLEAN,
    "datetime_from_date_parsing": _INSTANT,
    "datetime_object_invalid": _INSTANT,
    "datetime_parsing": _INSTANT,
    "datetime_type": _INSTANT,
    "dict_type": _OBJECT,
    "enum": "Must be {expected}.",
    "extra_forbidden": "This field is unknown. Remove it or correct its name.",
    "finite_number": "Must be a finite number.",
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "greater_than": "Must be greater than {gt}.",
    "greater_than_equal": "Must be at least {ge}.",
    "int_from_float": _INTEGER,
    "int_parsing": _INTEGER,
    "int_parsing_size": "Must be an integer with fewer digits.",
    "int_type": _INTEGER,
    "less_than": "Must be less than {lt}.",
    "less_than_equal": "Must be at most {le}.",
    "list_type": _ARRAY,
    "literal_error": "Must be {expected}.",
    "missing": "A value is required.",
    "model_attributes_type": _OBJECT,
    "model_type": _OBJECT,
    "none_required": "Must be null.",
    "string_pattern_mismatch": "{format}",
    "string_too_long": "Must have at most {characters}.",
    "string_too_short": "Must have at least {characters}.",
    "string_type": "Must be a string.",
    "string_unicode": "Must be a string of Unicode characters.",
    "timezone_aware": _INSTANT,
    "too_long": "Must have at most {items}.",
    "too_long:secret": "Must have at most {characters}.",
    "too_short": "Must have at least {items}.",
    "too_short:secret": "Must have at least {characters}.",
    "uuid_parsing": _UUID,
    "uuid_type": _UUID,
}
# An error type of Pydantic that the table above does not have.
UNKNOWN_TYPE_TEXT = "This value is not valid."
UNKNOWN_PATTERN_TEXT = "This text has the wrong format."

OWN_TEXTS: dict[str, str] = {
    "bad_cell:boolean": "Write true or false.",
    "bad_cell:id": "Write the id in digits. Columns that end in `_id` or `_ids` do not take codes or external ids.",
    "bad_cell:links": "Separate links by `|`. Write each as a reference, or as a reference, a colon and the detail.",
    "bad_cell:no_detail": "These links have no detail. Remove the colon and the text after it.",
    "bad_cell:number": "Write the number in digits, with a decimal point.",
    "bad_cell:reference": "Refer to an object by its `code`, `external_id` or `id`.",
    "bad_cell:repeated_id": "Several rows of the file have this id.",
    "bad_cell:whole_number": "Write the id as a whole number.",
    "bad_cursor": "This cursor is invalid, or belongs to another list, order or filter. Take it from `next` or `prev`.",
    "bad_cursor:position": (
        "This position is invalid. Take it from a response of the feed, or send `now` to begin with the next change."
    ),
    "bad_reference": "Refer to an object by its id, or by an object with the single field `code` or `external_id`.",
    "bad_reference:blanks": "Remove the blanks before and after the external id.",
    "bad_reference:code": "The text after `code:` is not a code. {reason}",
    "bad_reference:digits": "An id is a number of at most 64 bits, in digits without a sign, leading zeros or blanks.",
    "bad_reference:external_id": "The text after `external_id:` is not an external id. {reason}",
    "bad_reference:id": "These objects have no keys. Refer to them by id.",
    "bad_reference:parameter": "Must be an id, `code:` and a code, or `external_id:` and an external id.",
    "bad_reference:prefix": "Write `code:` and `external_id:` in lower case, followed directly by the key.",
    "both_forms": "Set `{field}` or `{short}`, not both.",
    "change_message": "A change message is one line of at most {characters}.",
    "common_password": "This password is too common. Choose another.",
    "common_password:date": "This password consists mostly of a date or a year. Choose another, such as a few words.",
    "common_password:keyboard": "This password follows the keys of a keyboard. Choose another, such as a few words.",
    "common_password:name": "This password consists mostly of a common name. Choose another, such as a few words.",
    "common_password:personal": (
        "This password is derived from the name or the e-mail address of the user, or from the name of the service. "
        "Choose another, such as a few words."
    ),
    "common_password:repeat": "This password repeats the same characters. Choose another, such as a few words.",
    "common_password:sequence": "This password is a sequence, such as abc or 321. Choose another, such as a few words.",
    "common_password:word": "This password consists mostly of a single common word. Choose another, of a few words.",
    "conflict": "{reason}",
    "contradicting_links": "This list has contradictory entries for the same {noun}.",
    "control_character": "Must not contain control characters.",
    "control_character:lines": "Must not contain control characters other than tabs and line breaks.",
    "control_character:stored": "Must not contain NUL or surrogates.",
    "coordinates": "Latitude and longitude belong together. Set both or neither.",
    "country": "Must be a country code of ISO 3166-1 alpha-2 in capital letters, such as CH.",
    "csv_invalid": "Row {row} cannot be read as CSV from cell {cell} on: {reason}.",
    "cycle": "A {noun} cannot be placed below itself.",
    "cycle:manager_id": "A {noun} cannot be, directly or through others, the manager of themselves.",
    "datetime": _INSTANT,
    "datetime:absent": "This instant does not exist, or is a leap second.",
    "datetime:range": "Must be an instant in the years 1 to 9999 of UTC.",
    "duplicate": "A {noun} with this {field} already exists.",
    "duplicate:item": "{other} of this request has the same {field}.",
    "duplicate_column": "Another column has the same name.",
    "duplicate_column:member": "Another column is already `{member}`.",
    "email": "Must be an e-mail address.",
    "empty_file": "The file has no rows.",
    "entity_tags": '{header} must be `*` or a list of entity tags in quotation marks, such as "1.5f3a".',
    "failed_reference": "Refers to {other}, which cannot be written.",
    "first_administrator": "The first administrator cannot be deleted, because the command line acts on its behalf.",
    "forbidden": "The access level {level} does not include the {scopes}.",
    "forbidden:token": "This token does not have the {scopes}.",
    "idempotency_key": "An Idempotency-Key has 1 to 255 printable ASCII characters and is sent once.",
    "idempotency_key:refused": (
        "Remove the Idempotency-Key. Responses of this operation carry credentials and are not stored."
    ),
    "idempotency_key_reused": "This Idempotency-Key was already used for another request. Choose a new one.",
    "invisible_text": "Must contain at least one visible character.",
    "invisible_text:key": "Remove the characters that are displayed as nothing, such as zero-width spaces.",
    "json_invalid": "The line is not JSON: {reason}.",
    "last_administrator": "This is the last active administrator. Appoint another one first.",
    "mapping": "Write a mapping as `column:field`.",
    "mapping:nul": "A mapping must not contain the character NUL.",
    "mapping:repeated": "This column is already mapped.",
    "missing_file": "Send a file, or the id of a plan.",
    "missing_key": "Identify the object by one key: {keys}.",
    "not_an_object": "The line is not a JSON object.",
    "not_found": "There is no such {noun}.",
    "not_utf8": "Row {row} has bytes that are not UTF-8, in cell {cell}.",
    "null_not_allowed": "Must not be null.",
    "other_key": "This key identifies the object and cannot change. Repeat the same key or omit it.",
    "other_name": "The object with this id has another name. Refer to it by a key, or by the id alone.",
    "parameter_missing": "Requires the parameter {needed}.",
    "planned_already": "A plan is executed unchanged. Send its id without other parameters.",
    "precondition_failed": "The {noun} has changed in the meantime. Its version is now {version}.",
    "precondition_failed:if_match": (
        "`If-Match` does not have the current entity tag: the object has changed, or the tag is weak (`W/`)."
    ),
    "precondition_failed:if_none_match": "`If-None-Match` matches the current entity tag of the object.",
    "repeated_parameter": "This parameter takes one value.",
    "repeated_group": "Objects can be grouped by each name only once.",
    "repeated_sort": "A list can be sorted by each field only once.",
    "same_object": "{other} of this request concerns the same {noun}.",
    "several_accountable": "A process has at most one accountable role.",
    "several_keys": "Identify the object by only one of its keys.",
    "several_owners": "A process has at most one owner department.",
    "spent_link": "This link is invalid, already used or expired. Request a new one.",
    "still_referenced": "The {noun} is still referenced by {referrers}.",
    "surrogate": "Must not contain surrogates.",
    "timezone": "Must be the name of a time zone, such as Europe/Zurich.",
    "too_deep": "The {noun}, or an object below it, would have more than {ancestors} ancestors.",
    "too_deep:chain": (
        "More than {limit:,} objects are above this {noun} and the others of the request, which is too many to look "
        "for cycles. Shorten the chain, or change fewer objects in one request."
    ),
    "too_many_combining_marks": "Must have at most {marks} combining marks in a row. Remove the others.",
    "too_many_groups": "Objects can be grouped by at most {names}.",
    "too_many_pairs": (
        "The selected objects have more than {limit:,} pairs of links. Select fewer objects or links by filters, or "
        "group by one of the names."
    ),
    "too_many_sorts": "A list can be sorted by at most {fields}.",
    "two_places": "Set a cursor or an offset, not both.",
    "type_missing": "Requires the parameter type, because ids are unique only within a collection.",
    "unexpected_data": "An item that deletes an object takes no data. Remove it.",
    "unexpected_file": "A plan already has its file. Send no body.",
    "unexpected_key": "`{operation}` does not take this field. Remove it.",
    "unexpected_version": "Only `update` and `delete` take a version. Remove it.",
    "unknown_column": "The file has no such column. {hint}",
    "unknown_column:member": "Objects have no such field. {hint}",
    "unknown_column:on_request": "Files cannot set this field. Ignore it (`map={name}:`) and use its own request.",
    "unknown_member": "There is no such field. {hint}",
    "unknown_member:none": "`none` cannot be combined with other names.",
    "unknown_parameter": "There is no such parameter. {hint}",
    "unknown_reference": "This object does not exist.",
    "unknown_scope": "Must be known scopes, separated by spaces.",
    "unknown_group": "Grouping {place} is unknown. {hint}",
    "unknown_sort": "Sort field {place} is unknown. {hint}",
    "url": "Must be an http or https URL.",
    "wrong_number_of_cells": "The row has {cells}, but the header has {columns}.",
    "wrong_password": "This is not the current password.",
}

TEXTS = PYDANTIC_TEXTS | OWN_TEXTS
_PATTERN_TEXTS: dict[str, str] = {}


def code_of(key: str) -> str:
    """Return the code of a text."""
    return key.partition(":")[0]


def text_of(key: str, **values: Any) -> str:
    """Return a text with its placeholders filled in. Raises `KeyError` for an unknown key or a missing value."""
    return TEXTS[key].format_map(values).rstrip()


def invalid(key: str, *, member: str | None = None, **values: Any) -> PydanticCustomError:
    """Return the error that a validator raises for a value. A fault between members is placed at `member`."""
    # Pydantic fills in placeholders in this order: the text comes last, since its values may look like placeholders.
    context = {"member": member, "text": text_of(key, **values)}
    return PydanticCustomError(code_of(key), "{text}", context)


def described_pattern(pattern: str, text: str) -> str:
    """Register the text that clients get instead of a regular expression, and return the expression."""
    _PATTERN_TEXTS[pattern] = text
    return pattern


def pattern_text(pattern: str) -> str:
    """Return the text of a regular expression that `described_pattern` registered, or else a general one."""
    return _PATTERN_TEXTS.get(pattern, UNKNOWN_PATTERN_TEXT)
