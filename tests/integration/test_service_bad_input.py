"""Bad input gets one clear error that says what to do; the service stays up and loses nothing that it accepted."""

from __future__ import annotations

import gzip
import json

import msgspec
import pytest

from holter import wire
from holter_server.service import running
from holter_server.settings import Settings

FRAME = wire.FRAME_MEDIA_TYPE
GOOD_FRAME = wire.encode_frame(wire.Frame(version=1, attempt="", writer="rank0", seq=1))


def points(**change) -> dict:
    return {"points": [{"step": 1, "values": {"loss": 1.0}, **change}]}


def frame_with(**change) -> bytes:
    fields = {"version": 1, "attempt": "", "writer": "rank0", "seq": 1, "blocks": []}
    return msgspec.msgpack.encode({**fields, **change})


REFUSED = [
    # what is wrong, path, body, headers, status, type
    ("unknown run", "/runs/nope/points", points(), {}, 404, "run_not_found"),
    ("unknown run, frame", "/runs/nope/frames", GOOD_FRAME, {"Content_Type": FRAME}, 404, "run_not_found"),
    ("a step that is a fraction", "/runs/{run}/points", points(step=1.5), {}, 422, "invalid_points"),
    ("a step that is a string", "/runs/{run}/points", points(step="1"), {}, 422, "invalid_points"),
    ("a step beyond 64 bits", "/runs/{run}/points", points(step=2**63), {}, 422, "invalid_points"),
    ("a value that is a list", "/runs/{run}/points", points(values={"loss": [1.0]}), {}, 422, "invalid_points"),
    ("a value that is a word", "/runs/{run}/points", points(values={"loss": "nan"}), {}, 422, "invalid_points"),
    ("a name of 10 kB", "/runs/{run}/points", points(values={"a" * 10_000: 1.0}), {}, 422, "invalid_metric_name"),
    ("an unknown key", "/runs/{run}/points", {"pionts": []}, {}, 422, "invalid_points"),
    ("not JSON", "/runs/{run}/points", b"{", {"Content_Type": "application/json"}, 422, "invalid_points"),
    ("not UTF-8", "/runs/{run}/points", b'"\xff"', {"Content_Type": "application/json"}, 422, "invalid_points"),
    ("an empty body", "/runs/{run}/points", b"", {"Content_Type": "application/json"}, 422, "invalid_points"),
    ("a form", "/runs/{run}/points", b"a=1", {"Content_Type": "application/x-www-form-urlencoded"}, 415,
     "unsupported_media_type"),
    ("JSON as a frame", "/runs/{run}/frames", {"version": 1}, {}, 415, "unsupported_media_type"),
    ("not msgpack", "/runs/{run}/frames", b"\xc1\xc1", {"Content_Type": FRAME}, 422, "invalid_points"),
    ("another version", "/runs/{run}/frames", frame_with(version=99), {"Content_Type": FRAME}, 422,
     "unsupported_version"),
    ("lengths that disagree", "/runs/{run}/frames", frame_with(blocks=[[["a"], b"\0" * 8, b"\0" * 16, b"\0" * 8]]),
     {"Content_Type": FRAME}, 422, "invalid_points"),
    ("a negative seq", "/runs/{run}/frames", frame_with(seq=-1), {"Content_Type": FRAME}, 422, "invalid_points"),
    ("a broken gzip", "/runs/{run}/frames", b"\x1f\x8bxx", {"Content_Type": FRAME, "Content_Encoding": "gzip"}, 400,
     "invalid_encoding"),
    ("a cut gzip", "/runs/{run}/frames", gzip.compress(GOOD_FRAME)[:-4],
     {"Content_Type": FRAME, "Content_Encoding": "gzip"}, 400, "invalid_encoding"),
    ("an unknown encoding", "/runs/{run}/frames", GOOD_FRAME, {"Content_Type": FRAME, "Content_Encoding": "br"}, 415,
     "unsupported_encoding"),
    ("a run without a project", "/runs", {}, {}, 422, "invalid_request"),
    ("a project with a slash", "/runs", {"project": "a/b"}, {}, 422, "invalid_query"),
    ("a run's id with a slash", "/runs", {"project": "a", "id": "a/b"}, {}, 422, "invalid_query"),
    ("an unknown end", "/runs/{run}/finish", {"state": "exploded"}, {}, 422, "invalid_request"),
    ("the end of an unknown run", "/runs/nope/finish", {}, {}, 404, "run_not_found"),
    ("a command without a name", "/runs/{run}/commands", {"name": ""}, {}, 422, "invalid_request"),
    ("a command to an unknown run", "/runs/nope/commands", {"name": "stop"}, {}, 404, "run_not_found"),
    ("an unknown incident", "/incidents/nope/acknowledge", None, {}, 404, "incident_not_found"),
    ("an endless snooze", "/incidents/nope/snooze", {"seconds": -1}, {}, 422, "invalid_request"),
    ("a webhook to nowhere", "/webhooks", {"url": "ftp://example.org"}, {}, 422, "invalid_url"),
    ("a webhook with a password", "/webhooks", {"url": "https://a:b@example.org"}, {}, 422, "invalid_url"),
    ("a test of an unknown webhook", "/webhooks/nope/test", None, {}, 404, "webhook_not_found"),
    ("an unknown delivery", "/deliveries/nope/redeliver", None, {}, 404, "delivery_not_found"),
    ("views without runs", "/series/query", {"runs": [], "metrics": ["*"]}, {}, 422, "invalid_request"),
    ("a call that does not exist", "/nothing", {}, {}, 404, "not_found"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[case[0] for case in REFUSED])
def test_a_bad_request_is_told_what_to_do(shared_service, case):
    """The right status, one shape, and a hint; a good request right after it works."""
    service, run = shared_service
    _, path, body, headers, status, kind = case
    answer = service.call("POST", path.replace("{run}", run), body, **headers)
    assert (answer.status, answer.error["type"]) == (status, kind), answer.data
    assert set(answer.error) == {"type", "message", "hint"}
    assert answer.error["message"]
    assert answer.error["hint"]
    assert service.log(run, 1, fine=1.0)["acknowledged"] > 0


@pytest.mark.parametrize(("path", "status", "kind"), [
    ("/runs/nope", 404, "run_not_found"),
    ("/runs/nope/series?metric=*", 404, "run_not_found"),
    ("/runs/nope/export?format=csv", 404, "run_not_found"),
    ("/runs/{run}/export?format=xls", 422, "invalid_request"),
    ("/runs/{run}/series", 422, "invalid_request"),
    ("/runs/{run}/series?metric=*&width=0", 422, "invalid_request"),
    ("/runs/{run}/series?metric=*&width=ten", 422, "invalid_request"),
    ("/runs/{run}/series?metric=*&from=NaN&width=10", 422, "invalid_request"),
    ("/runs/{run}/series?metric=*&from=1.5", 422, "invalid_query"),
    ("/runs/{run}/series?metric=*&cursor=broken", 422, "invalid_query"),
    ("/runs/{run}/figures/nothing", 404, "figure_not_found"),
    ("/runs?sort=colour", 422, "invalid_query"),
    ("/runs?limit=0", 422, "invalid_query"),
    ("/runs?cursor=broken", 422, "invalid_query"),
    ("/incidents?state=sleepy", 422, "invalid_query"),
    ("/incidents/nope", 404, "incident_not_found"),
    ("/api/elsewhere", 404, "not_found"),
])  # fmt: skip
def test_a_bad_question_is_told_what_to_do(shared_service, path, status, kind):
    """Reads answer in the same shape."""
    service, run = shared_service
    answer = service.call("GET", path.replace("{run}", run))
    assert (answer.status, answer.error["type"]) == (status, kind), answer.data
    assert answer.error["hint"]


def test_a_wrong_method_says_which_are_right(shared_service):
    """405 carries Allow."""
    service, _ = shared_service
    answer = service.call("PUT", "/runs")
    assert (answer.status, answer.error["type"]) == (405, "method_not_allowed")
    assert "Allow" in answer.headers


def test_a_million_values_are_too_many(shared_service):
    """413, and the hint says to send parts."""
    service, run = shared_service
    block = wire.Block(("a",), b"\0" * 8_000_000, b"\0" * 8_000_000, b"\0" * 8_000_000)
    body = wire.encode_frame(wire.Frame(version=1, attempt="", writer="rank0", seq=1, blocks=[block]))
    headers = {"Content_Type": FRAME, "Content_Encoding": "gzip"}
    answer = service.call("POST", f"/runs/{run}/frames", gzip.compress(body), **headers)
    assert (answer.status, answer.error["type"]) == (413, "too_many_values")
    assert "parts" in answer.error["hint"]


def test_a_gzip_bomb_ends_at_the_limit(shared_service):
    """A few kB that would become hundreds of MB are refused before they do."""
    service, run = shared_service
    bomb = gzip.compress(b"\0" * 100_000_000)
    headers = {"Content_Type": FRAME, "Content_Encoding": "gzip"}
    answer = service.call("POST", f"/runs/{run}/frames", bomb, **headers)
    assert (answer.status, answer.error["type"]) == (413, "body_too_large")


def test_a_long_body_is_refused(shared_service):
    """Announced or not."""
    service, run = shared_service
    body = json.dumps(points()).encode() + b" " * 3_000_000
    assert service.call("POST", f"/runs/{run}/points", body, Content_Type="application/json").status == 413
    chunks = (b" " * 100_000 for _ in range(30))
    answer = service.http.request(
        "POST", f"{service.base}/api/v1/runs/{run}/points", body=chunks, headers={"Content-Type": "application/json"}
    )
    assert answer.status == 413
    assert answer.json()["error"]["type"] == "body_too_large"


def test_rules_with_a_typo_name_the_line_and_the_keys(service):
    """And the rules that applied before still apply."""
    text = "rules:\n  - id: mine\n    check: limit\n    metrcs: [loss]\n    above: 3\n"
    answer = service.call("PUT", "/projects/demo/rules", text.encode(), Content_Type="text/yaml")
    assert (answer.status, answer.error["type"]) == (422, "invalid_rules")
    assert answer.error["line"] == 4
    assert "metrics" in answer.error["allowed_keys"]
    assert "metrics" in answer.error["hint"]
    assert service.get("/rules?project=demo")["project_rules"] is None


def test_a_finished_run_takes_no_commands(service):
    """Nobody would carry them out."""
    run = service.start()
    service.post(f"/runs/{run}/finish", {})
    answer = service.call("POST", f"/runs/{run}/commands", {"name": "stop"})
    assert (answer.status, answer.error["type"]) == (409, "conflict")


@pytest.fixture(scope="module")
def shared_service(shared_database_url, client_of):
    """One service for all the questions that leave nothing behind; with a small limit for bodies."""
    with running(Settings(db=shared_database_url, port=0, max_body_mb=2, max_decoded_mb=32)) as base:
        client = client_of(base)
        yield client, client.start()
