"""The agent's settings: read from the environment once, by `init`, and passed down."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

__all__ = ["DEFAULT_URL", "Mode", "Settings"]

Mode = Literal["online", "offline", "disabled"]
Shipping = Literal["process", "thread"]
DISK_LEAST = 1_000_000  # bytes
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
    disk_max: int = 1 << 30  # bytes per writer
    rules: str | None = None  # YAML of the project's rules; None: what the service says
    shipper: Shipping = "process"
    finish_timeout: float = 10.0
    linger: float = 300.0  # for which the shipper goes on after the training, where the service can't be reached
    heartbeat: float = 2.0
    system_interval: float = 5.0
    ship_interval: float = 0.2
    slow_retry: float = 30.0  # between tries that need somebody to put something right first
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
            disk_max=_bytes(environ, "HOLTER_DISK_MAX", 1 << 30),
            rules=_file(environ.get("HOLTER_RULES")),
            shipper="thread" if environ.get("HOLTER_SHIPPER") == "thread" else "process",
            slow_retry=_seconds(environ, "HOLTER_SLOW_RETRY", 30.0),
            linger=_seconds(environ, "HOLTER_LINGER", 300.0),
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


def _bytes(environ: Mapping[str, str], name: str, default: int) -> int:
    """A number of bytes: "500000000", "500MB", "2 GiB"."""
    text = environ.get(name, "").strip()
    if not text:
        return default
    digits = text.rstrip("kKMGTiBb ")
    factors = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
    factors |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}
    try:
        number = float(digits) * factors[text[len(digits) :].strip().lower()]
    except (ValueError, KeyError):
        number = -1.0
    if not DISK_LEAST <= number < 1e18:
        raise ValueError(f"{name}={text!r} is no size of at least 1 MB. Set {name}=1GiB, or leave it unset.")
    return int(number)


def _file(path: str | None) -> str | None:
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"HOLTER_RULES={path!r} can't be read: {error}. Name a YAML file, or leave it unset."
        ) from None
