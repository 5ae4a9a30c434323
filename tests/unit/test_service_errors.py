"""Every error of the layers below has its status and its hint."""

from __future__ import annotations

import json

import pytest

from holter.health import RuleError
from holter.wire import WireError
from holter_db.errors import Conflict, DatabaseError, NotFound, QueryError
from holter_server.auth import host_name, local_target, presented
from holter_server.body import gunzip
from holter_server.errors import ApiError, Overloaded, api_error


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (WireError("no", "hint"), 422, "invalid_points"),
        (WireError("no", "hint", kind="too_many_values"), 413, "too_many_values"),
        (WireError("no", "hint", kind="invalid_metric_name"), 422, "invalid_metric_name"),
        (NotFound("run", "x"), 404, "run_not_found"),
        (NotFound("token", "x", "hint"), 404, "token_not_found"),
        (Conflict("no", "hint"), 409, "conflict"),
        (QueryError("no", "hint"), 422, "invalid_query"),
        (DatabaseError("no", "hint"), 503, "database_unavailable"),
        (RuleError("no", 3, ["a"]), 422, "invalid_rules"),
        (Overloaded(), 429, "overloaded"),
    ],
)
def test_each_kind_has_its_status(error, status, kind):
    """And something to do about it."""
    found = api_error(error)
    assert (found.status_code, found.kind) == (status, kind)
    body = json.loads(found.answer().body)
    assert body["error"]["message"]
    assert body["error"]["hint"]


def test_a_bug_is_none_of_them():
    """It becomes a 500 with an id."""
    assert api_error(ZeroDivisionError()) is None


def test_a_rule_error_carries_line_and_keys():
    """For editors."""
    error = json.loads(api_error(RuleError("no", 3, ["a", "b"])).answer().body)["error"]
    assert (error["line"], error["allowed_keys"], error["hint"]) == (3, ["a", "b"], "Allowed here: a, b")


def test_gzip_stops_at_its_limit():
    """Exactly."""
    import gzip

    packed = gzip.compress(b"x" * 1000)
    assert gunzip(packed, 1000) == b"x" * 1000
    for wrong, limit, status in ((packed, 999, 413), (packed[:-1], 1000, 400), (packed + packed, 9000, 400)):
        with pytest.raises(ApiError) as refused:
            gunzip(wrong, limit)
        assert refused.value.status_code == status


def test_names_in_host_headers():
    """Ports off, brackets off, in lower case."""
    assert [host_name(text) for text in ("A.Example:80", "[::1]:80", "127.0.0.1", "")] == [
        "a.example", "::1", "127.0.0.1", "",
    ]  # fmt: skip


def test_redirects_stay_here():
    """A path of this service, or the start."""
    assert local_target("/runs/a?x=1") == "/runs/a?x=1"
    for target in ("https://evil.example", "//evil.example", "/\\evil.example", "", "runs"):
        assert local_target(target) == "/"


def test_where_a_token_is_looked_for():
    """The header wins over the cookie; broken cookies are none."""
    assert presented({"authorization": "Bearer abc"}) == ("abc", False)
    assert presented({"authorization": "bearer abc", "cookie": "holter_token=x"}) == ("abc", False)
    assert presented({"cookie": "a=b; holter_token=x"}) == ("x", True)
    assert presented({"authorization": "Basic abc"}) == ("", True)
    assert presented({"cookie": "=;;\x00"}) == ("", True)
