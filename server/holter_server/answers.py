"""Answers as JSON in which NaN and ±Inf survive."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from holter.wire import dump_json

__all__ = ["Json"]


class Json(Response):
    """JSON by the wire's own encoder: FastAPI's turns a NaN into a 500 or into null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return dump_json(content)
