"""What can be done with departments."""

from app.domains.department.models import Department
from app.domains.department.schemas import DepartmentRead, DepartmentReplace
from app.domains.shared.documents import Documents
from app.domains.shared.trees import TreeService


class DepartmentService(TreeService):
    model = Department
    documents = Documents(DepartmentRead, Department)
    schema = DepartmentReplace
