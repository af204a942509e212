"""What can be done with resources."""

from app.domains.resource.models import Resource
from app.domains.resource.schemas import ResourceRead, ResourceReplace
from app.domains.shared.documents import Documents
from app.domains.shared.service import CollectionService


class ResourceService(CollectionService):
    model = Resource
    documents = Documents(ResourceRead, Resource)
    schema = ResourceReplace
