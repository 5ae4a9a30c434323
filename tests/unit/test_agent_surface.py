"""The names that users type, what importing them costs, and who is recording."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import holter
from holter import identity
from holter.settings import Settings


def test_the_public_surface_is_pinned() -> None:
    """Adding a name is a decision; taking one away is a new major version."""
    assert holter.__all__ == [
        "ApiError",
        "Client",
        "HolterError",
        "Run",
        "ServiceUnreachable",
        "SpoolError",
        "alert",
        "event",
        "finish",
        "init",
        "log",
        "on_command",
        "run",
        "watch",
    ]
    for name in holter.__all__:
        getattr(holter, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = holter.nothing  # type: ignore[attr-defined]


def test_a_run_s_methods_are_pinned() -> None:
    """What a loop may call."""
    public = {name for name in vars(holter.Run) if not name.startswith("_")}
    assert public == {
        "abandon", "alert", "event", "fail", "finish", "follow", "log", "on_command", "receive", "should_stop", "watch",
    }  # fmt: skip


HEAVY = [
    "torch",
    "yaml",
    "urllib3",
    "psutil",
    "pynvml",
    "fastapi",
    "sqlalchemy",
    "plotly",
    "holter_db",
    "holter_server",
]


@pytest.mark.parametrize("what", ["import holter", "import holter; holter.init(mode='disabled').log({'a': 1})"])
def test_import_is_light(what: str) -> None:
    """Neither torch nor the server, and no library that isn't needed before something is shipped."""
    code = f"{what}\nimport sys; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_without_a_run_the_module_s_functions_do_nothing() -> None:
    """A script may keep its log lines when it records nothing."""
    assert holter.run is None
    holter.log({"a": 1.0})
    holter.event("x")
    holter.alert("x")
    holter.watch(None, None)
    holter.on_command("x", print)
    holter.finish()


def test_the_current_run() -> None:
    """The module's functions go to the run that was begun last; beginning another one ends it."""
    first = holter.init(mode="disabled")
    assert holter.run is first
    with holter.init(mode="disabled") as second:
        assert holter.run is second
        holter.log({"a": 1.0}, step=3)
        assert (first.step, second.step) == (None, 3)
    assert holter.run is None


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"mode": "onlin"}, 'none of "online", "offline" and "disabled"'),
        ({"url": "localhost:8787"}, "is no address"),
        ({"id": "a/b"}, "is no run id"),
        ({"resume": True}, "needs the id"),
    ],
)
def test_a_wrong_argument_is_said_before_the_loop(arguments: dict[str, object], says: str) -> None:
    """init is the one place that raises, and it says what is right."""
    with pytest.raises(ValueError, match=says):
        holter.init(**arguments)  # type: ignore[arg-type]


def test_settings_come_from_arguments_then_from_the_environment() -> None:
    """In that order, then the defaults."""
    environ = {"HOLTER_URL": "http://h:1/", "HOLTER_DIR": "/d", "HOLTER_MODE": "offline", "HOLTER_PROJECT": "p"}
    found = Settings.read(environ)
    assert (found.url, found.directory, found.mode, found.project) == ("http://h:1", Path("/d"), "offline", "p")
    assert Settings.read(environ, url="https://i", mode="online").url == "https://i"
    assert Settings.read({}).url == "http://127.0.0.1:8787"
    with pytest.raises(ValueError, match="HOLTER_FINISH_TIMEOUT='soon' is not a number of seconds"):
        Settings.read({"HOLTER_FINISH_TIMEOUT": "soon"})


def test_every_variable_stands_in_the_documentation() -> None:
    """docs/agent.md lists what the agent reads, and nothing that it doesn't."""
    root = Path(__file__).parents[2]
    code = "".join(path.read_text() for path in (root / "agent" / "holter").glob("*.py"))
    read = set(re.findall(r'["\(](HOLTER_[A-Z_]+)"', code))
    table = (root / "docs" / "agent.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(HOLTER_[A-Z_]+)`", table)) == read


def test_ids_sort_by_time_and_fit_an_address() -> None:
    """12 characters, and no two alike."""
    ids = [identity.new_id(now) for now in range(1_700_000_000, 1_700_000_500)]
    assert ids == sorted(ids)
    assert len({identity.new_id(1_700_000_000.0) for _ in range(100)}) == 100
    assert all(len(each) == 12 and identity.valid_run_id(each) for each in ids)


@pytest.mark.parametrize(
    ("environ", "rank", "expected"),
    [
        ({}, None, (0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, None, (3, 4)),
        ({"RANK": "3", "WORLD_SIZE": "4"}, 1, (1, 4)),
        ({"RANK": "x"}, None, (0, 1)),
        ({}, 2, (2, 3)),
    ],
)
def test_the_rank(environ: dict[str, str], rank: int | None, expected: tuple[int, int]) -> None:
    """Given, or found, or 0."""
    place = identity.place_of(environ, rank)
    assert (place.rank, place.world_size) == expected
    assert place.writer == f"rank{expected[0]}"


def test_ranks_of_one_launch_make_the_same_ids() -> None:
    """torchrun's workers share a run and an attempt; a restart is another attempt; alone, nothing is shared."""
    environ = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0"}
    again = environ | {"TORCHELASTIC_RESTART_COUNT": "1"}
    run, attempt = identity.launch_key(environ, "run"), identity.launch_key(environ, "attempt")
    assert run is not None
    assert attempt is not None
    assert identity.valid_run_id(run)
    assert run != attempt
    assert identity.launch_key(again, "run") == run
    assert identity.launch_key(again, "attempt") != attempt
    assert identity.launch_key({"WORLD_SIZE": "2"}, "run") is None
