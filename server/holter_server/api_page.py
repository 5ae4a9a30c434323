"""The API reference as one plain page, written from OpenAPI: it needs no script, no network and no other package.

FastAPI's own pages load Swagger UI or ReDoc from a CDN, which a service that works offline can't do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from html import escape
from typing import Any

__all__ = ["api_page"]

Schema = dict[str, Any]

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="/static/favicon.svg"><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 0 auto; padding: 1rem; }}
h2 {{ margin-top: 2.5rem; border-bottom: 1px solid; }}
summary {{ cursor: pointer; padding: .35rem 0; overflow-wrap: anywhere; }}
summary b {{ display: inline-block; min-width: 4.5rem; }}
details > div {{ padding: 0 0 1rem 1rem; border-left: 2px solid; overflow-x: auto; }}
table {{ border-collapse: collapse; }}
td, th {{ text-align: left; padding: .15rem .75rem .15rem 0; vertical-align: top; }}
pre, code {{ font: .875rem/1.45 ui-monospace, monospace; }} pre {{ overflow-x: auto; }}
</style></head><body>
"""


def api_page(openapi: Schema) -> str:
    """The HTML of the reference for an OpenAPI 3.1 description."""
    return "\n".join(_page(openapi))


def _page(openapi: Schema) -> Iterator[str]:
    title = f"{openapi['info']['title']} {openapi['info']['version']}"
    yield HEAD.format(title=escape(title))
    yield f"<h1>{escape(title)}</h1>"
    for paragraph in openapi["info"].get("description", "").strip().split("\n\n"):
        yield f"<p>{_prose(paragraph)}</p>"
    yield '<p>For programs: <a href="/api/openapi.json">/api/openapi.json</a></p>'
    for tag, calls in _by_tag(openapi).items():
        yield f"<h2>{escape(tag)}</h2>"
        for method, path, operation in calls:
            yield from _call(method, path, operation)
    yield "<h2>Types</h2>"
    for name, schema in sorted(openapi["components"]["schemas"].items()):
        # The name is on what is inside: a link to it then opens the details.
        yield f'<details><summary><code>{escape(name)}</code></summary><div id="{escape(name)}">'
        yield from _fields(schema)
        yield "</div></details>"
    yield "</body></html>"


def _by_tag(openapi: Schema) -> dict[str, list[tuple[str, str, Schema]]]:
    found: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            found.setdefault((operation.get("tags") or ["other"])[0], []).append((method.upper(), path, operation))
    return found


def _call(method: str, path: str, operation: Schema) -> Iterator[str]:
    text = operation.get("description", "")
    first = text.partition("\n")[0]
    yield f"<details><summary><b>{method}</b> <code>{escape(path)}</code> {_prose(first)}</summary><div>"
    if rest := text.partition("\n")[2].strip():
        yield f"<p>{_prose(rest)}</p>"
    if parameters := operation.get("parameters"):
        yield "<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>"
        for item in parameters:
            star = " *" if item.get("required") else ""
            yield _row(f"<code>{escape(item['name'])}</code>{star}", item["in"], _type(item["schema"]), _note(item))
        yield "</table>"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<p>Body: <code>{escape(media)}</code> {_type(content['schema'])}</p>"
        if example := content["schema"].get("example"):
            yield f"<pre>{escape(json.dumps(example, indent=2))}</pre>"
    for status, answer in operation["responses"].items():
        yield f"<p>{escape(status)}: {' or '.join(_content(answer))}</p>"
    yield "</div></details>"


def _content(answer: Schema) -> Iterator[str]:
    contents = answer.get("content") or {"": {}}
    for media, content in contents.items():
        shown = "" if media in ("", "application/json") else f"<code>{escape(media)}</code> "
        yield shown + (_type(content["schema"]) if content.get("schema") else escape(answer["description"]))


def _fields(schema: Schema) -> Iterator[str]:
    if text := schema.get("description"):
        yield f"<p>{_prose(text)}</p>"
    required = set(schema.get("required", ()))
    if "properties" in schema:
        yield "<table>"
        for name, item in schema["properties"].items():
            star = " *" if name in required else ""
            yield _row(f"<code>{escape(name)}</code>{star}", _type(item), _note(item))
        yield "</table>"
    else:
        yield f"<p>{_type(schema)}</p>"


def _row(*cells: str) -> str:
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _note(item: Schema) -> str:
    schema = item.get("schema", item)
    parts = [_prose(item.get("description") or schema.get("description") or "")]
    if schema.get("default") not in (None, ""):
        parts.append(f"default <code>{escape(json.dumps(schema['default']))}</code>")
    return "; ".join(part for part in parts if part)


def _type(schema: Schema) -> str:
    """A short name of a schema, with links to the types."""
    if ref := schema.get("$ref"):
        name = escape(ref.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf"):
        return " | ".join(_type(choice) for choice in choices)
    if values := schema.get("enum"):
        return " | ".join(escape(json.dumps(value)) for value in values)
    if "const" in schema:
        return escape(json.dumps(schema["const"]))
    match schema.get("type"):
        case "array":
            return f"[{_type(schema.get('items') or {})}]"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"{{name: {_type(schema['additionalProperties'])}}}"
        case None:
            return "any"
        case known:
            return escape(str(known))


def _prose(text: str) -> str:
    """Text with ``code`` between backquotes."""
    parts = escape(text, quote=False).replace("``", "`").split("`")
    return "".join(f"<code>{part}</code>" if index % 2 else part for index, part in enumerate(parts))
