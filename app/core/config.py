"""Settings, read from the environment and from `.env`; `docs/04-configuration.md` lists them all."""

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import EmailStr, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

DEFAULT_SECRET_KEY = "development-only-secret-key-never-use-in-production"  # noqa: S105 - refused in production
MINIMUM_SECRET_LENGTH = 32

# What the driver takes besides; it would refuse others only when it connects.
URL_PARAMETERS = frozenset({"host", "port", "ssl", "sslmode", "target_session_attrs"})

CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """Everything that may differ between two installations."""

    # A refusal must not show what it refuses: among the settings are secrets.
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
        SecretStr(DEFAULT_SECRET_KEY), description="Signs what clients hand back to us. At least 32 characters."
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
    first_admin_name: str = Field("First administrator", description="Name of the administrator made at first start.")

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")
    cors_origins: CommaSeparated = Field(
        (), description="Origins of web pages that may call the API, separated by commas; `*` for any."
    )
    cors_allow_credentials: bool = Field(False, description="Whether those pages may send credentials.")
    trusted_hosts: CommaSeparated = Field(
        ("*",), description="Host names the service answers to, separated by commas; `*` for any."
    )

    pool_size: int = Field(10, ge=1, description="Database connections of each server process; there is no overflow.")
    pool_timeout: float = Field(2.0, gt=0, description="Seconds a request waits for a connection before 503.")
    connect_timeout: float = Field(3.0, gt=0, description="Seconds to wait for a new connection to PostgreSQL.")
    statement_timeout: float = Field(5.0, gt=0, description="Seconds one SQL statement may run.")
    lock_timeout: float = Field(2.0, gt=0, description="Seconds one SQL statement may wait for a lock.")
    idle_in_transaction_timeout: float = Field(
        10.0, gt=0, description="Seconds a transaction may sit idle before PostgreSQL ends it."
    )
    max_body_bytes: int = Field(1024 * 1024, ge=1024, description="Largest request body, in bytes.")
    max_header_bytes: int = Field(32 * 1024, ge=1024, description="Largest headers of a request, in bytes.")
    keep_alive_seconds: int = Field(65, ge=1, description="Seconds an idle client connection is kept.")
    graceful_stop_seconds: int = Field(15, ge=1, description="Seconds that requests under way get when we stop.")

    @field_validator("database_url")
    @classmethod
    def _check_database_url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            url = make_url(value)
        except (ArgumentError, ValueError):  # neither may tell the password
            raise ValueError("it is not a URL such as postgresql://user:password@host:5432/name") from None
        if not url.drivername.startswith("postgres"):
            raise ValueError("the service needs PostgreSQL: postgresql://user:password@host:5432/name")
        if unknown := sorted(set(url.query) - URL_PARAMETERS):
            raise ValueError(f"it has parameters that are not known here: {', '.join(unknown)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, object]) -> dict[str, object]:
        for name in ("cors_origins", "trusted_hosts"):
            if isinstance(given := values.get(name), str):
                values[name] = tuple(item.strip() for item in given.split(",") if item.strip())
        return values

    @model_validator(mode="after")
    def _refuse_unsafe(self) -> Self:
        if "*" in self.cors_origins and self.cors_allow_credentials:
            raise ValueError("CORS_ORIGINS may not contain * together with CORS_ALLOW_CREDENTIALS: name the origins")
        if self.env == "production":
            secret = self.secret_key.get_secret_value()
            if self.database_url is None:
                raise ValueError("DATABASE_URL must be set in production")
            if secret == DEFAULT_SECRET_KEY:
                raise ValueError("SECRET_KEY must be set in production, and not to the default")
            if len(secret) < MINIMUM_SECRET_LENGTH:
                raise ValueError(f"SECRET_KEY must have at least {MINIMUM_SECRET_LENGTH} characters in production")
        return self


@lru_cache
def get_settings() -> Settings:
    """Return the settings of this process, read once.

    Raises `pydantic.ValidationError`, which names each bad setting.
    """
    return Settings()
