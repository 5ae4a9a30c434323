"""Every setting of the service, read once from ``HOLTER_*`` variables into one frozen object."""

from __future__ import annotations

import ipaddress
import sys
from typing import Annotated

from pydantic import BeforeValidator, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

__all__ = ["Settings", "settings_page"]


def _off(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in ("off", "") else value


Limit = Annotated[float | None, BeforeValidator(_off)]
Count = Annotated[int | None, BeforeValidator(_off)]


class Settings(BaseSettings):
    """What `holter serve` can be told. Values given in Python win over the environment."""

    model_config = SettingsConfigDict(env_prefix="HOLTER_", frozen=True, extra="ignore")

    db: str = Field("sqlite:///holter.db", description="Database: `sqlite:///PATH` or `postgresql://USER@HOST/NAME`.")
    host: str = Field(
        "127.0.0.1", description="Address to listen on. Anything but a loopback address needs a token for every call."
    )
    port: int = Field(8787, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    token: SecretStr | None = Field(
        None, description="The token that every call must carry. Also asked for on loopback once it is set."
    )
    public_url: str = Field(
        "", description="Address under which people reach the page, for links in webhooks. Empty: the bound address."
    )
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="More names, comma-separated, that the `Host` header may carry where no token is needed."
    )
    allow_private_webhooks: bool = Field(
        False, description="1 lets webhooks go to private, loopback and link-local addresses."
    )
    max_body_mb: int = Field(32, ge=1, description="Largest request body, in MB as it travels.")
    max_decoded_mb: int = Field(64, ge=1, description="Largest request body, in MB once it is decompressed.")
    queue_limit: int = Field(
        5000, ge=1, description="Writes that may wait for the database; one more is answered 429 with `Retry-After`."
    )
    queue_mb: int = Field(
        96,
        ge=1,
        description="MB of request bodies that may be on their way in, and as many, decompressed, that may wait for "
        "the database; one more is answered 429 with `Retry-After`.",
    )
    webhook_timeout_s: float = Field(10.0, gt=0, description="Seconds a webhook's receiver has to answer.")
    webhook_give_up_s: float = Field(
        86_400.0, ge=0, description="Seconds from a delivery's first attempt to its last one; then it is given up."
    )
    webhook_backoff_s: float = Field(
        5.0, gt=0, description="Seconds before the second attempt; each further wait is thrice as long, up to an hour."
    )
    dry_run: bool = Field(
        False, description="1: what rules ask of a training is written down and not sent. `stop` by hand still works."
    )
    watchdog_interval_s: float = Field(
        1.0, gt=0, description="Seconds between two looks at the signs of life of all live runs."
    )
    purge_after_days: Limit = Field(
        30.0, ge=0, description="Days after which the points of a deleted run are removed for good; `off`: never."
    )
    retention_days: Limit = Field(
        None,
        gt=0,
        description="Days after its last sign of life for which a project keeps a run, where it says nothing else; "
        "`off`: for ever.",
    )
    retention_runs: Count = Field(
        None, ge=1, description="Runs that a project keeps, the newest ones, where it says nothing else; `off`: all."
    )
    retention_raw_days: Limit = Field(
        None,
        gt=0,
        description="Days after a run's last sign of life for which its raw points stay; its charts do. `off`: always.",
    )
    upkeep_interval_s: float = Field(
        600.0, gt=0, description="Seconds between two looks for what retention or a purge is to remove."
    )
    compact_interval_s: float = Field(
        5.0, gt=0, description="Seconds between two looks for points that should be compressed into chunks."
    )
    live_interval_s: float = Field(
        0.2, gt=0, description="Seconds at least between two batches of messages on one live socket."
    )
    log_level: str = Field("info", description="`debug`, `info`, `warning` or `error`.")

    @field_validator("allowed_hosts", mode="before")
    @classmethod
    def _split_on_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("log_level", mode="after")
    @classmethod
    def _known_level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("is debug, info, warning or error")
        return value.lower()

    @property
    def loopback(self) -> bool:
        """True when only this machine can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def token_text(self) -> str | None:
        """The configured token, or None; an empty variable counts as unset."""
        return self.token.get_secret_value() or None if self.token else None


_PAGE = """\
# Settings

The service reads these variables once, when it starts. `holter serve` has a flag for the first three.
This page is generated: `python -m holter_server.settings > docs/settings.md`.

| variable | default | what it sets |
| --- | --- | --- |
"""


def settings_page() -> str:
    """``docs/settings.md``: one table row per field of `Settings`."""
    rows = (
        f"| `HOLTER_{name.upper()}` | {_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    )
    return _PAGE + "\n".join(rows) + "\n"


def _default(value: object) -> str:
    if value in (None, "", ()):
        return "–"
    if isinstance(value, bool):
        return f"`{int(value)}`"
    return f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
