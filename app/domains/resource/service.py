"""The service of resources."""

from typing import Annotated

from fastapi import Depends

from app.domains.resource.models import Resource
from app.domains.resource.schemas import ResourceCreate, ResourceRead
from app.domains.shared.service import Collection, CollectionService


class ResourceService(CollectionService):
    collection = Collection(Resource, ResourceRead, ResourceCreate)


ResourceServiceDep = Annotated[ResourceService, Depends(ResourceService.provide)]
