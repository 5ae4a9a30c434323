"""Databases as earlier revisions wrote them: today's service says of them what the service of their time said.

How they were made is in tests/fixtures/databases/README.md.
"""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from holter_db import tokens
from holter_db.check import check_database, repair
from holter_db.database import Database
from holter_db.runs import list_runs
from holter_db.series import read_series
from holter_server.service import running
from holter_server.settings import Settings

FOLDER = Path(__file__).parents[1] / "fixtures" / "databases"
REVISIONS = sorted(path.name[:4] for path in FOLDER.glob("*.db.gz"))

pytestmark = pytest.mark.parametrize("revision", REVISIONS)


def unpacked(name: str) -> bytes:
    return gzip.decompress((FOLDER / name).read_bytes())


@pytest.fixture
def old_url(blank_url: str, dialect: str, revision: str) -> str:
    """The address of a copy of the fixture."""
    if dialect == "sqlite":
        Path(blank_url.removeprefix("sqlite:///")).write_bytes(unpacked(f"{revision}.db.gz"))
    else:
        with psycopg.connect(blank_url, autocommit=True) as conn:
            conn.execute(unpacked(f"{revision}.sql.gz"))
    return blank_url


@pytest.fixture
def then(dialect: str, revision: str) -> dict[str, Any]:
    """What the service of that time answered: by run and path, and by path."""
    return json.loads(unpacked(f"{revision}.{'db' if dialect == 'sqlite' else 'sql'}.json.gz"))


def missing(then: Any, now: Any, path: str = "") -> list[str]:
    """Where today's answer lacks something of the old one, or says something else; more may be in it."""
    if isinstance(then, dict) and isinstance(now, dict):
        return [
            found
            for name, value in then.items()
            for found in (missing(value, now[name], f"{path}.{name}") if name in now else [f"{path}.{name} is gone"])
        ]
    if isinstance(then, list) and isinstance(now, list):
        if len(then) != len(now):
            return [f"{path} has {len(now)} items instead of {len(then)}"]
        pairs = enumerate(zip(then, now, strict=True))
        return [found for place, (a, b) in pairs for found in missing(a, b, f"{path}[{place}]")]
    return [] if then == now else [f"{path} is {now!r} instead of {then!r}"]


def test_it_says_what_the_service_of_its_time_said(old_url: str, then: dict[str, Any], client_of) -> None:
    """Runs with config and tags, ranks, attempts, catalogue, every point, incidents, commands, events, deliveries."""
    with running(Settings(db=old_url, port=0, watchdog_interval_s=60)) as base:
        service = client_of(base)
        for run, answers in then["runs"].items():
            for path, answer in answers.items():
                assert missing(answer, service.get(f"/runs/{run}{path}"), f"{run}{path}") == []
        for path, answer in then["lists"].items():
            if path.startswith("/rules"):  # what the default rules are is not in the database
                assert service.get(path)["project_rules"] == answer["project_rules"]
            else:
                assert missing(answer, service.get(path), path) == []
        assert [run["id"] for run in service.get("/runs?deleted=true")["runs"]] == ["deleted"]


def test_values_are_there_bit_for_bit(old_url: str, then: dict[str, Any]) -> None:
    """NaN, ±Inf, -0.0 and the smallest and greatest numbers, of every writer and attempt."""
    database = Database.open(old_url)
    with database.read() as conn:
        (agent,) = [run for run in list_runs(conn)[0] if run.project == "agent"]
        (odd,) = read_series(conn, agent.id, ["odd"])
        by_hand = read_series(conn, "hand", ["odd"])
    database.close()
    tricky = [math.nan, math.inf, -math.inf, 1e-30, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    expected = [tricky[step % 8] if step % 9 == 0 else math.sin(step) for step in range(90)]
    assert odd.values.tobytes() == np.array(expected).tobytes()
    assert [(part.attempt, part.writer, part.steps.tolist()) for part in by_hand] == [
        (1, "rank0", list(range(50))),
        (1, "rank1", list(range(10))),
        (2, "rank0", list(range(25, 75))),
        (2, "rank1", list(range(25, 35))),
    ]
    for part in by_hand:
        assert part.values.tobytes() == np.array([tricky[step % 8] for step in part.steps.tolist()]).tobytes()


def test_it_is_sound(old_url: str, revision: str) -> None:
    """By every check of today; captures, which came with 0002, can be made of what 0001 kept."""
    database = Database.open(old_url)
    findings = list(check_database(database))
    assert [finding.check for finding in findings] == (["captures"] * 2 if revision == "0001" else [])
    assert all(repair(database, finding) for finding in findings)
    assert list(check_database(database)) == []
    database.close()


def test_it_goes_on(old_url: str, then: dict[str, Any], client_of) -> None:
    """An agent may resume its run, a frame that was acknowledged then is known now, and a token is still a token."""
    with running(Settings(db=old_url, port=0)) as base:
        service = client_of(base)
        again = service.call(
            "POST", "/runs/hand/points", {"points": [{"step": 1, "values": {"odd": 1.0}}], "writer": "rank1", "seq": 1}
        )
        assert again.json["duplicate"]
        service.post("/runs", {"project": "by-hand", "id": "hand", "attempt": "three"})
        service.log("hand", 60, seq=1, odd=3.5)
        parts = service.get("/runs/hand/series?metric=odd")["series"]
        assert {(part["attempt"], part["shadowed_from"]) for part in parts} == {(1, 25), (2, 60), (3, None)}
    database = Database.open(old_url)
    with database.read() as conn:
        assert [token.name for token in tokens.list_tokens(conn)] == ["cluster"]
    assert [finding.check for finding in check_database(database) if finding.check != "captures"] == []
    database.close()
