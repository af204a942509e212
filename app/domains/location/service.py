"""What can be done with locations."""

from app.domains.location.models import Location
from app.domains.location.schemas import LocationRead, LocationReplace
from app.domains.shared.documents import Documents
from app.domains.shared.trees import TreeService


class LocationService(TreeService):
    model = Location
    documents = Documents(LocationRead, Location)
    schema = LocationReplace
