"""Tokens: only unaltered tokens of this service are accepted, each for its own purpose."""

import base64
import hmac
import json
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.config import Settings
from app.core.tokens import (
    API_TOKEN,
    LINK_TOKEN,
    REFRESH_TOKEN,
    Tokens,
    is_well_formed,
    new_token,
    token_hash,
)
from app.main import create_app
from tests.conftest import ADMIN_PASSWORD, ADMIN_TOKEN, Committed, settings_for
from tests.domains.auth.conftest import (
    ADMIN_EMAIL,
    call,
    client_from,
    faults,
    make_account,
    make_link,
    refresh,
    sign_in,
    sql,
    status_of,
    use_link,
)

TOKENS = Tokens(settings_for(None))
KEY_ID = TOKENS._current
KEY = TOKENS._keys[KEY_ID]
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
HEADER = {"alg": "HS256", "typ": "JWT", "kid": KEY_ID}
REMOVED = object()

Json = dict[str, Any]


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def decode(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def sign(header: Any, claims: Any, key: bytes = KEY, digest: str = "sha256") -> str:
    """Return a hand-made JWT: libraries refuse to create forged ones."""
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, claims)]
    body = ".".join(encode(text.encode()) for text in texts)
    return f"{body}.{encode(hmac.digest(key, body.encode(), digest))}"


def claims_of(token: str) -> Json:
    claims: Json = json.loads(decode(token.split(".")[1]))
    return claims


def changed(original: Json, **changes: Any) -> Json:
    return {name: value for name, value in (original | changes).items() if value is not REMOVED}


def headers(**changes: Any) -> Callable[[Json], str]:
    """Return a forger of tokens with another header, and with the right signature: the header alone must not do."""
    return lambda claims: sign(changed(HEADER, **changes), claims)


def claiming(**changes: Any) -> Callable[[Json], str]:
    """Return a forger of tokens with other claims and the right key, as a bug of the service would sign them."""

    def forge(claims: Json) -> str:
        now = claims["iat"]
        values = {name: value(now) if callable(value) else value for name, value in changes.items()}
        return sign(HEADER, changed(claims, **values))

    return forge


def unsigned(algorithm: str, signature: str = "") -> Callable[[Json], str]:
    def forge(claims: Json) -> str:
        body = sign(HEADER | {"alg": algorithm}, claims).rpartition(".")[0]
        return f"{body}.{signature}"

    return forge


def by_attacker(**header: Any) -> Callable[[Json], str]:
    """Return a forger that signs with the attacker's key, to which the header points."""
    return lambda claims: sign(changed(HEADER, **header), claims, b"the attacker's own key of 32 byte")


def of_installation(secret: str) -> Callable[[Json], str]:
    other = Tokens(settings_for(None, secret_key=SecretStr(secret)))
    return lambda claims: other.access_token(int(claims["sub"]), int(claims["sid"]))


OCTETS = {"kty": "oct", "k": encode(b"the attacker's own key of 32 byte")}
NESTED = "[" * 8_000
INJECTIONS: dict[str, Any] = {
    "jku": "https://attacker.example/keys.json",
    "x5u": "https://attacker.example/key.pem",
    "jwk": OCTETS,
    "x5c": [encode(b"certificate")],
}
KEY_IDS: dict[str, Any] = {
    "unknown": "0" * 16,
    "path": "../../../../../dev/null",
    "sql": "x' UNION SELECT 'key' --",
    "list": [KEY_ID],
    "object": {"kid": KEY_ID},
    "number": 1,
    "null": None,
    "empty": "",
    "upper case": KEY_ID.upper(),
    "missing": REMOVED,
}
NOT_IDS: dict[str, Any] = {
    "number": 1,
    "null": None,
    "list": ["1"],
    "object": {"id": "1"},
    "nested": json.loads("[" * 50 + "]" * 50),
    "boolean": True,
    "empty": "",
    "zero": "0",
    "negative": "-1",
    "leading zero": "01",
    "fraction": "1.0",
    "spaces": " 1 ",
    "line end": "1\n",
    "other digits": "\u0661",
    "too large for the database": str(2**63),
    "huge": "9" * 5_000,
}
NOT_INSTANTS: list[Any] = ["never", [1], {}, float("inf"), float("nan")]
ALGORITHMS = ("HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256", "", None, 1, ["HS256"], REMOVED)

FORGERIES: dict[str, Callable[[Json], str]] = {
    **{f"algorithm {name}, unsigned": unsigned(name) for name in ("none", "None", "NONE", "nOnE", "HS256")},
    **{f"algorithm {name}, with a signature": unsigned(name, "AAAA") for name in ("none", "None")},
    **{f"algorithm {name!r}" if name is not REMOVED else "no algorithm": headers(alg=name) for name in ALGORITHMS},
    "HS384, signed so": lambda claims: sign(HEADER | {"alg": "HS384"}, claims, digest="sha384"),
    "HS512, signed so": lambda claims: sign(HEADER | {"alg": "HS512"}, claims, digest="sha512"),
    "RS256, signed with what it would take for the public key": lambda claims: sign(
        HEADER | {"alg": "RS256"}, claims, KEY_ID.encode()
    ),
    "signed with the id of the key": lambda claims: sign(HEADER, claims, KEY_ID.encode()),
    "signed with no key": lambda claims: sign(HEADER, claims, b""),
    **{f"kid {name}": headers(kid=kid) for name, kid in KEY_IDS.items()},
    "kid path, signed with what is there": lambda claims: sign(HEADER | {"kid": "/dev/null"}, claims, b""),
    **{f"header {name}": by_attacker(**{name: value}) for name, value in INJECTIONS.items()},
    **{f"header {name} and no kid": by_attacker(kid=REMOVED, **{name: value}) for name, value in INJECTIONS.items()},
    "all headers": by_attacker(**INJECTIONS),
    "crit": headers(crit=["unknown"], unknown=True),
    "wrong audience": claiming(aud="another-api"),
    "list of wrong audiences": claiming(aud=["another-api", "process-register"]),
    "audience that is a number": claiming(aud=1),
    "wrong issuer": claiming(iss="https://attacker.example"),
    "list of issuers": claiming(iss=["process-register"]),
    **{f"type {name!r}": claiming(typ=name) for name in ("refresh", "id", "ACCESS", "", None, ["access"], 1)},
    **{
        f"without {name}": claiming(**{name: REMOVED})
        for name in ("exp", "iat", "sub", "aud", "iss", "jti", "typ", "sid")
    },
    **{f"null {name}": claiming(**{name: None}) for name in ("exp", "iat", "sub", "aud", "iss", "jti", "typ", "sid")},
    "expired by a second": claiming(exp=lambda now: now - 1),
    "expires this second": claiming(exp=lambda now: now),
    "expired long ago": claiming(exp=0),
    "expires before time": claiming(exp=-1),
    **{f"expires at {value!r}": claiming(exp=value) for value in NOT_INSTANTS},
    "not valid yet": claiming(nbf=lambda now: now + 60),
    **{f"subject {name}": claiming(sub=value) for name, value in NOT_IDS.items()},
    **{f"session {name}": claiming(sid=value) for name, value in NOT_IDS.items()},
    "session that never was": claiming(sid=str(2**63 - 1)),
    "user who never was": claiming(sub=str(2**63 - 1)),
    "another installation": of_installation("another installation's secret key, long enough"),
    "another installation, almost the same": of_installation("development-only-secret-key-never-use-in-production "),
    "header of deep lists": lambda claims: sign('{"kid":' + NESTED, claims),
    "header of deep and closed lists": lambda claims: sign('{"kid":' + "[" * 5_000 + "]" * 5_000 + "}", claims),
    "claims of deep lists": lambda _: sign(HEADER, '{"sub":' + NESTED),
    "claims that are a list": lambda claims: sign(HEADER, [claims]),
    "claims that are text": lambda _: sign(HEADER, '"claims"'),
    "claims that are not JSON": lambda _: sign(HEADER, "claims"),
    "header that is a list": lambda claims: sign([HEADER], claims),
    "header that is null": lambda claims: sign("null", claims),
    "header with a long number": lambda claims: sign('{"kid": ' + "9" * 5_000 + "}", claims),
    "no header": lambda claims: "." + sign(HEADER, claims).partition(".")[2],
    "no claims": lambda claims: sign(HEADER, claims).split(".")[0] + "..",
    "two segments": lambda claims: sign(HEADER, claims).rpartition(".")[0],
    "four segments": lambda claims: sign(HEADER, claims) + ".AAAA",
    "in quotes": lambda claims: f'"{sign(HEADER, claims)}"',
    "dots": lambda _: "..",
    "20 kB": lambda _: "a" * 20_000,
    "20 kB of dots": lambda _: "a." * 10_000,
    "20 kB of signature": lambda claims: sign(HEADER, claims) + "A" * 20_000,
    "the words of a token in clear": json.dumps,
}


@pytest.fixture
async def access_token(app: FastAPI, connection: AsyncConnection) -> str:
    """The access token of a signed-in administrator, from which others are forged."""
    del connection  # what signing in does is undone with it
    return (await sign_in(app, ADMIN_EMAIL, ADMIN_PASSWORD))["access_token"]


def assert_not_accepted(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="process-register", error="invalid_token"'


async def test_hand_made_token_like_those_of_the_service_is_accepted(app: FastAPI, access_token: str) -> None:
    claims = claims_of(access_token)
    assert await status_of(app, access_token) == 200
    assert await status_of(app, sign(HEADER, claims)) == 200
    assert await status_of(app, sign(HEADER, claims | {"nbf": claims["iat"]})) == 200
    assert await status_of(app, sign(HEADER, claims | {"exp": claims["iat"] + 60})) == 200
    # The clock of the replica that issued the token may be ahead.
    assert await status_of(app, sign(HEADER, claims | {"iat": claims["iat"] + 2})) == 200


def test_token_has_only_the_necessary_claims() -> None:
    token = TOKENS.access_token(5, 7)
    claims = claims_of(token)
    assert json.loads(decode(token.split(".")[0])) == HEADER
    assert claims == {
        "iss": "process-register",
        "aud": "process-register-api",
        "sub": "5",
        "sid": "7",
        "typ": "access",
        "jti": claims["jti"],
        "iat": claims["iat"],
        "exp": claims["iat"] + 600,
    }
    assert claims["jti"] != claims_of(TOKENS.access_token(5, 7))["jti"]
    read = TOKENS.read_access_token(token)
    assert read is not None
    assert (read.user_id, read.session_id, read.expires_at) == (5, 7, claims["exp"])


@pytest.mark.parametrize("forgery", FORGERIES)
async def test_forged_token_is_not_accepted(app: FastAPI, access_token: str, forgery: str) -> None:
    forged = FORGERIES[forgery](claims_of(access_token))
    assert_not_accepted(await call(app, forged, "GET", "/users/me"))
    assert await status_of(app, access_token) == 200


async def test_session_and_user_belong_together(app: FastAPI, access_token: str) -> None:
    user = await make_account(app, "editor")
    other = claims_of((await sign_in(app, user["email"]))["access_token"])
    own = claims_of(access_token)
    for mixed in (own | {"sub": other["sub"]}, own | {"sid": other["sid"]}):
        assert_not_accepted(await call(app, sign(HEADER, mixed), "GET", "/users/me"))
    whole = await call(app, sign(HEADER, own | {"sub": other["sub"], "sid": other["sid"]}), "GET", "/users/me")
    assert (whole.status_code, whole.json()["id"]) == (200, user["id"])


def test_no_bit_of_a_token_can_be_changed() -> None:
    token = TOKENS.access_token(5, 7)
    segments = [decode(segment) for segment in token.split(".")]
    tried = 0
    for place, segment in enumerate(segments):
        for bit in range(len(segment) * 8):
            flipped = bytearray(segment)
            flipped[bit // 8] ^= 1 << bit % 8
            forged = ".".join(encode(bytes(each)) for each in (*segments[:place], flipped, *segments[place + 1 :]))
            assert TOKENS.read_access_token(forged) is None, (place, bit)
            tried += 1
    assert tried == sum(map(len, segments)) * 8


async def test_flipped_bits_are_not_accepted_on_a_route(app: FastAPI, access_token: str) -> None:
    segments = [decode(segment) for segment in access_token.split(".")]
    for place, segment in enumerate(segments):
        for byte in (0, len(segment) // 2, len(segment) - 1):
            flipped = bytearray(segment)
            flipped[byte] ^= 1
            forged = ".".join(encode(bytes(each)) for each in (*segments[:place], flipped, *segments[place + 1 :]))
            assert_not_accepted(await call(app, forged, "GET", "/users/me"))


async def test_token_is_for_its_own_purpose_only(app: FastAPI, access_token: str) -> None:
    user = await make_account(app, "editor")
    link = await make_link(app, user)
    tokens = await sign_in(app, user["email"])
    for token in (tokens["refresh_token"], link, new_token(API_TOKEN), new_token(LINK_TOKEN), new_token(REFRESH_TOKEN)):
        assert_not_accepted(await call(app, token, "GET", "/users/me"))
    for token in (link, ADMIN_TOKEN, new_token(REFRESH_TOKEN), new_token(LINK_TOKEN)):
        assert_not_accepted(await refresh(app, token))
    assert faults(await refresh(app, access_token)) == [("/refresh_token", "too_long")]
    for token in (tokens["refresh_token"], ADMIN_TOKEN, new_token(LINK_TOKEN)):
        assert (await use_link(app, token)).json()["code"] == "spent_link"
    # None of this has spent the right ones.
    assert (await refresh(app, tokens["refresh_token"])).status_code == 200
    assert (await use_link(app, link)).status_code == 200


@pytest.mark.parametrize("prefix", [API_TOKEN, LINK_TOKEN, REFRESH_TOKEN])
def test_opaque_token_has_a_prefix_and_a_checksum_for_scanners(prefix: str) -> None:
    token = new_token(prefix)
    assert (len(token), token[:4]) == (4 + 43 + 6, prefix)
    number = zlib.crc32(token[:-6].encode())
    checksum = ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        checksum = DIGITS[digit] + checksum
    assert token[-6:] == checksum
    assert is_well_formed(prefix, token)
    assert new_token(prefix) != token


def test_every_wrong_character_in_an_opaque_token_is_detected() -> None:
    token = new_token(API_TOKEN)
    for place in range(len(token)):
        for digit in DIGITS:
            mistaken = token[:place] + digit + token[place + 1 :]
            assert is_well_formed(API_TOKEN, mistaken) is (mistaken == token), mistaken
    swapped = new_token(REFRESH_TOKEN)
    for wrong in ("", API_TOKEN, token[:-1], f"{token}0", f" {token}", swapped, token.replace("prt_", "prr_")):
        assert not is_well_formed(API_TOKEN, wrong)
    assert not is_well_formed(API_TOKEN, token[:10] + "\u0661" + token[11:])


async def test_mistyped_api_token_causes_no_lookup(
    app: FastAPI, connection: AsyncConnection, statements: list[str]
) -> None:
    del connection
    for token in (ADMIN_TOKEN[:-1] + ("0" if ADMIN_TOKEN[-1] != "0" else "1"), "prt_", "prt_" + "0" * 49):
        assert_not_accepted(await call(app, token, "GET", "/users/me"))
    assert statements == []


async def test_unauthenticated_header_values(app: FastAPI, access_token: str) -> None:
    bare = 'Bearer realm="process-register"'
    for value in (
        "",
        "Bearer",
        "Bearer ",
        "bearer \t ",
        access_token,
        f"Token {access_token}",
        f"Basic {access_token}",
    ):
        async with client_from(app, Authorization=value) as client:
            response = await client.get("/users/me")
        assert (response.status_code, response.headers["www-authenticate"]) == (401, bare), value
    for value in (f"Bearer {access_token}, Bearer {access_token}", f"Bearer {access_token} {access_token}"):
        async with client_from(app, Authorization=value) as client:
            assert_not_accepted(await client.get("/users/me"))
    for scheme in ("Bearer", "bearer", "BEARER"):
        async with client_from(app, Authorization=f"{scheme} {access_token}") as client:
            assert (await client.get("/users/me")).status_code == 200


async def test_repeated_authorization_header_is_refused(app: FastAPI, access_token: str) -> None:
    twice = [("Authorization", f"Bearer {access_token}"), ("Authorization", f"Bearer {access_token}")]
    async with client_from(app) as client:
        assert (await client.get("/users/me", headers=twice)).status_code == 401
        assert (await client.get("/users/me", headers=twice[:1])).status_code == 200


@pytest.mark.parametrize(
    "value", [b"\xff\xfe", "t\u00f6ken".encode(), "\u0661.\u0661.\u0661".encode(), b"prt_\xc3\xa4", b"\xed\xa0\x80"]
)
async def test_token_that_is_not_ascii_is_not_accepted(app: FastAPI, connection: AsyncConnection, value: bytes) -> None:
    del connection
    async with client_from(app) as client:
        assert_not_accepted(await client.get("/users/me", headers={b"Authorization": b"Bearer " + value}))


async def test_token_in_the_address_is_not_accepted(app: FastAPI, access_token: str) -> None:
    response = await call(app, None, "GET", "/users/me", params={"access_token": access_token})
    assert response.status_code == 401


OLD_KEY, NEW_KEY = SecretStr("the key that is being replaced, 32"), SecretStr("the key that replaces it, 32 long")


def with_keys(**keys: SecretStr) -> Settings:
    return settings_for(None, **keys)


def test_key_in_replacement_still_reads_and_no_longer_signs() -> None:
    before = Tokens(with_keys(secret_key=OLD_KEY))
    during = Tokens(with_keys(secret_key=NEW_KEY, previous_secret_key=OLD_KEY))
    after = Tokens(with_keys(secret_key=NEW_KEY))
    old, new = before.access_token(5, 7), during.access_token(5, 7)
    key_ids = [json.loads(decode(token.split(".")[0]))["kid"] for token in (old, new, after.access_token(5, 7))]
    assert key_ids[0] != key_ids[1] == key_ids[2]
    assert [reader.read_access_token(old) is not None for reader in (before, during, after)] == [True, True, False]
    assert [reader.read_access_token(new) is not None for reader in (before, during, after)] == [False, True, True]
    # The old key under the new key's name.
    header = {"alg": "HS256", "kid": key_ids[1]}
    assert during.read_access_token(sign(header, claims_of(old), before._keys[key_ids[0]])) is None


def test_key_is_never_used_unchanged() -> None:
    secret = OLD_KEY.get_secret_value().encode()
    tokens = Tokens(with_keys(secret_key=OLD_KEY))
    assert tokens._keys[tokens._current] != secret
    assert tokens._current.encode() not in secret
    assert (
        tokens.read_access_token(
            sign({"alg": "HS256", "kid": tokens._current}, claims_of(tokens.access_token(5, 7)), secret)
        )
        is None
    )
    assert tokens.api_token_hashes("t") != [hmac.digest(secret, b"t", "sha256")]


async def test_replaced_key_ends_sessions_only_once_it_is_removed(committed: Committed) -> None:
    url = committed.url
    old = settings_for(url).secret_key
    during = create_app(settings_for(url, secret_key=NEW_KEY, previous_secret_key=old))
    after = create_app(settings_for(url, secret_key=NEW_KEY))
    try:
        signed_in = await sign_in(committed.app, ADMIN_EMAIL, ADMIN_PASSWORD)
        body = {"name": "Not used meanwhile", "scopes": ["processes:read"]}
        made = await call(committed.app, signed_in["access_token"], "POST", "/users/me/tokens", json=body)
        unused = made.json()["token"]
        assert await status_of(during, signed_in["access_token"]) == 200
        assert await status_of(after, signed_in["access_token"]) == 401

        # Using an API token stores its hash under the new key, even if its last use was a moment ago.
        assert await status_of(committed.app, ADMIN_TOKEN) == 200
        assert await status_of(after, ADMIN_TOKEN) == 401
        assert await status_of(during, ADMIN_TOKEN) == 200
        (stored,) = await sql(committed.app, "SELECT token_hash FROM api_tokens WHERE name = 'Tests'")
        assert stored.token_hash == Tokens(with_keys(secret_key=NEW_KEY)).api_token_hashes(ADMIN_TOKEN)[0]
        assert [await status_of(after, token) for token in (ADMIN_TOKEN, unused)] == [200, 401]

        # Sessions outlive the key, because refresh tokens don't depend on it.
        refreshed = await refresh(after, signed_in["refresh_token"])
        assert refreshed.status_code == 200
        assert await status_of(after, refreshed.json()["access_token"]) == 200
    finally:
        await during.state.database.dispose()
        await after.state.database.dispose()


def test_successors_of_a_refresh_token_need_the_keys() -> None:
    first, second = Tokens(with_keys(secret_key=OLD_KEY)), Tokens(with_keys(secret_key=NEW_KEY))
    both = Tokens(with_keys(secret_key=NEW_KEY, previous_secret_key=OLD_KEY))
    token = new_token(REFRESH_TOKEN)
    (successor,), (other,) = first.successors(token), second.successors(token)
    assert is_well_formed(REFRESH_TOKEN, successor)
    assert first.successors(token) == [successor]
    assert len({token, successor, other, *first.successors(successor)}) == 4
    # The former key is the first.
    assert both.successors(token) == [successor, other]


def test_stored_hash_is_not_the_token() -> None:
    token = new_token(API_TOKEN)
    assert len({token.encode(), token_hash(token), *TOKENS.api_token_hashes(token)}) == 3
    assert Tokens(with_keys(secret_key=NEW_KEY)).api_token_hashes(token) != TOKENS.api_token_hashes(token)
