"""Settings are read, refused by name when they are unsafe, and documented."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from throttled import MemoryStore, RateLimiterType, Throttled

from app.core.config import DEFAULT_SECRET_KEY, Settings, describe_faults, get_settings

SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105
URL = "postgresql://register:hunter2-Zx81@db/register"
PRODUCTION = {"ENV": "production", "DATABASE_URL": URL, "SECRET_KEY": SECRET}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment variables from which the settings are read."""

    class Environment(dict[str, str]):
        def __setitem__(self, name: str, value: str) -> None:
            monkeypatch.setenv(name, value)

        def update(self, values: Any = (), /, **_: str) -> None:
            for name, value in dict(values).items():
                self[name] = value

    return Environment()


def read() -> Settings:
    return Settings(_env_file=None)


def refusal() -> str:
    with pytest.raises(ValidationError) as caught:
        read()
    return str(caught.value)


def test_development_needs_no_setting() -> None:
    settings = read()
    assert (settings.env, settings.database_url, settings.host, settings.port) == (
        "development",
        None,
        "127.0.0.1",
        8000,
    )


def test_production_starts_with_a_database_and_a_secret(environment: dict[str, str]) -> None:
    environment.update(PRODUCTION)
    settings = read()
    assert (settings.env, settings.database_url) == ("production", URL)
    assert settings.secret_key.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("DATABASE_URL", "", "DATABASE_URL is required"),
        ("SECRET_KEY", "", "SECRET_KEY is required"),
        ("SECRET_KEY", DEFAULT_SECRET_KEY, "must not be the default"),
        ("SECRET_KEY", SECRET[:31], "SECRET_KEY must have at least 32 characters"),
        (
            "PREVIOUS_SECRET_KEY",
            DEFAULT_SECRET_KEY,
            "PREVIOUS_SECRET_KEY must have at least 32 characters",
        ),
        (
            "PREVIOUS_SECRET_KEY",
            SECRET[:31],
            "PREVIOUS_SECRET_KEY must have at least 32 characters",
        ),
        ("FIRST_ADMIN_PASSWORD", "password1234", "is too common for production"),
        ("FIRST_ADMIN_PASSWORD", "Process Register 1", "is derived from the name"),
        ("FORWARDED_ALLOW_IPS", "*", "FORWARDED_ALLOW_IPS must not contain all addresses"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1, *", "FORWARDED_ALLOW_IPS must not contain all addresses"),
        ("FORWARDED_ALLOW_IPS", "0.0.0.0/0", "FORWARDED_ALLOW_IPS must not contain all addresses"),
        ("FORWARDED_ALLOW_IPS", "10.0.0.1,::/0", "FORWARDED_ALLOW_IPS must not contain all addresses"),
    ],
)
def test_production_refuses_unsafe_settings_by_name(
    environment: dict[str, str], name: str, value: str, reason: str
) -> None:
    environment.update(PRODUCTION | {name: value})
    assert reason in refusal()
    assert name in refusal()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("PORT", "http", "PORT: Must be an integer."),
        ("PORT", "70000", "PORT: Must be at most 65535."),
        ("DEMO_DATA", "perhaps", "DEMO_DATA: Must be true or false."),
        ("LOG_LEVEL", "x", "LOG_LEVEL: Must be 'DEBUG', 'INFO', 'WARNING' or 'ERROR'."),
        ("FIRST_ADMIN_EMAIL", "unknown", "FIRST_ADMIN_EMAIL: Must be an e-mail address."),
        ("FIRST_ADMIN_PASSWORD", "eleven char", "FIRST_ADMIN_PASSWORD: Must have 12 to 256 characters."),
        (
            "DATABASE_URL",
            "mysql://x",
            "DATABASE_URL: Must be a PostgreSQL URL, such as postgresql://user:password@host:5432/name.",
        ),
        ("DATABASE_URL", "postgresql://a@b/c?x=1", "DATABASE_URL: Has unknown parameters: x. Remove them."),
        ("ENV", "production", "DATABASE_URL is required in production."),
    ],
)
def test_invalid_setting_is_reported_in_a_sentence(
    environment: dict[str, str], name: str, value: str, expected: str
) -> None:
    environment[name] = value
    with pytest.raises(ValidationError) as caught:
        read()
    assert list(describe_faults(caught.value)) == [expected]


@pytest.mark.parametrize(
    "rate",
    [
        "100",
        "0/second",
        "100/Second",
        "1/week",
        "1/second;2/minute",
        "1/second burst 0",
        "1000000/second",
        "-1/second",
        "1/second x",
    ],
)
def test_rate_that_is_not_understood_is_reported(environment: dict[str, str], rate: str) -> None:
    environment["RATE_LIMIT"] = rate
    with pytest.raises(ValidationError) as caught:
        read()
    text = (
        "RATE_LIMIT: Must be a number of requests from 1 to 999999 per second, minute, hour or day, in lower case, "
        "such as 100/second or 6000/minute burst 200."
    )
    assert list(describe_faults(caught.value)) == [text]


@pytest.mark.parametrize("rate", ["1/second", "999999/minute", "10/hour burst 5", "2/day burst 999999"])
def test_every_accepted_rate_is_one_of_the_limiter(environment: dict[str, str], rate: str) -> None:
    environment["RATE_LIMIT"] = rate
    limiter = Throttled(using=RateLimiterType.GCRA.value, quota=read().rate_limit, store=MemoryStore())
    assert not limiter.limit("caller").limited


def test_production_accepts_named_proxies(environment: dict[str, str]) -> None:
    environment.update(PRODUCTION | {"FORWARDED_ALLOW_IPS": "10.0.0.1, 192.0.2.0/24, 2001:db8::/32, 10.0.0.0/8"})
    assert read().forwarded_allow_ips == ("10.0.0.1", "192.0.2.0/24", "2001:db8::/32", "10.0.0.0/8")


@pytest.mark.parametrize("env", ["development", "test", "production"])
def test_any_origin_with_credentials_is_refused_everywhere(environment: dict[str, str], env: str) -> None:
    environment.update(PRODUCTION | {"ENV": env, "CORS_ORIGINS": "https://a.example, *", "CORS_ALLOW_CREDENTIALS": "1"})
    assert "CORS_ORIGINS" in refusal()
    assert "CORS_ALLOW_CREDENTIALS" in refusal()
    environment["CORS_ALLOW_CREDENTIALS"] = "0"
    assert read().cors_origins == ("https://a.example", "*")
    environment.update({"CORS_ALLOW_CREDENTIALS": "1", "CORS_ORIGINS": "https://a.example"})
    assert read().cors_allow_credentials is True


def test_refusal_shows_no_secret(environment: dict[str, str]) -> None:
    secrets = {"SECRET_KEY": "tiny-secret", "PREVIOUS_SECRET_KEY": "old-secret", "FIRST_ADMIN_PASSWORD": "tiny-pass"}
    environment.update(PRODUCTION | secrets | {"PORT": "hunter2-port"})
    for text in ("hunter2", *secrets.values()):
        assert text not in refusal()
    environment["PORT"] = "1"
    for text in ("hunter2", *secrets.values()):
        assert text not in refusal()
    environment["FIRST_ADMIN_PASSWORD"] = "password1234"  # noqa: S105
    for text in ("hunter2", "password1234", *secrets.values()):
        assert text not in refusal()
    shown = repr(Settings(_env_file=None, env="test"))
    for text in ("hunter2", "password1234", *secrets.values()):
        assert text not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ENV", "staging"),
        ("FIRST_ADMIN_PASSWORD", "11 letters."),
        ("FIRST_ADMIN_PASSWORD", "x" * 257),
        ("DOCS_ACCESS", "viewer"),
        ("REDOC_ACCESS", "unknown"),
        ("METRICS_ACCESS", "true"),
        ("CALLER_CACHE_SECONDS", "1.1"),
        ("CALLER_CACHE_SECONDS", "-1"),
        ("HASHING_CONCURRENCY", "0"),
        ("SIGN_IN_WINDOW_SECONDS", "0"),
        ("SIGN_IN_ATTEMPTS", "0"),
        ("SIGN_IN_ATTEMPTS_PER_ACCOUNT", "0"),
        ("SIGN_IN_ATTEMPTS_PER_ADDRESS", "0"),
        ("HISTORY_DAYS", "0"),
        ("PORT", "65536"),
        ("PORT", "http"),
        ("WORKERS", "0"),
        ("LOG_LEVEL", "LOUD"),
        ("DEMO_DATA", "perhaps"),
        ("POOL_SIZE", "0"),
        ("POOL_TIMEOUT", "0"),
        ("CONNECT_TIMEOUT", "-1"),
        ("STATEMENT_TIMEOUT", "0"),
        ("LOCK_TIMEOUT", "x"),
        ("IDLE_IN_TRANSACTION_TIMEOUT", "0"),
        ("MAX_BODY_BYTES", "1023"),
        ("KEEP_ALIVE_SECONDS", "0"),
        ("GRACEFUL_STOP_SECONDS", "0"),
    ],
)
def test_bad_value_is_refused_by_name(environment: dict[str, str], name: str, value: str) -> None:
    environment[name] = value
    with pytest.raises(ValidationError) as caught:
        read()
    assert [error["loc"] for error in caught.value.errors()] == [(name.lower(),)]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://a.example", ("https://a.example",)),
        (" https://a.example ,https://b.example,, ", ("https://a.example", "https://b.example")),
        ("*", ("*",)),
        (",", ()),
    ],
)
def test_list_is_separated_by_commas(environment: dict[str, str], given: str, expected: tuple[str, ...]) -> None:
    environment.update(dict.fromkeys(("CORS_ORIGINS", "TRUSTED_HOSTS", "FORWARDED_ALLOW_IPS"), given))
    settings = read()
    assert (settings.cors_origins, settings.trusted_hosts, settings.forwarded_allow_ips) == (expected,) * 3


def test_empty_value_is_no_value(environment: dict[str, str]) -> None:
    environment.update(dict.fromkeys((name.upper() for name in Settings.model_fields), ""))
    assert read().model_dump() == Settings.model_construct().model_dump()


def test_environment_wins_over_the_file(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=1\nHOST=file.example\nUNKNOWN=1\n", "utf-8")
    environment["PORT"] = "2"
    settings = Settings(_env_file=file)
    assert (settings.port, settings.host) == (2, "file.example")


def test_settings_of_the_process_are_read_once(environment: dict[str, str]) -> None:
    get_settings.cache_clear()
    try:
        first = get_settings()
        environment["PORT"] = "1"
        assert get_settings() is first
    finally:
        get_settings.cache_clear()


NAMES = {name.upper() for name in Settings.model_fields}


def test_every_setting_is_in_the_example_with_its_default(root: Path, tmp_path: Path) -> None:
    text = (root / ".env.example").read_text("utf-8")
    assert set(re.findall(r"^#? ?([A-Z_]+)=", text, re.MULTILINE)) == NAMES
    assert dict(re.findall(r"^# (.+)\n# ([A-Z_]+)=", text, re.MULTILINE)) == {
        field.description: name.upper() for name, field in Settings.model_fields.items()
    }
    file = tmp_path / ".env"
    file.write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", text, flags=re.MULTILINE), "utf-8")
    assert Settings(_env_file=file) == read()


def test_every_setting_is_in_the_documentation(root: Path) -> None:
    text = (root / "docs" / "04-configuration.md").read_text("utf-8")
    assert dict(re.findall(r"^\| `([A-Z_]+)` \| [^|]+ \| (.+) \|$", text, re.MULTILINE)) == {
        name.upper(): field.description for name, field in Settings.model_fields.items()
    }


def test_every_setting_is_described() -> None:
    assert [name for name, field in Settings.model_fields.items() if not (field.description or "").endswith(".")] == []


@pytest.mark.parametrize(
    "url",
    [
        "nonsense",
        "mysql://user:hidden@host/name",
        "postgresql://user:hidden@host:port/name",
        "postgresql://user:hidden@host/name?channel_binding=require",
    ],
)
def test_database_url_that_cannot_work_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(_env_file=None, database_url=url)
    assert [fault["loc"] for fault in caught.value.errors()] == [("database_url",)]
    assert "hidden" not in str(caught.value)


def test_database_url_is_not_shown() -> None:
    settings = Settings(_env_file=None, database_url="postgresql://user:hidden@host/name?sslmode=require")
    assert "hidden" not in repr(settings)
