"""Who may call: on loopback everybody on this machine but no foreign page; elsewhere whoever has a token."""

from __future__ import annotations

import json
import time

import pytest
from pydantic import SecretStr
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from holter_db import tokens
from holter_db.database import Database
from holter_server.service import running

TOKEN = "correct-horse"
NEEDS_TOKEN = ["/api/v1/runs", "/api/docs", "/api/openapi.json", "/metrics", "/api/v1/nothing"]


@pytest.fixture
def guarded(settings, client_of):
    """A service that was given a token; the client has none."""
    with running(settings.model_copy(update={"token": SecretStr(TOKEN)})) as base:
        yield client_of(base)


def fetch(service, path: str, **headers: str):
    """A request to a path outside the API, redirects not followed."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return service.http.request("GET", service.base + path, headers=sent, redirect=False)


@pytest.mark.parametrize("path", NEEDS_TOKEN)
def test_without_a_token_nothing_is_told(guarded, path):
    """401 in the one shape, with what to send."""
    answer = (
        guarded.call("GET", path) if path.startswith("/metrics") else guarded.call("GET", path.removeprefix("/api/v1"))
    )
    assert (answer.status, answer.error["type"]) == (401, "token_needed")
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert "Authorization" in answer.error["hint"]


def test_the_probes_stay_open(guarded):
    """A load balancer has no token."""
    assert guarded.call("GET", "/healthz").status == 200
    assert guarded.call("GET", "/readyz").status == 200


def test_the_token_opens_everything(guarded, client_of):
    """As a Bearer token."""
    service = client_of(guarded.base, TOKEN)
    run = service.start()
    service.log(run, 1, loss=1.0)
    assert client_of(guarded.base, TOKEN + "x").call("GET", "/runs").status == 401


def test_tokens_from_the_database_are_good_until_revoked(settings, guarded, client_of):
    """Several people, several tokens."""
    database = Database.open(settings.db)
    with database.write() as conn:
        secret = tokens.create(conn, "ana", time.time())
    service = client_of(guarded.base, secret)
    assert service.call("GET", "/runs").status == 200
    with database.write() as conn:
        tokens.revoke(conn, "ana")
    database.close()
    deadline = time.monotonic() + 60
    while service.call("GET", "/runs").status == 200 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert service.call("GET", "/runs").status == 401


def test_a_browser_is_sent_to_the_form_and_comes_back(guarded):
    """The page's own address survives; the cookie is out of reach for scripts."""
    sent = fetch(guarded, "/runs/abc", Accept="text/html")
    assert (sent.status, sent.headers["Location"]) == (303, "/login?next=%2Fruns%2Fabc")
    form = fetch(guarded, sent.headers["Location"])
    assert form.status == 200
    assert b'action="/login?next=%2Fruns%2Fabc"' in form.data
    signed = guarded.http.request_encode_body(
        "POST", f"{guarded.base}/login?next=/runs/abc", fields={"token": TOKEN}, encode_multipart=False, redirect=False
    )
    assert (signed.status, signed.headers["Location"]) == (303, "/runs/abc")
    cookie = signed.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert fetch(guarded, "/runs/abc", Cookie=cookie.partition(";")[0]).status == 200


def test_a_wrong_token_in_the_form_is_said(guarded):
    """And nothing is set."""
    answer = guarded.http.request_encode_body(
        "POST", f"{guarded.base}/login", fields={"token": "wrong"}, encode_multipart=False, redirect=False
    )
    assert answer.status == 401
    assert b'role="alert"' in answer.data
    assert "Set-Cookie" not in answer.headers


def test_the_form_sends_nobody_elsewhere(guarded):
    """`next` is a path of this service or it is nothing."""
    for target in ("https://evil.example", "//evil.example", "/\\evil.example"):
        signed = guarded.http.request_encode_body(
            "POST",
            f"{guarded.base}/login?next={target}",
            fields={"token": TOKEN},
            encode_multipart=False,
            redirect=False,
        )
        assert (signed.status, signed.headers["Location"]) == (303, "/")


def test_the_address_from_the_terminal_signs_in(guarded):
    """The token goes from the address into the cookie."""
    signed = fetch(guarded, f"/?token={TOKEN}")
    assert (signed.status, signed.headers["Location"]) == (303, "/")
    cookie = signed.headers["Set-Cookie"].partition(";")[0]
    assert fetch(guarded, "/api/v1/runs", Cookie=cookie).status == 200
    assert "Set-Cookie" not in fetch(guarded, "/?token=wrong").headers


def test_a_foreign_page_can_not_use_the_cookie(guarded):
    """Cross-site requests and sockets are refused even with it."""
    headers = {"Cookie": f"holter_token={TOKEN}", "Origin": "https://evil.example"}
    answer = guarded.call("POST", "/runs", {"project": "x"}, **headers)
    assert (answer.status, answer.error["type"]) == (403, "cross_site")
    assert guarded.call("POST", "/runs", {"project": "x"}, Cookie=headers["Cookie"], Origin=guarded.base).status == 201
    address = guarded.base.replace("http", "ws", 1) + "/api/v1/live"
    with pytest.raises(InvalidStatus), connect(address, additional_headers=headers):
        pass


def test_the_socket_needs_the_token(guarded):
    """By header or by cookie."""
    address = guarded.base.replace("http", "ws", 1) + "/api/v1/live"
    with pytest.raises(InvalidStatus) as refused, connect(address):
        pass
    assert refused.value.response.status_code == 403
    for headers in ({"Authorization": f"Bearer {TOKEN}"}, {"Cookie": f"holter_token={TOKEN}"}):
        with connect(address, additional_headers=headers) as socket:
            socket.send('{"type": "ping"}')
            assert json.loads(socket.recv(30)) == {"type": "pong"}


def test_loopback_is_open_to_this_machine_only(service):
    """A name that resolves here (DNS rebinding) is refused; loopback names are fine."""
    port = service.base.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert service.call("GET", "/runs", Host=host).status == 200
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", ""):
        answer = service.call("GET", "/runs", Host=host)
        assert (answer.status, answer.error["type"]) == (403, "host_not_allowed")
        assert "HOLTER_ALLOWED_HOSTS" in answer.error["hint"]


def test_a_foreign_page_can_not_write_on_loopback(service):
    """Its Origin gives it away; the page's own Origin is fine."""
    answer = service.call("POST", "/runs", {"project": "x"}, Origin="https://evil.example")
    assert (answer.status, answer.error["type"]) == (403, "cross_site")
    assert service.call("POST", "/runs", {"project": "x"}, Origin="null").status == 403
    assert service.call("POST", "/runs", {"project": "x"}, Origin=service.base).status == 201


def test_more_names_can_be_allowed(settings, client_of):
    """For a proxy on the same machine."""
    with running(settings.model_copy(update={"allowed_hosts": ("holter.example",)})) as base:
        assert client_of(base).call("GET", "/runs", Host="holter.example").status == 200
