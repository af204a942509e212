"""Settings, read from the environment and from `.env`; `docs/04-configuration.md` lists them all."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.core.passwords import MAX_LENGTH, MIN_LENGTH
from app.utils.fault_codes import described_pattern, text_of
from app.utils.password_strength import weakness_of
from app.utils.text.email_addresses import check_email
from app.utils.validation import error_text
from app.utils.wording import joined

VERSION = "0.1.0"
DEFAULT_SECRET_KEY = "development-only-secret-key-never-use-in-production"  # noqa: S105 - rejected in production
MINIMUM_SECRET_LENGTH = 32

# Query parameters that the driver accepts; the driver would reject others only when it connects.
URL_PARAMETERS = frozenset({"host", "port", "ssl", "sslmode", "target_session_attrs"})

_RATE_TEXT = (
    "Must be a number of requests from 1 to 999999 per second, minute, hour or day, in lower case, such as 100/second "
    "or 6000/minute burst 200."
)
_URL_TEXT = "Must be a PostgreSQL URL, such as postgresql://user:password@host:5432/name."

PageAccess = Literal["public", "admin", "off"]
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The settings that may differ between installations."""

    # Errors must not show the rejected value, which may be a secret.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    env: Literal["development", "test", "production"] = Field(
        "development",
        description="Environment (`development`, `test` or `production`); in production, unsafe settings are rejected "
        "and logs are JSON.",
    )
    database_url: str | None = Field(
        None,
        repr=False,
        pattern=described_pattern(r"^postgres(ql)?(\+\w+)?://", _URL_TEXT),
        description="URL of PostgreSQL, `postgresql://user:password@host:5432/name`; without it, outside "
        "production, `make run` starts a private PostgreSQL in `DATA_DIR`.",
    )
    secret_key: SecretStr = Field(
        SecretStr(DEFAULT_SECRET_KEY),
        description="Secret from which the keys for tokens and cursors are derived; in production at least 32 "
        "characters.",
    )
    previous_secret_key: SecretStr | None = Field(
        None, description="Former `SECRET_KEY` during a key change; tokens and cursors made with it stay valid."
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, description="Number of server processes.")
    data_dir: Path = Field(Path(".data"), description="Data directory of the private PostgreSQL.")
    demo_data: bool = Field(
        True, description="Load the demo data into an empty register at `make run`; ignored in production."
    )
    first_admin_email: Annotated[str, AfterValidator(check_email)] = Field(
        "admin@register.example",
        description="E-mail address of the first administrator, used when this user is created.",
    )
    first_admin_password: SecretStr | None = Field(
        None,
        description="Initial password of the first administrator, 12 to 256 characters; leave it empty to have one "
        "generated and printed once, or in production to set one with a link token.",
    )
    first_admin_name: str = Field(
        "First administrator", description="Name of the first administrator, used when this user is created."
    )

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Minimum log level.")
    cors_origins: CommaSeparated = Field(
        (), description="Origins of web pages that may call the API, separated by commas; `*` allows all."
    )
    cors_allow_credentials: bool = Field(False, description="Whether pages of `CORS_ORIGINS` may send credentials.")
    trusted_hosts: CommaSeparated = Field(
        ("*",), description="Accepted host names, separated by commas; `*` accepts all."
    )
    forwarded_allow_ips: CommaSeparated = Field(
        (),
        description="Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted, "
        "separated by commas; `*` trusts all and is rejected in production.",
    )
    docs_access: PageAccess = Field("public", description="Access to `/docs`: `public`, `admin` or `off`.")
    redoc_access: PageAccess = Field("public", description="Access to `/redoc`: `public`, `admin` or `off`.")
    metrics_access: PageAccess = Field("public", description="Access to `/metrics`: `public`, `admin` or `off`.")

    caller_cache_seconds: float = Field(
        1.0, ge=0, le=1, description="Seconds for which a server process caches the user of a token, at most 1."
    )
    rate_limit: str | None = Field(
        None,
        pattern=described_pattern(
            r"^[1-9][0-9]{0,5}/(second|minute|hour|day)( burst [1-9][0-9]{0,5})?$",
            _RATE_TEXT,
        ),
        description="Requests that each server process accepts from one user, or from one address without a valid "
        "token, such as `100/second` or `6000/minute burst 200`; without a value, any number.",
    )
    hashing_concurrency: int = Field(2, ge=1, description="Passwords that each server process hashes at the same time.")
    sign_in_window_seconds: int = Field(900, ge=1, description="Seconds for which failed sign-in attempts count.")
    sign_in_attempts: int = Field(10, ge=1, description="Failed attempts per account and address before 429.")
    sign_in_attempts_per_account: int = Field(
        30,
        ge=1,
        description="Failed attempts per account before 429, counted over all addresses from which the user has not "
        "signed in during the last 90 days.",
    )
    sign_in_attempts_per_address: int = Field(
        100, ge=1, description="Failed attempts per address before 429, counted over all accounts."
    )
    history_days: int | None = Field(
        None, ge=1, description="Days of history that `housekeeping` keeps; without a value, all history is kept."
    )

    pool_size: int = Field(
        10,
        ge=1,
        description="Database connections per server process for requests; the readiness check uses one more.",
    )
    pool_timeout: float = Field(
        2.0,
        gt=0,
        description="Seconds that a request waits for a database connection before 503, or 429 if its user holds half "
        "of them.",
    )
    connect_timeout: float = Field(3.0, gt=0, description="Seconds to wait for a new connection to PostgreSQL.")
    statement_timeout: float = Field(
        5.0,
        gt=0,
        description="Seconds that an SQL statement may run; statements of bulk and import requests may run for 60 "
        "seconds.",
    )
    lock_timeout: float = Field(2.0, gt=0, description="Seconds that an SQL statement may wait for a lock.")
    idle_in_transaction_timeout: float = Field(
        10.0, gt=0, description="Seconds that a transaction may be idle before PostgreSQL ends it."
    )
    export_concurrency: int = Field(
        2,
        ge=1,
        description="Exports that each server process sends at the same time, all but the last one of one user; each "
        "holds a database connection.",
    )
    export_stall_seconds: float = Field(
        10.0,
        gt=0,
        description="Seconds that the client of an export, or of any other response, may read nothing before it is "
        "disconnected.",
    )
    wait_concurrency: int = Field(
        50,
        ge=1,
        description="Requests that each server process lets wait for changes at the same time, all but the last one of "
        "one user; a waiting request holds no database connection.",
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Maximum size of a request body, in bytes.")
    max_bulk_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="Maximum body size of a bulk or import request, in bytes."
    )
    max_header_bytes: int = Field(
        32 * 1024, ge=1024, description="Maximum total size of the request line and the request headers, in bytes."
    )
    max_connections: int = Field(
        8000,
        ge=1,
        description="Client connections of each server process; beyond it, the one that waits longest for a request is "
        "closed.",
    )
    max_pipelined_requests: int = Field(
        64, ge=1, description="Requests that a client may send on a connection before it gets their responses."
    )
    max_unfinished_body_bytes: int = Field(
        48 * 1024 * 1024,
        ge=0,
        description="Bytes of incomplete request bodies that each server process holds, at most half of them of one "
        "user, not counting the first 64 KiB of each body.",
    )
    max_unread_bytes: int = Field(
        30 * 1024 * 1024,
        ge=64 * 1024,
        description="Bytes of unread responses of each server process beyond which clients that read less than 64 KiB "
        "per second are disconnected; beyond twice as many, the slowest client is.",
    )
    request_stall_seconds: float = Field(
        10.0,
        gt=0,
        description="Seconds in which the head of a request must arrive, and by which its body may be late.",
    )
    min_body_rate: int = Field(
        512, ge=1, description="Bytes per second from which on a request body does not count as late."
    )
    keep_alive_seconds: int = Field(65, ge=1, description="Seconds that an idle client connection stays open.")
    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM for which the service is not ready but accepts requests, before it stops.",
    )
    graceful_stop_seconds: int = Field(
        15, ge=1, description="Seconds that running requests get to finish when the server stops."
    )

    @field_validator("first_admin_password")
    @classmethod
    def _check_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not MIN_LENGTH <= len(value.get_secret_value()) <= MAX_LENGTH:
            raise ValueError(f"Must have {MIN_LENGTH} to {MAX_LENGTH} characters.")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # their texts may contain the password
            raise ValueError(_URL_TEXT) from None
        if not url.drivername.startswith("postgres"):
            raise ValueError(_URL_TEXT)
        if unknown := sorted(set(url.query) - URL_PARAMETERS):
            raise ValueError(f"Has unknown parameters: {joined(unknown)}. Remove them.")
        return value

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("cors_origins", "trusted_hosts", "forwarded_allow_ips"):
            if isinstance(value := values.get(name), str):
                values[name] = tuple(item.strip() for item in value.split(",") if item.strip())
        return values

    def first_admin_weakness(self) -> str | None:
        """Return `weakness_of` the first administrator's password, or None if none is set."""
        password = self.first_admin_password
        if password is None:
            return None
        return weakness_of(password.get_secret_value(), self.first_admin_name, self.first_admin_email)

    @model_validator(mode="after")
    def _reject_unsafe(self) -> Self:
        if "*" in self.cors_origins and self.cors_allow_credentials:
            raise ValueError("CORS_ORIGINS must not contain * if CORS_ALLOW_CREDENTIALS is set. Name the origins.")
        if self.env == "production":
            secret = self.secret_key.get_secret_value()
            if self.database_url is None:
                raise ValueError("DATABASE_URL is required in production.")
            if secret == DEFAULT_SECRET_KEY:
                raise ValueError("SECRET_KEY is required in production, and must not be the default.")
            if weakness := self.first_admin_weakness():
                raise ValueError(f"FIRST_ADMIN_PASSWORD is too common for production. {text_of(weakness)}")
            if self.previous_secret_key is not None:
                previous = self.previous_secret_key.get_secret_value()
                if previous == DEFAULT_SECRET_KEY or len(previous) < MINIMUM_SECRET_LENGTH:
                    raise ValueError(
                        f"PREVIOUS_SECRET_KEY must have at least {MINIMUM_SECRET_LENGTH} characters in production, "
                        "and must not be the default."
                    )
            if len(secret) < MINIMUM_SECRET_LENGTH:
                raise ValueError(f"SECRET_KEY must have at least {MINIMUM_SECRET_LENGTH} characters in production.")
            # Otherwise any client could forge its address and evade the throttling of sign-ins.
            if any(proxy == "*" or proxy.endswith("/0") for proxy in self.forwarded_allow_ips):
                raise ValueError("FORWARDED_ALLOW_IPS must not contain all addresses in production. Name the proxies.")
        return self


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises `pydantic.ValidationError`, which names each bad setting.
    """
    return Settings()


def describe_faults(error: ValidationError) -> Iterator[str]:
    """Yield what is wrong with each setting, beginning with its name. Values are not repeated."""
    for fault in error.errors(include_url=False, include_input=False):
        name = ".".join(map(str, fault["loc"])).upper()
        text = str(fault.get("ctx", {}).get("error", "")) or error_text(fault)
        yield f"{name}: {text}" if name else text
