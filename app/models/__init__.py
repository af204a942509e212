"""Every domain's models in one place, so that whoever imports it has the whole metadata."""

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
from app.domains.shared.models import Base, RegisterObject
from app.domains.user.models import User

__all__ = [
    "Base",
    "Department",
    "Location",
    "Process",
    "ProcessDepartment",
    "ProcessLocation",
    "ProcessResource",
    "ProcessRole",
    "RegisterObject",
    "Resource",
    "Role",
    "RoleHolder",
    "User",
]
