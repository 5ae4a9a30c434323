"""A webhook can't be turned against the network that the service is in."""

from __future__ import annotations

import socket

import pytest

from holter_server.notify import guarded_http
from holter_server.notify.guarded_http import PostError, check_url, is_public, post

PRIVATE = [
    "127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
    "224.0.0.1", "255.255.255.255", "192.0.2.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "64:ff9b::10.0.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_these_are_not_public(address):
    """Loopback, private, link-local, multicast, documentation; also inside IPv6."""
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::808:808"]
)
def test_these_are_public(address):
    """The internet."""
    assert is_public(address)


@pytest.mark.parametrize(
    "url",
    ["ftp://example.org", "example.org", "http://", "http://a:b@example.org/", "http://example.org:99999/", "http://[::1",
     "http://exa mple.org/", "http://example.org/\r\nX: y", "javascript:alert(1)", ""],
)  # fmt: skip
def test_what_is_no_address_is_refused(url):
    """With a reason."""
    with pytest.raises(ValueError, match=r"\w"):
        check_url(url, allow_private=True)


def test_a_private_address_is_refused_unless_allowed():
    """Also by the name localhost."""
    for url in ("http://127.0.0.1/", "http://localhost:80/", "http://a.localhost/", "http://[::1]/"):
        check_url(url, allow_private=True)
        with pytest.raises(ValueError, match="private"):
            check_url(url, allow_private=False)


def test_a_name_that_hides_a_private_address_is_refused(monkeypatch):
    """Where it resolves decides, not what it is called; nothing is connected to."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.1", 80))])
    with pytest.raises(PostError, match=r"10\.0\.0\.1") as refused:
        post("http://harmless.example/", b"", {}, timeout_s=1.0)
    assert refused.value.permanent


def test_the_checked_address_is_the_one_connected_to(monkeypatch):
    """A second look at the name, which could answer otherwise, never happens."""
    looked: list[str] = []
    real = socket.getaddrinfo

    def once(host, *arguments, **named):
        looked.append(host)
        return real("127.0.0.1" if host == "rebind.example" else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", once)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(PostError):
        post(f"http://rebind.example:{port}/", b"", {}, timeout_s=2.0, allow_private=True)
    assert looked.count("rebind.example") == 1


def test_an_unknown_name_can_be_tried_again(monkeypatch):
    """DNS may be back in a minute."""

    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(PostError, match="no address") as failed:
        post("http://unknown.example/", b"", {}, timeout_s=1.0)
    assert not failed.value.permanent


def test_a_receiver_that_says_nothing_is_left(monkeypatch):
    """After the time it was given."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(PostError, match="in time") as failed:
            post(url, b"{}", {}, timeout_s=0.2, allow_private=True)
    assert not failed.value.permanent
    assert guarded_http.ANSWER_BYTES_KEPT > 0
