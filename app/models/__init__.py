"""The models of all domains: importing this module loads the complete metadata."""

from app.domains.auth.models import ApiToken, Credential, FamiliarAddress, PasswordLink, RefreshToken, SignInAttempts
from app.domains.department.models import Department
from app.domains.location.models import Location
from app.domains.process.models import (
    Process,
    ProcessDepartment,
    ProcessLocation,
    ProcessResource,
    ProcessRole,
)
from app.domains.register.models import ImportedObject, RegisterImport
from app.domains.resource.models import Resource
from app.domains.role.models import Role, RoleHolder
from app.domains.shared.history.feed_state import FeedState
from app.domains.shared.history.models import Change
from app.domains.shared.idempotency.models import IdempotencyKey
from app.domains.shared.imports.models import ImportPlan
from app.domains.shared.models import Base, RegisterObject, SearchWord
from app.domains.user.models import User
from app.domains.user.sessions import Session

__all__ = [
    "ApiToken",
    "Base",
    "Change",
    "Credential",
    "Department",
    "FamiliarAddress",
    "FeedState",
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
