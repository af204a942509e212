"""Schemas of department requests and responses."""

from app.domains.shared.schemas import Brief, ChangeFields, ObjectRead, Reference, TreeFields, example, merge_patch


class DepartmentFields(TreeFields):
    head_id: Reference | None = None


class DepartmentCreate(DepartmentFields):
    """A new department."""

    model_config = example(name="Treasury", description="Looks after cash, banks and currency risk.", parent_id=1)


class DepartmentReplace(ChangeFields, DepartmentFields):
    """All fields of a department; omitted fields are reset to their defaults."""

    model_config = example(name="Head office", description="Everything that is not a plant.", code="HO")


@merge_patch
class DepartmentPatch(ChangeFields, DepartmentFields):
    """Changes to a department: omitted fields are kept, `null` clears a nullable field."""

    model_config = example(description="Keeps the books and pays the bills.")


class DepartmentRead(ObjectRead):
    """A unit of the organisation."""

    parent_id: int | None
    parent: Brief | None
    head_id: int | None
    head: Brief | None
