"""Ids that sort by time, and names that people can say."""

from __future__ import annotations

import secrets

__all__ = ["new_id", "run_name"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base32 in lower case: sorts as its numbers do
_EPOCH = 1_577_836_800  # 2020-01-01; 30 bits of seconds last until 2054

_ADJECTIVES = (
    "amber", "bold", "brisk", "calm", "clear", "crisp", "eager", "early", "fair", "fleet", "gentle", "golden",
    "keen", "light", "lively", "lucid", "mellow", "nimble", "quiet", "rapid", "ready", "sharp", "silver", "sleek",
    "smooth", "solid", "steady", "still", "sunny", "swift", "tidy", "vivid",
)  # fmt: skip
_ANIMALS = (
    "badger", "beaver", "bison", "crane", "curlew", "dolphin", "eagle", "falcon", "finch", "fox", "gecko", "hare",
    "heron", "ibex", "jackdaw", "kestrel", "lark", "lynx", "marten", "newt", "orca", "otter", "owl", "panda",
    "plover", "puffin", "raven", "robin", "seal", "swift", "tern", "wren",
)  # fmt: skip


def new_id(now: float) -> str:
    """12 characters of base32: 30 bits of seconds since 2020, then 30 random bits."""
    return _base32(max(0, int(now) - _EPOCH) & 0x3FFFFFFF) + _base32(secrets.randbits(30))


def run_name(number: int) -> str:
    """A name such as "brisk-otter-12" for the ``number``-th run of a project."""
    return f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_ANIMALS)}-{number}"


def _base32(number: int) -> str:
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(25, -1, -5))
