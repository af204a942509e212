"""What can be done with users."""

from app.domains.shared.documents import Documents
from app.domains.shared.service import CollectionService
from app.domains.user.models import User
from app.domains.user.schemas import UserRead, UserReplace


class UserService(CollectionService):
    model = User
    documents = Documents(UserRead, User)
    schema = UserReplace
