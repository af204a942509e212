"""Settings, read from the environment and from `.env`; `docs/04-configuration.md` lists them all."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import EmailStr, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from app.core.passwords import MAX_LENGTH, MIN_LENGTH, is_common

VERSION = "0.1.0"
DEFAULT_SECRET_KEY = "development-only-secret-key-never-use-in-production"  # noqa: S105 - refused in production
MINIMUM_SECRET_LENGTH = 32

# The query parameters that the driver accepts. It would reject others too late, when it connects.
URL_PARAMETERS = frozenset({"host", "port", "ssl", "sslmode", "target_session_attrs"})

PageAccess = Literal["public", "admin", "off"]
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The settings that may differ between installations."""

    # Errors must not show the rejected value, which may be a secret.
    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    env: Literal["development", "test", "production"] = Field(
        "development", description="Production refuses unsafe settings and logs JSON."
    )
    database_url: str | None = Field(
        None,
        repr=False,
        pattern=r"^postgres(ql)?(\+\w+)?://",
        description="`postgresql://user:password@host:5432/name`. Without it, outside production, `make run` starts a "
        "private PostgreSQL below `DATA_DIR`.",
    )
    secret_key: SecretStr = Field(
        SecretStr(DEFAULT_SECRET_KEY), description="Signs the tokens that clients hand back. At least 32 characters."
    )
    previous_secret_key: SecretStr | None = Field(
        None, description="The former `SECRET_KEY`, while it is being replaced: what it signed stays valid."
    )

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on.")
    workers: int = Field(1, ge=1, description="Server processes.")
    data_dir: Path = Field(Path(".data"), description="Where the private PostgreSQL keeps its data.")
    demo_data: bool = Field(
        True, description="Load the demo data into an empty database at `make run`. Never in production."
    )
    first_admin_email: EmailStr = Field(
        "admin@register.example", description="E-mail of the administrator made at first start."
    )
    first_admin_password: SecretStr | None = Field(
        None,
        description="Password of that administrator, 12 to 256 characters. Without it, outside production, one is made "
        "and printed once.",
    )
    first_admin_name: str = Field("First administrator", description="Name of the administrator made at first start.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    cors_origins: CommaSeparated = Field(
        (), description="Origins of web pages that may call the API, separated by commas; `*` for any."
    )
    cors_allow_credentials: bool = Field(False, description="Whether those pages may send credentials.")
    trusted_hosts: CommaSeparated = Field(
        ("*",), description="Host names the service answers to, separated by commas; `*` for any."
    )
    forwarded_allow_ips: CommaSeparated = Field(
        (),
        description="Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed, "
        "separated by commas; `*` for any, never in production.",
    )
    docs_access: PageAccess = Field("public", description="`/docs`: `public`, `admin` or `off`.")
    redoc_access: PageAccess = Field("public", description="`/redoc`: `public`, `admin` or `off`.")
    metrics_access: PageAccess = Field("public", description="`/metrics`: `public`, `admin` or `off`.")

    caller_cache_seconds: float = Field(
        1.0, ge=0, le=1, description="Seconds for which a process remembers who a token stands for."
    )
    hashing_concurrency: int = Field(2, ge=1, description="Passwords each server process checks at the same time.")
    sign_in_window_seconds: int = Field(900, ge=1, description="Seconds for which failed attempts to sign in count.")
    sign_in_attempts: int = Field(
        10, ge=1, description="Failed attempts in that time, to one account from one address, before 429."
    )
    sign_in_attempts_per_account: int = Field(
        30,
        ge=1,
        description="Likewise, to one account from all addresses from which its user has not signed in in the last 90 "
        "days.",
    )
    sign_in_attempts_per_address: int = Field(100, ge=1, description="Likewise, from one address to all accounts.")
    history_days: int | None = Field(
        None, ge=1, description="Days of history that `housekeeping` keeps; without it, all of it."
    )

    pool_size: int = Field(
        10,
        ge=1,
        description="Database connections of each server process for requests; one more is for readiness.",
    )
    pool_timeout: float = Field(2.0, gt=0, description="Seconds a request waits for a connection before 503.")
    connect_timeout: float = Field(3.0, gt=0, description="Seconds to wait for a new connection to PostgreSQL.")
    statement_timeout: float = Field(
        5.0, gt=0, description="Seconds one SQL statement may run; those of an import may run for a minute."
    )
    lock_timeout: float = Field(2.0, gt=0, description="Seconds one SQL statement may wait for a lock.")
    idle_in_transaction_timeout: float = Field(
        10.0, gt=0, description="Seconds a transaction may sit idle before PostgreSQL ends it."
    )
    export_concurrency: int = Field(
        2, ge=1, description="Exports each server process sends at the same time; each holds a database connection."
    )
    export_stall_seconds: float = Field(
        30.0, gt=0, description="Seconds the reader of an export may take for what was sent, before it is cut off."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    max_bulk_bytes: int = Field(
        16 * 1024 * 1024, ge=1024, description="Largest body of a request that writes many objects at once, in bytes."
    )
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Largest headers of a request, in bytes.")
    keep_alive_seconds: int = Field(65, ge=1, description="Seconds an idle client connection is kept.")
    graceful_stop_seconds: int = Field(15, ge=1, description="Seconds that requests under way get when we stop.")

    @field_validator("first_admin_password")
    @classmethod
    def _check_length(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not MIN_LENGTH <= len(value.get_secret_value()) <= MAX_LENGTH:
            raise ValueError(f"it must have {MIN_LENGTH} to {MAX_LENGTH} characters")
        return value

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # their texts may contain the password
            raise ValueError("it is not a URL such as postgresql://user:password@host:5432/name") from None
        if not url.drivername.startswith("postgres"):
            raise ValueError("the service needs PostgreSQL: postgresql://user:password@host:5432/name")
        if unknown := sorted(set(url.query) - URL_PARAMETERS):
            raise ValueError(f"it has parameters that are not known here: {', '.join(unknown)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("cors_origins", "trusted_hosts", "forwarded_allow_ips"):
            if isinstance(value := values.get(name), str):
                values[name] = tuple(item.strip() for item in value.split(",") if item.strip())
        return values

    @model_validator(mode="after")
    def _reject_unsafe(self) -> Self:
        if "*" in self.cors_origins and self.cors_allow_credentials:
            raise ValueError("CORS_ORIGINS may not contain * together with CORS_ALLOW_CREDENTIALS: name the origins")
        if self.env == "production":
            secret = self.secret_key.get_secret_value()
            if self.database_url is None:
                raise ValueError("DATABASE_URL must be set in production")
            if secret == DEFAULT_SECRET_KEY:
                raise ValueError("SECRET_KEY must be set in production, and not to the default")
            if self.first_admin_password is not None and is_common(self.first_admin_password.get_secret_value()):
                raise ValueError("FIRST_ADMIN_PASSWORD must not be a common password in production")
            if self.previous_secret_key is not None:
                previous = self.previous_secret_key.get_secret_value()
                if previous == DEFAULT_SECRET_KEY or len(previous) < MINIMUM_SECRET_LENGTH:
                    raise ValueError("PREVIOUS_SECRET_KEY must be a former SECRET_KEY of production")
            if len(secret) < MINIMUM_SECRET_LENGTH:
                raise ValueError(f"SECRET_KEY must have at least {MINIMUM_SECRET_LENGTH} characters in production")
            # Otherwise any client could forge its address and evade the throttling of sign-ins.
            if any(proxy == "*" or proxy.endswith("/0") for proxy in self.forwarded_allow_ips):
                raise ValueError("FORWARDED_ALLOW_IPS may not let in everybody in production: name the proxies")
        return self


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises `pydantic.ValidationError`, which names each bad setting.
    """
    return Settings()
