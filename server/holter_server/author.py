"""Who says so: what a request tells of its author, for histories that people read."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query
from starlette.requests import Request

from holter_server.auth import presented
from holter_server.context import Here

__all__ = ["Author"]


def _author(
    here: Here, request: Request, by: Annotated[str, Query(max_length=200, description="who does this")] = ""
) -> str:
    """``by`` of the query, else the name of the token that the call carries."""
    if by:
        return by
    secret, _ = presented(request.headers)
    return (here.access.look_up(secret) or "") if secret else ""


Author = Annotated[str, Depends(_author)]
