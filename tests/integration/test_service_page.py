"""The page, its assets and the API reference: everything from this machine."""

from __future__ import annotations

import gzip
import re

import pytest
from plotly.offline import get_plotlyjs

from holter_server.service import running
from holter_server.settings import Settings

# What interface.md lists; a call that is not here yet belongs to a later issue.
CALLS = {
    "/api/v1/runs": {"get", "post"},
    "/api/v1/runs/{id}": {"get", "patch", "delete"},
    "/api/v1/runs/{id}/restore": {"post"},
    "/api/v1/runs/{id}/purge": {"post"},
    "/api/v1/runs/{id}/points": {"post"},
    "/api/v1/runs/{id}/frames": {"post"},
    "/api/v1/runs/{id}/finish": {"post"},
    "/api/v1/runs/{id}/commands": {"get", "post"},
    "/api/v1/runs/{id}/metrics": {"get"},
    "/api/v1/runs/{id}/ranks": {"get"},
    "/api/v1/runs/{id}/events": {"get"},
    "/api/v1/runs/{id}/events/{event}": {"get"},
    "/api/v1/runs/{id}/events/{event}/figure": {"get"},
    "/api/v1/runs/{id}/incidents": {"get"},
    "/api/v1/runs/{id}/series": {"get"},
    "/api/v1/series/query": {"post"},
    "/api/v1/runs/{id}/export": {"get"},
    "/api/v1/runs/{id}/figures": {"get"},
    "/api/v1/runs/{id}/figures/{name}": {"get"},
    "/api/v1/incidents": {"get"},
    "/api/v1/incidents/{id}": {"get"},
    "/api/v1/incidents/{id}/acknowledge": {"post"},
    "/api/v1/incidents/{id}/snooze": {"post"},
    "/api/v1/incidents/{id}/resolve": {"post"},
    "/api/v1/incidents/{id}/evidence": {"get"},
    "/api/v1/incidents/{id}/figure": {"get"},
    "/api/v1/webhooks": {"get", "post"},
    "/api/v1/webhooks/{id}": {"get", "patch", "delete"},
    "/api/v1/webhooks/{id}/test": {"post"},
    "/api/v1/deliveries": {"get"},
    "/api/v1/deliveries/{id}/redeliver": {"post"},
    "/api/v1/rules": {"get"},
    "/api/v1/rules/backtest": {"post"},
    "/api/v1/rules/check": {"post"},
    "/api/v1/mutes": {"get", "post"},
    "/api/v1/mutes/{id}": {"delete"},
    "/api/v1/compare": {"post"},
    "/api/v1/projects": {"get"},
    "/api/v1/projects/{name}/rules": {"put"},
    "/api/v1/projects/{name}/rules/versions": {"get"},
    "/api/v1/projects/{name}/rules/versions/{version}": {"get"},
    "/api/v1/projects/{name}/rules/restore": {"post"},
    "/api/v1/projects/{name}/retention": {"get", "put", "delete"},
    "/api/v1/retention": {"get"},
    "/api/v1/retention/due": {"get"},
    "/healthz": {"get"},
    "/readyz": {"get"},
    "/metrics": {"get"},
}


@pytest.fixture(scope="module")
def page(shared_database_url, client_of):
    with running(Settings(db=shared_database_url, port=0)) as base:
        yield client_of(base)


def fetch(page, path: str, **headers: str):
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return page.http.request("GET", page.base + path, headers=sent, decode_content=False)


@pytest.mark.parametrize("path", ["/", "/runs/abc", "/incidents", "/webhooks"])
def test_every_address_of_the_page_gives_the_page(page, path):
    """A reload anywhere works; scripts and styles come from here alone."""
    answer = fetch(page, path)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/html")
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'")
    assert "script-src" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_assets_are_there(page):
    """Each that index.html names."""
    html = fetch(page, "/").data.decode()
    assets = re.findall(r'(?:href|src)="(/static/[^"]+)"', html)
    assert assets
    for asset in assets:
        assert fetch(page, asset).status == 200, asset
    assert fetch(page, "/static/../settings.py").status == 404
    assert fetch(page, "/static/nothing.js").status == 404


def test_plotly_comes_from_the_installed_wheel(page):
    """Compressed where the browser takes it, and not again when it has it."""
    plain = fetch(page, "/static/plotly.min.js")
    assert plain.data.decode() == get_plotlyjs()
    packed = fetch(page, "/static/plotly.min.js", Accept_Encoding="gzip")
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) < len(plain.data) / 2
    again = fetch(page, "/static/plotly.min.js", If_None_Match=plain.headers["ETag"])
    assert (again.status, again.data) == (304, b"")


def test_the_reference_lists_every_call_and_loads_nothing(page):
    """No script and no address of another machine."""
    html = fetch(page, "/api/docs").data.decode()
    assert not re.search(r"<(script|img|iframe)\b", html)
    assert not re.search(r'(src|href)="(https?:)?//', html)
    for path in CALLS:
        assert path.partition("{name")[0] in html


def test_openapi_describes_every_call(page):
    """With the type of its answer, its body, and the one error."""
    described = page.call("GET", "/api/openapi.json").json
    assert {path: set(calls) for path, calls in described["paths"].items()} == CALLS
    names = set(described["components"]["schemas"])
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', page.call("GET", "/api/openapi.json").data.decode()))
    assert references <= names
    for path, calls in described["paths"].items():
        for method, call in calls.items():
            assert call["description"], (method, path)
            assert "ErrorAnswer" in str(call["responses"]["default"])
            if method in ("post", "put", "patch") and not path.endswith(("/test", "/redeliver", "/restore", "/purge")):
                assert "requestBody" in call, (method, path)
