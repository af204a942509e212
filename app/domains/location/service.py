"""The service of locations."""

from typing import Annotated

from fastapi import Depends

from app.domains.location.models import Location
from app.domains.location.schemas import LocationRead, LocationReplace
from app.domains.shared.trees import Collection, MaxDepth, NoCycle, TreeService


class LocationService(TreeService):
    collection = Collection(Location, LocationRead, LocationReplace, rules=(NoCycle, MaxDepth))


LocationServiceDep = Annotated[LocationService, Depends(LocationService.provide)]
