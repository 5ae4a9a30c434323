"""Access tokens: the secret is shown once, its SHA-256 is stored."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import Connection

from holter_db.errors import Conflict, NotFound, QueryError
from holter_db.schema import tokens
from holter_db.upsert import insert_new

__all__ = ["TokenRow", "create", "list_tokens", "revoke", "verify"]


@dataclass(frozen=True, slots=True)
class TokenRow:
    """A token as it may be shown."""

    name: str
    created_at: float


def create(conn: Connection, name: str, now: float) -> str:
    """Make a token; the secret, which can't be read again.

    Raises:
        QueryError: the name is empty.
        Conflict: the name is taken.
    """
    if not name.strip():
        raise QueryError("A token needs a name", "Name who or what uses it.")
    secret = f"holter_{secrets.token_urlsafe(32)}"
    values = {"name": name, "digest": _digest(secret), "created_at": now}
    if not insert_new(conn, tokens, values, key=("name",)):
        raise Conflict(f"There is already a token {name!r}", "Revoke it first, or use another name.")
    return secret


def verify(conn: Connection, secret: str) -> str | None:
    """The name of the token with this secret, or None. 256 random bits need no slow hash."""
    return conn.scalar(sa.select(tokens.c.name).where(tokens.c.digest == _digest(secret)))


def list_tokens(conn: Connection) -> list[TokenRow]:
    """Every token, by name."""
    query = sa.select(tokens.c.name, tokens.c.created_at).order_by(tokens.c.name)
    return [TokenRow(*row) for row in conn.execute(query)]


def revoke(conn: Connection, name: str) -> None:
    """Make a token invalid.

    Raises:
        NotFound: there is none of that name.
    """
    if conn.execute(sa.delete(tokens).where(tokens.c.name == name)).rowcount != 1:
        raise NotFound("token", name, "`holter token list` names them.")


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
