"""What a person reads when the service is not there, is something else, or says no."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from typer.testing import CliRunner

from holter_server.cli.app import app
from holter_server.cli.connection import Connection
from holter_server.cli.failure import Failure

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def answers() -> Answers:
    """Path and query → (status, JSON or text) of the stand-in service."""
    return {}


@pytest.fixture
def url(answers: Answers) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, "<html>nothing here</html>"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else json.dumps(body)).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def _run(id: str, name: str, created_at: float) -> dict[str, Any]:
    return {"id": id, "name": name, "created_at": created_at}


def test_no_service_is_two_lines_and_status_1() -> None:
    """What happened, and how to start one; no traceback."""
    result = CliRunner().invoke(app, ["runs", "--url", "http://127.0.0.1:1"])
    assert result.exit_code == 1
    what, todo = result.stderr.splitlines()
    assert what == "Error: No service at http://127.0.0.1:1"
    assert "holter serve" in todo


def test_an_address_without_a_scheme_is_explained() -> None:
    """The commonest slip with an address."""
    with pytest.raises(Failure, match="not the address") as caught:
        Connection("127.0.0.1:8787")
    assert "http://" in caught.value.todo


def test_another_server_is_recognised(url: str) -> None:
    """A 404 in HTML, or a 200 that is no JSON object, comes from something that is not Holter."""
    with pytest.raises(Failure, match="is not Holter"):
        Connection(url).get("/runs")


def test_text_where_json_should_be_is_not_holter(url: str, answers: Answers) -> None:
    """A captive portal answers 200 to everything."""
    answers["/api/v1/runs"] = (200, "welcome")
    with pytest.raises(Failure, match="is not Holter"):
        Connection(url).get("/runs")


def test_the_service_s_own_message_and_hint_are_shown(url: str, answers: Answers) -> None:
    """The service says best what is wrong."""
    error = {"type": "conflict", "message": "Two runs begin with 'x'", "hint": "Give more of the id"}
    answers["/api/v1/runs/x"] = (409, {"error": error})
    result = CliRunner().invoke(app, ["show", "x", "--url", url])
    assert result.exit_code == 1
    assert result.stderr.splitlines() == ["Error: Two runs begin with 'x'", "  Give more of the id"]


def test_a_hint_about_rest_becomes_one_about_commands(url: str, answers: Answers) -> None:
    """Nobody at a terminal wants to GET something."""
    error = {"type": "run_not_found", "message": "There is no run 'x'", "hint": "List them: GET /api/v1/runs"}
    answers["/api/v1/runs/x"] = (404, {"error": error})
    result = CliRunner().invoke(app, ["show", "x", "--url", url])
    assert result.stderr.splitlines() == ["Error: There is no run 'x'", "  holter runs lists them"]


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_says_where_a_token_comes_from(url: str, answers: Answers, status: int) -> None:
    """Whoever has no token must learn how to get one."""
    answers["/api/v1/runs"] = (status, {"error": {"type": "unauthorized", "message": "A token is needed", "hint": ""}})
    with pytest.raises(Failure, match="A token is needed") as caught:
        Connection(url).get("/runs")
    assert "holter token create" in caught.value.todo


def test_a_fault_of_the_service_is_not_taken_for_another_server(url: str, answers: Answers) -> None:
    """A proxy's 502 has no JSON, but the address is right."""
    answers["/api/v1/runs"] = (502, "Bad Gateway")
    with pytest.raises(Failure, match="502"):
        Connection(url).get("/runs")


def test_project_and_name_mean_the_newest_run_of_exactly_that_name(url: str, answers: Answers) -> None:
    """q= finds parts of names; the name given must be the whole one, and it may be on a later page."""
    first = {"runs": [_run("a", "base", 1.0), _run("b", "base-2", 9.0)], "next": "more"}
    answers["/api/v1/runs?project=denovo&q=base"] = (200, first)
    answers["/api/v1/runs?cursor=more&project=denovo&q=base"] = (200, {"runs": [_run("c", "base", 2.0)], "next": None})
    assert Connection(url).run("denovo/base")["id"] == "c"


def test_an_unknown_name_lists_how_to_find_it(url: str, answers: Answers) -> None:
    """Nothing by that name is not "not found" of some URL."""
    answers["/api/v1/runs?project=p&q=n"] = (200, {"runs": [_run("b", "nn", 9.0)], "next": None})
    with pytest.raises(Failure, match="no run named 'n'"):
        Connection(url).run("p/n")


def test_a_query_escapes_what_people_write_in_globs(url: str, answers: Answers) -> None:
    """`loss/*&x` must arrive as it was typed, and None not at all."""
    answers["/api/v1/x?metric=loss%2F%2A%26x&metric=%C3%A9"] = (200, {"ok": True})
    assert Connection(url).get("/x", metric=["loss/*&x", "é"], missing=None) == {"ok": True}
