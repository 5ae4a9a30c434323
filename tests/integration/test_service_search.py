"""Finding runs over HTTP, from the command line's and the client's point of view."""

from __future__ import annotations

import urllib.parse

import pytest

from holter import Client


@pytest.fixture
def three(service):
    """Runs with a learning rate each; the second ends in NaN, the third has no loss."""
    for name, lr, losses in (("a", 1e-4, [3.0, 1.5]), ("b", 1e-3, [3.0, "NaN"]), ("c", 1e-2, [])):
        run = service.start(
            project="p",
            id=name,
            name=name,
            config={"optimizer": {"lr": lr}, "note": "it's 5 % off"},
            tags=[f"tag-{name}"],
        )
        for step, loss in enumerate(losses):
            service.log(run, step, loss=loss)
        service.log(run, 9, other=1.0)
    return service


def found(service, **query: str) -> list[str]:
    answer = service.get(f"/runs?{urllib.parse.urlencode(query)}")
    return [run["id"] for run in answer["runs"]]


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ("config.optimizer.lr < 1e-3", ["a"]),
        ("config.optimizer.lr >= 1e-3", ["c", "b"]),
        ("last(loss) = NaN", ["b"]),
        ("last(loss) < 2", ["a"]),
        ("min(loss) = 1.5 or tag = tag-c", ["c", "a"]),
        ("not last(loss) exists", ["c"]),
        ('config.note ~ "it\'s 5 %" and name in (a, b)', ["b", "a"]),
        ("created > -1h and state = running", ["c", "b", "a"]),
        ("config.nothing = 1", []),
    ],
)
def test_a_filter_finds_what_it_says(three, filter, expected):
    """The words of the docs, on both databases."""
    assert found(three, filter=filter) == expected


def test_orders_keep_nan_and_nothing_at_the_end(three):
    """In both directions; pages of one row give every run once."""
    assert found(three, sort="last(loss)") == ["a", "b", "c"]
    assert found(three, sort="-last(loss)") == ["a", "b", "c"]
    assert found(three, sort="config.optimizer.lr") == ["a", "b", "c"]
    assert found(three, sort="-config.optimizer.lr") == ["c", "b", "a"]
    ids, cursor = [], None
    while True:
        page = three.get(f"/runs?limit=1&sort=last(loss){'' if cursor is None else f'&cursor={cursor}'}")
        ids += [run["id"] for run in page["runs"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert ids == ["a", "b", "c"]


def test_a_mistake_is_named_with_its_place(three):
    """In the one shape of errors, with what could stand there."""
    answer = three.call("GET", "/runs?filter=stat%20%3D%20failed")
    assert answer.status == 422
    assert "character 1" in answer.error["message"]
    assert "state" in answer.error["hint"]
    assert three.call("GET", "/runs?filter=config.lr%20%3C").status == 422
    assert three.call("GET", "/runs?sort=colour").status == 422


def test_the_client_asks_the_same(three):
    """`holter.Client` passes filter and order on."""
    runs = Client(three.base).runs(filter="last(loss) exists", sort="last(loss)")
    assert [run.id for run in runs] == ["a", "b"]


def test_deleted_runs_are_found_only_where_they_are_asked_for(three):
    """A deleted run is in no list but its own."""
    three.call("DELETE", "/runs/a")
    assert found(three, filter="last(loss) < 2") == []
    assert found(three, filter="last(loss) < 2", deleted="true") == ["a"]
