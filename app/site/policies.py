"""Settings of how people sign in, and of how long what isn't needed any more is kept: a part of `config.Settings`."""

from typing import Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

ROLES = ("admin", "engineer", "evaluator")


class Policies(BaseSettings):
    """Ages are in days, counted from when a thing ended or was last used."""

    session_days: int = Field(14, ge=1, description="Days until an unused browser session ends.")
    session_longest_days: int = Field(
        30, ge=1, description="Days until a browser session ends, however much it is used."
    )
    token_days: int = Field(
        365, ge=1, le=3650, description="Days until an API token ends unless its maker says otherwise."
    )
    fresh_minutes: int = Field(
        10,
        ge=1,
        description="Minutes after a sign-in in which tokens, passkeys and second factors are given without the password.",
    )
    second_factor_roles: str = Field(
        "", description="Roles that must have a second factor to see more than their account, separated by commas."
    )
    link_minutes: int = Field(60, ge=1, description="Minutes until a sign-in link ends.")
    invitation_days: int = Field(7, ge=1, description="Days until an invitation ends.")
    login_attempts: int = Field(
        10, ge=1, description="Failed sign-ins allowed for an account from one address in the login window."
    )
    login_attempts_together: int = Field(
        100,
        ge=1,
        description="Failed sign-ins allowed from one address, or for one account from everywhere, in the login window.",
    )
    login_window_minutes: int = Field(15, ge=1, description="Length of the login window.")
    hsts_seconds: int = Field(
        31_536_000,
        ge=0,
        description="How long browsers remember to use TLS alone, where the public address has it. 0: not told.",
    )
    hsts_subdomains: bool = Field(False, description="Whether that goes for subdomains of the public address too.")
    hsts_preload: bool = Field(
        False, description="Whether browsers' makers may build it in; needs subdomains and a year."
    )
    keep_sessions_days: int = Field(90, ge=1, description="Days for which an ended session, link or token is kept.")
    keep_showings_days: int = Field(
        90, ge=7, description="Days for which a pair that was shown and never judged is remembered."
    )
    keep_failed_days: int = Field(
        30, ge=1, description="Days for which the work folder of a failed or cancelled job is kept for a retry."
    )
    keep_cache_days: int = Field(30, ge=1, description="Days for which a cache of the engine's is kept unused.")
    keep_uploads_days: int = Field(
        7, ge=2, description="Days after which half of a stored file, or a message that nobody heard, is removed."
    )
    keep_extracts_days: int = Field(
        default=30, ge=1, description="Days for which a file with a project's data, made to be taken out, is kept."
    )
    keep_events_days: int = Field(
        180, ge=1, description="Days for which every event of a finished job is kept; then a summary of them stays."
    )
    log_bytes: int = Field(
        20_000_000, ge=100_000, description="Size at which a log file of `prefloop up` is put aside."
    )
    log_files: int = Field(5, ge=1, description="Log files that are kept beside the newest.")

    @field_validator("second_factor_roles")
    @classmethod
    def _known_roles(cls, value: str) -> str:
        roles = [role.strip().lower() for role in value.split(",") if role.strip()]
        if unknown := [role for role in roles if role not in ROLES]:
            raise ValueError(f"There is no role “{unknown[0]}”. Roles are {', '.join(ROLES)}.")
        return ",".join(roles)

    @model_validator(mode="after")
    def _preload_needs_more(self) -> Self:
        if self.hsts_preload and not (self.hsts_subdomains and self.hsts_seconds >= 31_536_000):
            raise ValueError(
                "PREFLOOP_HSTS_PRELOAD needs PREFLOOP_HSTS_SUBDOMAINS=true and PREFLOOP_HSTS_SECONDS of a year."
            )
        return self
