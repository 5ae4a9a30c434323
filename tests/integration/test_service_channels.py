"""Chats and e-mail through Apprise, against real receivers: what is sent, what is refused, what is never shown."""

from __future__ import annotations

import email
import email.policy
import json
import logging
import socket
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote_plus

import pytest

from holter_server import schemas
from holter_server.service import running

RULES = """
rules:
  - id: too-high
    check: limit
    severity: critical
    metrics: [score]
    above: 5
    advice: Look at the newest batch before anything else.
"""
SECRET = "tk_S3cr3tS3cr3tS3cr3t"


@pytest.fixture
def capture(caplog, capfd):
    """What is logged, and what is written to the terminal."""
    return caplog, capfd


def sick_run(service) -> str:
    service.call("PUT", "/projects/denovo/rules", RULES.encode(), Content_Type="application/yaml")
    run = service.start(project="denovo", name="gaussian")
    points = [{"step": step, "values": {"score": 7.0 if step == 60 else 0.4 + step / 100}} for step in range(61)]
    service.post(f"/runs/{run}/points", {"points": points})
    return run


def host_of(receiver) -> str:
    return receiver.url.removeprefix("http://").removesuffix("/hook")


@contextmanager
def mail_server() -> Iterator[tuple[int, list[str]]]:
    """An SMTP server that takes everything: its port, and the messages as they came (RFC 5321)."""
    mails: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def talk(connection: socket.socket) -> None:
        with connection, connection.makefile("rwb") as lines:

            def say(text: str) -> None:
                lines.write(f"{text}\r\n".encode())
                lines.flush()

            say("220 mail.test ready")
            for raw in lines:
                word = raw.split(b" ")[0].strip().upper()
                if word in (b"EHLO", b"HELO"):
                    say("250 mail.test")
                elif word == b"DATA":
                    say("354 go on")
                    body = bytearray()
                    for line in lines:
                        if line == b".\r\n":
                            break
                        body += line
                    mails.append(body.decode())
                    say("250 taken")
                elif word == b"QUIT":
                    say("221 bye")
                    return
                else:
                    say("250 ok")

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=talk, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1], mails
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(5)


def test_a_chat_gets_a_sentence_advice_and_a_link(service, receiver, wait):
    """ntfy's own protocol, at a receiver of ours: title, numbers, what to do, where to look."""
    hook = service.post("/webhooks", {"url": f"ntfy://{host_of(receiver)}/alarms"})["webhook"]
    assert (hook["channel"], hook["policy"]["group_wait_s"], hook["policy"]["rate_per_minute"]) == ("ntfy", 2.0, 20)
    run = sick_run(service)
    wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "the delivery")
    (incident,) = service.get(f"/incidents?run={run}")["incidents"]
    # With a picture ntfy takes the words as parameters of the address, and the picture as the body.
    text = "\n".join(unquote_plus(request.path) for request in receiver.received)
    assert any(request.body.startswith(b"\x89PNG") for request in receiver.received)
    assert "Critical: denovo/gaussian" in text
    assert incident["message"] in text
    assert incident["advice"][:40] in text
    assert f"/incidents/{incident['id']}" in text


def test_the_chart_goes_as_a_picture(service, receiver, wait):
    """Where the channel takes a file: a PNG of the metric around the step."""
    address = f"form://{host_of(receiver)}/hook"
    service.post("/webhooks", {"url": address, "policy": {"group_wait_s": 0}})
    sick_run(service)
    wait(lambda: receiver.received, "the message")
    body = receiver.received[0].body
    start = body.index(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", body[start + 16 : start + 24])
    assert (width, height) == (640, 320)
    length = struct.unpack(">I", body[start + 33 : start + 37])[0]
    rows = zlib.decompress(body[start + 41 : start + 41 + length])
    assert len(rows) == height * (1 + 3 * width)
    assert len(set(rows)) > 10, "there is more than paper on it"
    assert b"score is 7" in body


def test_a_mail_is_sent(service, wait):
    """SMTP to the end: subject, text, the picture as an attachment."""
    with mail_server() as (port, mails):
        address = f"mailto://127.0.0.1:{port}?from=holter@example.org&to=ann@example.org&mode=insecure"
        service.post("/webhooks", {"url": address, "policy": {"group_wait_s": 0}})
        sick_run(service)
        wait(lambda: mails, "the mail")
    mail = email.message_from_string(mails[0], policy=email.policy.default)
    assert "Critical: denovo/gaussian" in mail["Subject"]
    assert "ann@example.org" in mail["To"]
    assert [part.get_filename() for part in mail.iter_attachments()] == ["holter.png"]
    assert "score is 7" in mail.get_body(("plain",)).get_content()


def test_what_a_run_fires_at_once_is_one_message(service, receiver, wait):
    """Grouped per run; the other deliveries say which one carries them."""
    service.post("/webhooks", {"url": receiver.url, "policy": {"group_wait_s": 1}, "min_severity": "info"})
    run = service.start(project="denovo")
    service.log(run, 1, loss__total=float("nan"), loss__precursor=7.0)
    wait(lambda: receiver.received, "the group")
    rows = service.get(f"/deliveries?run={run}")["deliveries"]
    for row in rows:
        schemas.DeliveryAnswer.model_validate({"delivery": row})
    (leader,) = wait(lambda: service.get(f"/deliveries?run={run}&state=delivered")["deliveries"], "delivered")
    assert {row["grouped_into"] for row in rows if row["state"] == "grouped"} == {leader["id"]}
    data = receiver.received[0].json["data"]
    assert len(data["incidents"]) == len(rows) >= 2
    assert data["incident"]["severity"] == "critical"
    assert len(receiver.received) == 1


def test_an_apprise_failure_is_tried_again_with_its_reason(service, receiver, wait):
    """The status is read from what Apprise says."""
    receiver.answers += [(503, {})] * 2
    service.post("/webhooks", {"url": f"json://{host_of(receiver)}/hook", "policy": {"group_wait_s": 0}})
    sick_run(service)
    (delivery,) = wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "delivered")
    assert [attempt["status"] for attempt in delivery["log"]] == [503, 503, 200]
    assert "503" in delivery["log"][0]["error"]


@pytest.mark.parametrize(
    "url",
    ["foo://bar", "slack://", "syslog://", "dbus://", "mqtt://127.0.0.1/topic", "javascript:alert(1)", "vapid://x"],
)
def test_addresses_that_can_not_be_are_refused_with_a_reason(service, url):
    """At once, not at the first incident."""
    answer = service.call("POST", "/webhooks", {"url": url})
    assert (answer.status, answer.error["type"]) == (422, "invalid_url")


def test_apprise_reaches_no_private_address(settings, client_of, receiver, wait):
    """Refused when it is added, and at the connect: nothing arrives, whatever the name resolves to."""
    with running(settings) as base:  # added while it was allowed
        for kind in ("json", "ntfy", "mailto"):
            path = "?from=a@example.org&to=b@example.org&mode=insecure" if kind == "mailto" else "/hook"
            address = f"{kind}://{host_of(receiver)}{path}"
            client_of(base).post("/webhooks", {"url": address, "policy": {"group_wait_s": 0}})
    with running(settings.model_copy(update={"allow_private_webhooks": False})) as base:
        service = client_of(base)
        for url in (f"json://{host_of(receiver)}/", "ntfy://localhost/topic", "mailto://a:b@10.0.0.1"):
            answer = service.call("POST", "/webhooks", {"url": url})
            assert (answer.status, answer.error["type"]) == (422, "invalid_url"), url
        sick_run(service)
        rows = wait(
            lambda: (found := service.get("/deliveries?state=failed")["deliveries"]) and len(found) == 3 and found,
            "all given up",
        )
        assert all("private" in row["last_error"] and row["attempts"] == 1 for row in rows)
    assert receiver.received == []


@pytest.mark.parametrize(
    "address",
    [
        f"json://user:{SECRET}@HOST/hook?+X-Token={SECRET}",
        f"http://HOST/hook/{SECRET}?token={SECRET}",
        f"ntfy://{SECRET}@HOST/topic",
    ],
)
def test_secrets_are_never_shown_or_logged(service, receiver, wait, capture, address):
    """Not in any answer, not in a log, also while everything fails; only the receiver sees them."""
    caplog, capfd = capture
    caplog.set_level(logging.DEBUG)
    receiver.answers += [(500, {})]
    hook = service.post("/webhooks", {"url": address.replace("HOST", host_of(receiver)), "policy": {"group_wait_s": 0}})
    signing = hook["webhook"].pop("secret")
    sick_run(service)
    wait(lambda: service.get("/deliveries?state=delivered")["deliveries"], "delivered")
    service.post(f"/webhooks/{hook['webhook']['id']}/test")
    answers = [json.dumps(hook)]
    answers += [
        service.call("GET", path).data.decode()
        for path in ("/webhooks", f"/webhooks/{hook['webhook']['id']}", "/deliveries", "/metrics", "/api/openapi.json")
    ]
    refused = service.call("POST", "/webhooks", {"url": address.replace("HOST", "").replace("hook", "\x01")})
    answers.append(refused.data.decode())
    out, err = capfd.readouterr()
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("holter"))
    for text in (*answers, ours, out, err):
        assert SECRET not in text
    for text in (*answers[1:], ours, out, err):
        assert signing not in text
