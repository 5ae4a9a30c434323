"""What OpenAPI can't read from the routes: bodies that the wire's own decoder takes, and the one error shape."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from holter import wire
from holter_server.schemas import ErrorAnswer

__all__ = ["FRAME_BODY", "POINTS_BODY", "RULES_BODY", "install_openapi", "takes"]

REF = "#/components/schemas/{name}"
STRUCTS = (wire.RunStart, wire.RunFinish, wire.Event, wire.CommandUpdate)

DESCRIPTION = """\
Times are seconds since 1970, UTC. Numbers that JSON lacks are the strings "NaN", "Infinity" and "-Infinity", in and
out. Every error is `{"error": {"type", "message", "hint"}}`. Where a token is needed: `Authorization: Bearer TOKEN`.

The live socket, `WS /api/v1/live`: send `{"type": "subscribe", "id": "a", "topic": "runs"}` or
`{"type": "subscribe", "id": "b", "topic": "run", "run": "RUN"}`; `points`, `run`, `incident`, `command` and `event`
messages follow, each with the subscription's `id`; `behind` means that points were left out: ask the REST view again.
"""


def takes(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The ``openapi_extra`` of a call whose JSON body is one of `STRUCTS`."""
    return _body({"application/json": {"schema": {"$ref": REF.format(name=struct.__name__)}}})


def _body(content: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": content}}


_NUMBER = {"anyOf": [{"type": "number"}, {"type": "string", "enum": ["NaN", "Infinity", "-Infinity"]}]}
_POINT = {
    "type": "object",
    "required": ["step", "values"],
    "properties": {
        "step": {"type": "integer"},
        "time": {"type": "number", "description": "seconds, UTC; the time of arrival when absent"},
        "values": {"type": "object", "additionalProperties": _NUMBER},
    },
}
_POINTS = {
    "type": "object",
    "properties": {
        "points": {"type": "array", "items": _POINT},
        "events": {"type": "array", "items": {"$ref": REF.format(name="Event")}},
        "writer": {"type": "string", "default": "rank0"},
        "attempt": {"type": "string", "default": ""},
        "seq": {"type": "integer", "description": "counts from 1 for each writer; 0: number it for me"},
        "promise": {"type": "number", "description": "seconds until the next sign of life at the latest"},
    },
    "example": {
        "points": [{"step": 1, "time": 1700000000.5, "values": {"loss": 2.5, "precursor": "NaN"}}],
        "writer": "rank0",
        "seq": 1,
    },
}
POINTS_BODY = _body({"application/json": {"schema": _POINTS}})
FRAME_BODY = _body({wire.FRAME_MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}})
RULES_BODY = _body(
    {
        "text/yaml": {"schema": {"type": "string"}},
        "application/json": {"schema": {"type": "object", "properties": {"rules": {"type": "string"}}}},
    }
)


def install_openapi(app: FastAPI) -> None:
    """Have ``app.openapi()`` describe the wire's structs and our errors beside what the routes declare."""

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _describe(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]


def _describe(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
    _, structs = msgspec.json.schema_components(STRUCTS, ref_template=REF)
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(structs)
    schemas["ErrorAnswer"] = ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schemas["ErrorAnswer"].pop("$defs", {}))
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    error = {"content": {"application/json": {"schema": {"$ref": REF.format(name="ErrorAnswer")}}}}
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            operation["responses"]["default"] = {"description": "An error", **error}
    return schema
