"""The agent's settings: read from the environment once, by `init`, and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["DEFAULT_URL", "Mode", "Settings"]

Mode = Literal["online", "offline", "disabled"]
DEFAULT_URL = "http://127.0.0.1:8787"


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds. Every field but the first six is there for tests and unusual networks."""

    url: str = DEFAULT_URL
    token: str | None = None
    directory: Path = Path(".holter")
    mode: Mode = "online"
    project: str = "default"
    quiet: bool = False
    finish_timeout: float = 10.0
    heartbeat: float = 2.0
    system_interval: float = 5.0
    ship_interval: float = 0.2
    connect_timeout: float = 3.0
    read_timeout: float = 10.0

    @property
    def promise(self) -> float:
        """Seconds within which the service hears again: long, since a compilation may hold the interpreter's lock."""
        return 15.0 + 3 * self.heartbeat

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str],
        *,
        url: str | None = None,
        token: str | None = None,
        directory: str | os.PathLike[str] | None = None,
        mode: str | None = None,
        project: str | None = None,
    ) -> Settings:
        """Arguments win over ``HOLTER_*`` variables, which win over the defaults.

        Raises:
            ValueError: the mode is none of the three, or the address is not http(s). It names the right ones.
        """
        address = (url or environ.get("HOLTER_URL") or DEFAULT_URL).rstrip("/")
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"url={address!r} is no address. Give one such as {DEFAULT_URL} (or set HOLTER_URL).")
        return cls(
            url=address,
            token=token or environ.get("HOLTER_TOKEN") or None,
            directory=Path(directory or environ.get("HOLTER_DIR") or ".holter").expanduser(),
            mode=_mode(mode or environ.get("HOLTER_MODE") or "online"),
            project=project or environ.get("HOLTER_PROJECT") or "default",
            quiet=environ.get("HOLTER_QUIET", "") not in {"", "0"},
            finish_timeout=_seconds(environ, "HOLTER_FINISH_TIMEOUT", 10.0),
            heartbeat=_seconds(environ, "HOLTER_HEARTBEAT", 2.0),
            system_interval=_seconds(environ, "HOLTER_SYSTEM_INTERVAL", 5.0),
        )


def _mode(text: str) -> Mode:
    for mode in get_args(Mode):
        if text == mode:
            return mode  # type: ignore[no-any-return]
    raise ValueError(f'mode={text!r} is none of "online", "offline" and "disabled".')


def _seconds(environ: Mapping[str, str], name: str, default: float) -> float:
    text = environ.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{name}={text!r} is not a number of seconds. Set {name}={default:g}, or leave it unset.")
    return seconds
