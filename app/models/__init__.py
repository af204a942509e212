"""Every domain's models in one place, so that whoever imports it has the whole metadata."""

from app.domains.auth.models import (
    ApiToken,
    Credential,
    FamiliarAddress,
    PasswordLink,
    RefreshToken,
    Session,
    SignInAttempts,
)
from app.domains.department.models import Department
from app.domains.location.models import Location
from app.domains.process.models import (
    Process,
    ProcessDepartment,
    ProcessLocation,
    ProcessResource,
    ProcessRole,
)
from app.domains.resource.models import Resource
from app.domains.role.models import Role, RoleHolder
from app.domains.shared.import_models import ImportedObject, ImportPlan, RegisterImport
from app.domains.shared.models import Base, Change, IdempotencyKey, RegisterObject, SearchWord
from app.domains.user.models import User

__all__ = [
    "ApiToken",
    "Base",
    "Change",
    "Credential",
    "Department",
    "FamiliarAddress",
    "IdempotencyKey",
    "ImportPlan",
    "ImportedObject",
    "Location",
    "PasswordLink",
    "Process",
    "ProcessDepartment",
    "ProcessLocation",
    "ProcessResource",
    "ProcessRole",
    "RefreshToken",
    "RegisterImport",
    "RegisterObject",
    "Resource",
    "Role",
    "RoleHolder",
    "SearchWord",
    "Session",
    "SignInAttempts",
    "User",
]
