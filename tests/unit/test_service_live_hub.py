"""Subscriptions: what is told, coalesced, bounded and held back, without a socket."""

from __future__ import annotations

import math

import numpy as np

from holter.wire import jsonable
from holter_server.live import MESSAGES_HELD, POINTS_HELD, Hub, LiveConnection, Subscription
from holter_server.notices import EVERY_RUN, Notice, PointsOf


def points(run: str = "r", steps=(1,), metric: str = "loss", value: float = 1.0) -> Notice:
    array = np.array(steps)
    return Notice("points", run, {}, (PointsOf(metric, "rank0", 1, array, array * 1.0, np.full(len(array), value)),))


def test_points_of_one_series_become_one_message():
    """Frames that came since the last message are joined, in order."""
    subscription = Subscription("b", "run", "r")
    for steps in ((1, 2), (3,), (4,)):
        assert subscription.offer(points(steps=steps))
    subscription.offer(points(steps=(4,), metric="lr", value=math.nan))
    messages, wait = subscription.take(0.0)
    assert wait is None
    (message,) = jsonable(messages)
    assert [(s["metric"], s["steps"]) for s in message["series"]] == [("loss", [1, 2, 3, 4]), ("lr", [4])]
    assert message["series"][1]["values"] == ["NaN"]
    assert subscription.take(0.0) == ([], None)


def test_other_runs_are_not_told():
    """Neither their points nor anything else."""
    subscription = Subscription("b", "run", "r")
    assert not subscription.offer(points("other"))
    assert not subscription.offer(Notice("run", "other", {}))
    assert subscription.take(0.0) == ([], None)


def test_the_list_hears_of_a_run_once_a_second():
    """The newest state wins; what is held back comes when its time has come."""
    subscription = Subscription("a", "runs", None)
    for step in (1, 2):
        subscription.offer(Notice("run", "r", {"run": {"last_step": step}}))
    messages, wait = subscription.take(10.0)
    assert [message["run"]["last_step"] for message in messages] == [2]
    subscription.offer(Notice("run", "r", {"run": {"last_step": 3}}))
    subscription.offer(Notice("run", "s", {"run": {"last_step": 1}}))
    messages, wait = subscription.take(10.4)
    assert [message["run"]["last_step"] for message in messages] == [1]
    assert wait is not None
    assert 0.59 < wait < 0.61
    messages, wait = subscription.take(11.0)
    assert ([message["run"]["last_step"] for message in messages], wait) == ([3], None)


def test_the_list_hears_of_no_points():
    """Nor of events and commands."""
    subscription = Subscription("a", "runs", None)
    assert not subscription.offer(points())
    assert not subscription.offer(Notice("event", "r", {}))
    assert subscription.offer(Notice("incident", "r", {"action": "open", "incident": {}}))


def test_points_that_are_too_many_are_dropped_and_said():
    """One message in their place; then it goes on."""
    subscription = Subscription("b", "run", "r")
    for _ in range(3):
        subscription.offer(points(steps=range(POINTS_HELD // 2)))
    messages, _ = subscription.take(0.0)
    assert messages == [{"type": "behind", "id": "b"}]
    subscription.offer(points())
    assert [message["type"] for message in subscription.take(0.0)[0]] == ["points"]


def test_messages_are_bounded_too():
    """A thousand events that nobody reads."""
    subscription = Subscription("b", "run", "r")
    for _ in range(MESSAGES_HELD * 2):
        subscription.offer(Notice("event", "r", {"event": {}}))
    messages, _ = subscription.take(0.0)
    assert messages[0] == {"type": "behind", "id": "b"}
    assert len(messages) == MESSAGES_HELD + 1


def test_a_hub_without_connections_does_nothing():
    """And needs no event loop."""
    Hub().publish([points()])


def test_what_was_left_out_is_said_to_whom_it_concerns():
    """Those who watch the run, or everybody."""
    watching, other, listing = (
        Subscription("a", "run", "r"),
        Subscription("b", "run", "other"),
        Subscription("c", "runs", None),
    )
    watching.offer(points())
    assert [item.offer(Notice("behind", "r", {})) for item in (watching, other, listing)] == [True, False, False]
    assert watching.take(0.0)[0] == [{"type": "behind", "id": "a"}]
    for item in (watching, other, listing):
        assert item.offer(Notice("behind", EVERY_RUN, {}))
        assert item.take(0.0)[0] == [{"type": "behind", "id": item.name}]


def test_the_hub_knows_what_is_asked_for():
    """Each run as long as somebody watches it, and whether anybody looks at the list."""
    hub = Hub()
    first, second = (LiveConnection(None, 0.1) for _ in range(2))
    for connection in (first, second):
        hub.add(connection)
        hub.subscribe(connection, Subscription("a", "run", "r"))
    hub.subscribe(first, Subscription("b", "runs", None))
    assert (hub.watches("r"), hub.watches("s"), hub.lists) == (True, False, True)
    hub.subscribe(first, Subscription("a", "run", "s"))  # in place of the other
    hub.unsubscribe(first, "nothing")
    assert (hub.watches("r"), hub.watches("s")) == (True, True)
    hub.unsubscribe(second, "a")
    assert not hub.watches("r")
    hub.remove(first)
    assert (hub.watches("s"), hub.lists) == (False, False)
