"""Settings: the only code that reads the environment (variables named PREFLOOP_*)."""

import secrets
import shlex
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict
from sqlalchemy import make_url

from app.site.addresses import (
    PublicAddress,
    Site,
    broker_address,
    database_address,
    host_and_port,
    host_name,
    public_address,
    sqlite_address,
)
from app.site.policies import Policies

PLACEHOLDER_SECRETS = {"change-me", "changeme", "secret", "placeholder", "replace-me", "password"}

FEWEST_SIGNS = 4  # different ones, in a key
EVERY_ADDRESS = ("0.0.0.0", "::", "[::]", "")  # noqa: S104 - compared, not bound
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Settings(Policies):
    """Everything that differs between a laptop and a server, each with a default that suits the laptop."""

    model_config = SettingsConfigDict(env_prefix="PREFLOOP_", env_file=".env", extra="ignore")

    data_dir: Path = Field(
        Path("data"), description="Folder for everything that Prefloop writes unless told otherwise."
    )
    database_url: str = Field("", description="SQLAlchemy URL. Empty: SQLite (WAL) in the data folder.")
    broker_url: str = Field(
        "", description="Celery broker. Empty: files in the data folder. Server: redis://host:6379/0."
    )
    redis_url: str = Field(
        "", description="Redis for waking event streams. Empty: the broker, if it is Redis; else polling."
    )
    storage_url: str = Field(
        "", description="fsspec URL for snapshots and checkpoints (s3://bucket/prefix …). Empty: a folder."
    )
    models_dir: Path | None = Field(None, description="Folder of base models. Empty: `models` in the data folder.")

    host: str = Field("127.0.0.1", description="Address that the web server listens on.")
    port: int = Field(8000, ge=1, le=65535, description="Port that the web server listens on.")
    public_url: str = Field(
        "",
        description="Address that people type, with the path if there is one: for links, cookies and checks. Empty: http://host:port.",
    )
    allowed_hosts: str = Field(
        "",
        description="Further host names that requests may call this server by, separated by commas.",
    )
    web_workers: int = Field(1, ge=1, description="Web server processes.")
    requests_at_once: int = Field(
        8, ge=1, le=200, description="Requests that one web process works on at once; others wait their turn."
    )
    client_seconds: float = Field(
        30, gt=0, description="How long a web process waits for a client in the middle of a request."
    )
    forwarded_allow_ips: str = Field(
        "",
        description="Addresses or networks of proxies whose X-Forwarded-For and -Proto are believed, separated by commas. Empty: nobody's.",
    )
    secret_key: str = Field(
        "",
        description="Keys the hashes of sessions and tokens; at least 32 characters. Not set: made once, kept in the data folder.",
    )

    metrics_token: str = Field(
        "", description="Bearer token that /metrics asks for. Empty: only requests from this machine."
    )

    max_import_bytes: int = Field(2_000_000_000, ge=1, description="Largest import, in bytes after decompression.")
    max_line_bytes: int = Field(4_000_000, ge=1024, description="Longest line of an import, in bytes.")
    max_request_bytes: int = Field(2_000_000, ge=1024, description="Largest request body other than an import.")

    worker_name: str = Field(
        "", description="Name of this worker on the Workers page. Empty: host name and process id."
    )
    worker_lease_seconds: float = Field(
        60, gt=0, description="A running job whose worker is silent for so long is taken from it."
    )
    heartbeat_seconds: float = Field(5, gt=0, description="How often a worker says that it lives.")
    sweep_seconds: float = Field(10, gt=0, description="How often lost jobs and lost doorbells are looked for.")
    job_attempts: int = Field(
        3, ge=1, description="Starts of one job before it is given up when its worker keeps dying."
    )
    cancel_grace_seconds: float = Field(
        30, gt=0, description="Time that a cancelled training process has to save its state."
    )
    train_launcher: str = Field(
        "", description="Command put before `-m worker.dpo` for several GPUs, e.g. `accelerate launch`."
    )
    train_environment: str = Field(
        "", description="Further environment variables that jobs' programs see, names or patterns separated by spaces."
    )
    endpoint_hosts: str = Field(
        "",
        description="Servers that may be asked for answers, each as host:port, separated by commas. Empty: none.",
    )
    endpoint_seconds: float = Field(120, gt=0, description="Longest wait for one answer of such a server.")
    stream_poll_seconds: float = Field(
        0.5, gt=0, description="How often a web process looks for new job events when not woken."
    )
    stream_ping_seconds: float = Field(15, gt=0, description="Longest silence on an event stream.")

    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_json: bool = Field(False, description="Logs as JSON lines instead of text.")

    @field_validator("data_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str) -> str:
        """`postgres://` is what hosting services write for PostgreSQL."""
        return database_address(value) if value.strip() else ""

    @field_validator("public_url")
    @classmethod
    def _normal_address(cls, value: str) -> str:
        return public_address(value).url if value.strip() else ""

    @field_validator("allowed_hosts")
    @classmethod
    def _normal_hosts(cls, value: str) -> str:
        return ",".join(host_name(name.strip()) for name in value.split(",") if name.strip())

    @field_validator("endpoint_hosts")
    @classmethod
    def _normal_host_ports(cls, value: str) -> str:
        return ",".join(host_and_port(name.strip()) for name in value.split(",") if name.strip())

    @field_validator("broker_url", "redis_url")
    @classmethod
    def _known_broker(cls, value: str) -> str:
        return broker_address(value) if value.strip() else ""

    @field_validator("train_launcher")
    @classmethod
    def _words(cls, value: str) -> str:
        try:
            shlex.split(value)
        except ValueError as error:
            raise ValueError(f"This can't be read as a command: {error}.") from None
        return value

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.upper() not in LOG_LEVELS:
            raise ValueError(f"A log level is one of {', '.join(LOG_LEVELS)}.")
        return value.upper()

    @model_validator(mode="after")
    def _beats_within_a_lease(self) -> "Settings":
        if self.heartbeat_seconds * 2 > self.worker_lease_seconds:
            raise ValueError(
                f"PREFLOOP_WORKER_LEASE_SECONDS ({self.worker_lease_seconds:g}) must be at least twice "
                f"PREFLOOP_HEARTBEAT_SECONDS ({self.heartbeat_seconds:g}), or a worker that lives counts as lost."
            )
        return self

    @model_validator(mode="after")
    def _no_placeholder_secret(self) -> "Settings":
        if "secret_key" in self.model_fields_set and (
            len(self.secret_key) < 32
            or len(set(self.secret_key)) < FEWEST_SIGNS
            or self.secret_key.lower() in PLACEHOLDER_SECRETS
            or "change-me" in self.secret_key.lower()
        ):
            raise ValueError(
                "PREFLOOP_SECRET_KEY is a placeholder or shorter than 32 characters, empty, or the same few signs again and "
                "again. Make one with: python3 -c 'import secrets; print(secrets.token_urlsafe(48))'. Or don't set it: "
                "then one is made, and kept in the data folder."
            )
        if self.database_url and (make_url(self.database_url).password or "").lower() in PLACEHOLDER_SECRETS:
            raise ValueError("PREFLOOP_DATABASE_URL has a placeholder password. Set a real one: openssl rand -hex 32")
        return self

    @property
    def database(self) -> str:
        if self.database_url:
            return self.database_url
        return sqlite_address(self.data_dir / "prefloop.db")

    @property
    def is_sqlite(self) -> bool:
        return self.database.startswith("sqlite")

    @property
    def broker(self) -> str:
        return self.broker_url or "filesystem://"

    @property
    def broker_dir(self) -> Path:
        return self.data_dir / "broker"

    @property
    def redis(self) -> str | None:
        return self.redis_url or (self.broker_url if self.broker_url.startswith("redis") else None) or None

    @property
    def storage(self) -> str:
        return self.storage_url or f"file://{self.data_dir / 'artifacts'}"

    @property
    def models(self) -> Path:
        return (self.models_dir or self.data_dir / "models").expanduser().resolve()

    @property
    def public_address(self) -> PublicAddress:
        """Where people open it; without a configured address, where it listens."""
        if self.public_url:
            return public_address(self.public_url)
        host = "127.0.0.1" if self.host in EVERY_ADDRESS else self.host.strip("[]")
        return PublicAddress("http", host, self.port, "")

    @property
    def base_url(self) -> str:
        return self.public_address.url

    @property
    def site(self) -> Site:
        address = self.public_address
        return Site(address.path, address.port, address.scheme == "https")

    @property
    def host_names(self) -> frozenset[str]:
        """The names that requests may call this server by, besides loopback names and the address that they came to."""
        return frozenset({self.public_address.host, *filter(None, self.allowed_hosts.split(","))})

    @cached_property
    def secret(self) -> bytes:
        """The key for token hashes; made once and kept in the data folder where none is configured."""
        if self.secret_key:
            return self.secret_key.encode()
        path = self.data_dir / "secret_key"
        if not path.exists():
            self.data_dir.mkdir(parents=True, exist_ok=True)
            fresh = self.data_dir / f".secret_key.{secrets.token_hex(8)}"
            fresh.touch(mode=0o600)
            fresh.write_text(secrets.token_urlsafe(48))
            with suppress(FileExistsError):  # another process was first: then its key counts
                path.hardlink_to(fresh)
            fresh.unlink()
        return path.read_bytes()


@lru_cache
def get_settings() -> Settings:
    return Settings()
