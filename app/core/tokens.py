"""The tokens of the service: access tokens (JWT, RFC 7519), and opaque tokens that only the service can look up.

All keys are derived from `SECRET_KEY`. During a key change, `PREVIOUS_SECRET_KEY` keeps tokens of the former key valid;
access tokens name their key in `kid`.
"""

import base64
import hashlib
import hmac
import re
import secrets
import string
import time
import uuid
import zlib
from dataclasses import dataclass
from datetime import timedelta

import jwt
from jwt.types import Options

from app.core.config import Settings

ALGORITHM = "HS256"
ISSUER = "process-register"
AUDIENCE = "process-register-api"
ACCESS = "access"
ACCESS_SECONDS = 600
REFRESH_LIFETIME = timedelta(days=30)
# A client that lost the response to a refresh may repeat the request for this long.
REFRESH_GRACE = timedelta(seconds=10)
LINK_LIFETIME = timedelta(hours=24)

API_TOKEN = "prt_"  # noqa: S105 - prefixes by which scanners for leaked secrets recognise tokens
REFRESH_TOKEN = "prr_"  # noqa: S105
LINK_TOKEN = "prl_"  # noqa: S105

_REQUIRED = ["exp", "iat", "sub", "aud", "iss", "jti", "typ", "sid"]
_DIGITS = string.digits + string.ascii_letters
_NUMBER = re.compile("[1-9][0-9]{0,18}")
_MAX_ID = 2**63 - 1
# 256 bits and a CRC-32 in base 62.
_SECRET_LENGTH, _CHECKSUM_LENGTH = 43, 6
_SEAL_LENGTH = 16


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The claims of a valid access token; `expires_at` is in seconds since 1970."""

    user_id: int
    session_id: int
    expires_at: int


class Tokens:
    """Creates and reads tokens with the keys of the settings."""

    def __init__(self, settings: Settings) -> None:
        secret_keys = [settings.secret_key, settings.previous_secret_key]
        self._secrets = [secret.get_secret_value().encode() for secret in secret_keys if secret is not None]
        self._keys = {_key_id(secret): _derive(secret, "access token") for secret in self._secrets}
        self._current = next(iter(self._keys))
        self._seal_keys = [_derive(secret, "seal") for secret in self._secrets]

    def access_token(self, user_id: int, session_id: int) -> str:
        """Return a JWT that is valid for `ACCESS_SECONDS` while its session lasts."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": str(user_id),
            "sid": str(session_id),
            "typ": ACCESS,
            "jti": uuid.uuid4().hex,
            "iat": now,
            "exp": now + ACCESS_SECONDS,
        }
        return jwt.encode(claims, self._keys[self._current], ALGORITHM, headers={"kid": self._current})

    def read_access_token(self, token: str) -> AccessToken | None:
        """Return the claims of a JWT, or None unless it is a valid access token of this service."""
        try:
            key = self._keys[jwt.get_unverified_header(token)["kid"]]
            # The clock of the replica that issued the token may be slightly ahead.
            options: Options = {"require": _REQUIRED, "verify_iat": False}
            claims = jwt.decode(token, key, [ALGORITHM], options=options, audience=AUDIENCE, issuer=ISSUER)
        # A forged token with values of other types raises more than the library's own errors.
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError, RecursionError):
            return None
        subject, session = claims["sub"], claims["sid"]
        if claims["typ"] != ACCESS or not (_is_id(subject) and _is_id(session)):
            return None
        return AccessToken(int(subject), int(session), int(claims["exp"]))

    def successors(self, refresh_token: str) -> list[str]:
        """Return the refresh tokens that may replace another, one for each key; the first is the one to store.

        They are always the same, so a lost response can be repeated. The former key is the first: replicas that do not
        know the new key yet can repeat the response, too.
        """
        keys = [_derive(secret, "refresh token") for secret in reversed(self._secrets)]
        return [_with_checksum(REFRESH_TOKEN, hmac.digest(key, refresh_token.encode(), "sha256")) for key in keys]

    def seal(self, text: str, context: str) -> str:
        """Return a text as a token that clients send back but cannot alter or use in another context."""
        payload = text.encode()
        return _to_base64(self._seals(payload, context)[0] + payload)

    def unseal(self, token: str, context: str) -> str | None:
        """Return the text of a token that was sealed in this context, or None for any other token."""
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except ValueError:
            return None
        seal, payload = sealed[:_SEAL_LENGTH], sealed[_SEAL_LENGTH:]
        if not any(hmac.compare_digest(seal, expected) for expected in self._seals(payload, context)):
            return None
        # Base64 has several spellings of the same bytes, of which only the canonical one is valid.
        return payload.decode() if _to_base64(sealed) == token else None

    def _seals(self, payload: bytes, context: str) -> list[bytes]:
        sealed = len(payload).to_bytes(4) + payload + context.encode("utf-8", "surrogatepass")
        return [hmac.digest(key, sealed, "sha256")[:_SEAL_LENGTH] for key in self._seal_keys]

    def api_token_hashes(self, token: str) -> list[bytes]:
        """Return the keyed hashes under which an API token may be stored, that of the current key first."""
        return [hmac.digest(_derive(secret, "API token"), token.encode(), "sha256") for secret in self._secrets]


def new_token(prefix: str) -> str:
    """Return a random token: the prefix, 256 bits, and a checksum by which scanners recognise it."""
    return _with_checksum(prefix, secrets.token_bytes(32))


def is_well_formed(prefix: str, token: str) -> bool:
    """Return whether a text has the prefix, length and checksum of a token that `new_token` creates."""
    body = token.removeprefix(prefix)
    length = _SECRET_LENGTH + _CHECKSUM_LENGTH
    if not token.startswith(prefix) or len(body) != length or not body.isascii() or not body.isalnum():
        return False
    return body[_SECRET_LENGTH:] == _checksum(prefix + body[:_SECRET_LENGTH])


def token_hash(token: str) -> bytes:
    """Return the hash that is stored of a refresh or link token: 256 random bits need neither salt nor key."""
    return hashlib.sha256(token.encode()).digest()


def _to_base64(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def _is_id(claim: object) -> bool:
    return isinstance(claim, str) and _NUMBER.fullmatch(claim) is not None and int(claim) <= _MAX_ID


def _with_checksum(prefix: str, secret: bytes) -> str:
    body = prefix + _base62(int.from_bytes(secret), _SECRET_LENGTH)
    return body + _checksum(body)


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), _CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _derive(secret: bytes, purpose: str) -> bytes:
    """Return a separate key for each purpose (HMAC as a key derivation function, NIST SP 800-108)."""
    return hmac.digest(secret, purpose.encode(), "sha256")


def _key_id(secret: bytes) -> str:
    return _derive(secret, "key id").hex()[:16]
