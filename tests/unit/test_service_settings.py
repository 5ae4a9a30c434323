"""Settings: one table, read once, documented where it can't lag."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from holter_server.settings import Settings, settings_page

DOCS = Path(__file__).parents[2] / "docs"


def test_the_docs_are_what_the_code_says():
    """Written by `python -m holter_server.settings > docs/settings.md`."""
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page()


def test_every_setting_is_explained():
    """A sentence each."""
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_variables_are_read(monkeypatch):
    """HOLTER_ and the name; Python wins."""
    monkeypatch.setenv("HOLTER_PORT", "9000")
    monkeypatch.setenv("HOLTER_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("HOLTER_ALLOW_PRIVATE_WEBHOOKS", "1")
    found = Settings(port=9001)
    assert (found.port, found.allowed_hosts, found.allow_private_webhooks) == (9001, ("a.example", "b.example"), True)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.0.7", False), ("holter.example", False)],
)  # fmt: skip
def test_only_loopback_is_open(host, loopback):
    """Everything else needs a token."""
    assert Settings(host=host).loopback is loopback


def test_an_empty_token_is_none():
    """A variable that is set to nothing does not open the service with an empty secret."""
    assert Settings(token="").token_text is None
    assert Settings(token="x").token_text == "x"
    assert "x" not in repr(Settings(token="xyzzy").token)


@pytest.mark.parametrize("wrong", [{"port": 70_000}, {"log_level": "loud"}, {"max_body_mb": 0}, {"queue_limit": 0}])
def test_what_can_not_be_is_refused(wrong):
    """When it is read, not when it is used."""
    with pytest.raises(ValidationError):
        Settings(**wrong)
