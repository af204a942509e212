"""The service of locations."""

from typing import Annotated

from fastapi import Depends

from app.domains.location.models import Location
from app.domains.location.schemas import LocationCreate, LocationRead
from app.domains.shared.trees import Collection, MaxDepth, NoCycle, TreeService


class LocationService(TreeService):
    collection = Collection(Location, LocationRead, LocationCreate, rules=(NoCycle, MaxDepth))


LocationServiceDep = Annotated[LocationService, Depends(LocationService.provide)]
