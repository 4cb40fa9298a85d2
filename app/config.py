"""Settings: the only code that reads the environment (variables named PREFLOOP_*)."""

import secrets
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import make_url

PLACEHOLDER_SECRETS = {"change-me", "changeme", "secret", "placeholder", "replace-me", "password"}


class Settings(BaseSettings):
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
        "", description="Address that people type, for links and the origin check. Empty: http://host:port."
    )
    web_workers: int = Field(1, ge=1, description="Web server processes.")
    requests_at_once: int = Field(
        8, ge=1, le=200, description="Requests that one web process works on at once; others wait their turn."
    )
    client_seconds: float = Field(
        30, gt=0, description="How long a web process waits for a client in the middle of a request."
    )
    forwarded_allow_ips: str = Field("127.0.0.1", description="Proxies whose X-Forwarded-* headers are believed.")
    secret_key: str = Field(
        "",
        description="Keys the hashes of sessions and tokens; at least 32 characters. Empty: made once, kept in the data folder.",
    )

    session_days: int = Field(30, ge=1, description="Days until an unused browser session ends.")
    link_minutes: int = Field(60, ge=1, description="Minutes until a sign-in link ends.")
    invitation_days: int = Field(7, ge=1, description="Days until an invitation ends.")
    login_attempts: int = Field(
        10, ge=1, description="Failed sign-ins allowed per address and per account in the login window."
    )
    login_window_minutes: int = Field(15, ge=1, description="Length of the login window.")
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

    @model_validator(mode="after")
    def _no_placeholder_secret(self) -> "Settings":
        if self.secret_key and (
            len(self.secret_key) < 32
            or self.secret_key.lower() in PLACEHOLDER_SECRETS
            or "change-me" in self.secret_key.lower()
        ):
            raise ValueError(
                "PREFLOOP_SECRET_KEY is a placeholder or shorter than 32 characters. Make one with: "
                "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
        if self.database_url and (make_url(self.database_url).password or "").lower() in PLACEHOLDER_SECRETS:
            raise ValueError("PREFLOOP_DATABASE_URL has a placeholder password. Set a real one: openssl rand -hex 32")
        return self

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.data_dir / 'prefloop.db'}"

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
    def base_url(self) -> str:
        return (self.public_url or f"http://{self.host}:{self.port}").rstrip("/")

    @property
    def secure_cookies(self) -> bool:
        return self.base_url.startswith("https://")

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
