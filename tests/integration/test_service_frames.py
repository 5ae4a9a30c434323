"""The short way of frames through HTTP is no back door: checks, limits, errors and answers are those of every call."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from pydantic import SecretStr

from holter import wire
from holter_server.service import running

TYPE = wire.FRAME_MEDIA_TYPE
SECURITY = ("Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy")


def frame(seq: int = 1, **values: float) -> bytes:
    block = wire.Block.of(tuple(values), [seq], [1.7e9], np.array([list(values.values())]))
    return wire.encode_frame(wire.Frame(1, "", "rank0", seq, [block]))


def test_the_answer_is_that_of_points(service):
    """To the byte, headers included."""
    run = service.start()
    by_frame = service.call("POST", f"/runs/{run}/frames", frame(1, loss=1.0), Content_Type=TYPE)
    by_points = service.call(
        "POST", f"/runs/{run}/points", {"points": [{"step": 2, "values": {"loss": 1.0}}], "seq": 2}
    )
    assert by_points.data == by_frame.data.replace(b'"acknowledged":1', b'"acknowledged":2')
    for name in ("Content-Type", *SECURITY):
        assert by_frame.headers[name] == by_points.headers[name]
    sick = service.call("POST", f"/runs/{run}/frames", frame(3, loss=float("nan"), grad_norm=1.0), Content_Type=TYPE)
    assert [incident["rule"] for incident in sick.json["incidents"]] == ["non-finite"]
    assert set(sick.json) == set(by_frame.json)


def test_it_needs_a_token_where_every_call_does(settings, client_of):
    """And takes a good one."""
    with running(settings.model_copy(update={"token": SecretStr("correct-horse")})) as base:
        known = client_of(base, "correct-horse")
        run = known.start()
        refused = client_of(base).call("POST", f"/runs/{run}/frames", frame(1, loss=1.0), Content_Type=TYPE)
        assert (refused.status, refused.error["type"]) == (401, "token_needed")
        assert all(refused.headers[name] for name in SECURITY)
        taken = client_of(base, "correct-horse").call(
            "POST", f"/runs/{run}/frames", frame(1, loss=1.0), Content_Type=TYPE
        )
        assert taken.json["acknowledged"] == 1


@pytest.mark.parametrize(("header", "value", "kind"), [
    ("Host", "evil.example", "host_not_allowed"),
    ("Origin", "https://evil.example", "cross_site"),
])  # fmt: skip
def test_foreign_pages_stay_out(service, header, value, kind):
    """As everywhere."""
    run = service.start()
    answer = service.call("POST", f"/runs/{run}/frames", frame(1, loss=1.0), Content_Type=TYPE, **{header: value})
    assert (answer.status, answer.error["type"]) == (403, kind)


def test_limits_hold(settings, client_of):
    """As it travels, and once it is decompressed."""
    with running(settings.model_copy(update={"max_body_mb": 1, "max_decoded_mb": 2})) as base:
        service = client_of(base)
        run = service.start()
        path = f"/runs/{run}/frames"
        long = service.call("POST", path, b"\x00" * 1_000_001, Content_Type=TYPE)
        bomb = service.call(
            "POST", path, gzip.compress(b"\x00" * 2_000_001), Content_Type=TYPE, Content_Encoding="gzip"
        )
        assert (long.status, bomb.status) == (413, 413)
        assert (long.error["type"], bomb.error["type"]) == ("body_too_large", "body_too_large")


@pytest.mark.parametrize("path", ["/runs//frames", "/runs/a/b/frames", "/runs/x/frames/"])
def test_what_is_not_the_call_is_not_found(service, path):
    """Nothing but the call itself takes the short way."""
    assert service.call("POST", path, frame(1, loss=1.0), Content_Type=TYPE).status in (404, 307)


def test_other_methods_are_told_what_is_allowed(service):
    """405, as the routing says it."""
    answer = service.call("GET", "/runs/x/frames")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_behind_a_path_it_is_an_ordinary_call(settings, database):
    """An application that is mounted below another one, where its paths have a beginning that is not its own."""
    import asyncio

    from holter_server.app import create_app

    async def exchange() -> list[dict]:
        app = create_app(settings, database)
        sent: list[dict] = []
        body = frame(1, loss=1.0)

        async def receive() -> dict:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict) -> None:
            sent.append(message)

        async with app.router.lifespan_context(app):
            here = app.state.context
            run = await asyncio.to_thread(
                here.writer.call, lambda tx: here.pipeline.start_run(tx, wire.RunStart(project="p"))
            )
            headers = [(b"host", b"localhost"), (b"content-type", TYPE.encode())]
            path = f"/holter/api/v1/runs/{run.id}/frames"
            scope = {
                "type": "http", "method": "POST", "root_path": "/holter", "path": path,
                "query_string": b"", "headers": headers, "http_version": "1.1", "scheme": "http",
                "server": ("localhost", 80), "client": ("127.0.0.1", 1), "asgi": {"version": "3.0"},
            }  # fmt: skip
            await app(scope, receive, send)
        return sent

    head, body = asyncio.run(exchange())[:2]
    assert head["status"] == 200
    assert b'"acknowledged":1' in body["body"]


def test_a_client_that_hangs_up_does_not_take_back_what_was_accepted(service, wait):
    """The frame is kept, and the service goes on."""
    import socket

    run = service.start()
    host, _, port = service.base.removeprefix("http://").partition(":")
    body = frame(1, loss=1.0)
    lines = (f"POST /api/v1/runs/{run}/frames HTTP/1.1", f"Host: {host}", f"Content-Type: {TYPE}")
    head = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", ""))
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + body)
    wait(lambda: service.get(f"/runs/{run}/metrics")["metrics"], "the frame")
    assert service.log(run, 2, seq=2, loss=2.0)["acknowledged"] == 2
