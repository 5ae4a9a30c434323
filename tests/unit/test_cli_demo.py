"""What the demo needs before it can start, and what it says when that is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from holter_server.cli import demo_training
from holter_server.cli.app import app
from holter_server.cli.demo_training import RECIPES, Plan, find_examples, recipe_names


def test_the_demo_s_recipes_have_short_forms() -> None:
    """Each is trained in a minute or so, by the config of that name below configs/demo."""
    examples = find_examples()
    assert set(RECIPES) <= set(recipe_names(examples))
    for recipe in RECIPES:
        assert (examples / "configs" / "demo" / f"{recipe}.yaml").is_file()


def test_a_recipe_that_there_is_not_lists_those_that_there_are() -> None:
    """A usage error, before anything is started."""
    result = CliRunner().invoke(app, ["demo", "--recipe", "healthy"])
    assert result.exit_code == 2
    assert "healthy_new" in result.stderr
    assert "precursor_x100" in result.stderr


def test_without_the_source_it_says_where_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed from a wheel there is no examples folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_training, "__file__", str(tmp_path / "a" / "b" / "c" / "demo_training.py"))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    what, todo = result.stderr.splitlines()
    assert "examples/denovo" in what
    assert "make demo" in todo
    assert list(tmp_path.iterdir()) == []


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The service itself does not need torch, so it may well be missing."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find(name))
    result = CliRunner().invoke(app, ["demo"])
    assert result.exit_code == 1
    assert 'pip install "holter[examples]"' in result.stderr


@pytest.mark.parametrize("steps", [None, 300])
def test_a_training_is_started_for_the_demo_s_own_service(
    steps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings for another service, in the environment, must not send it elsewhere."""
    started: dict[str, Any] = {}

    def popen(command: list[str], **options: Any) -> object:
        started.update(options, command=command)
        return object()

    monkeypatch.setattr(demo_training.subprocess, "Popen", popen)
    monkeypatch.setenv("HOLTER_MODE", "offline")
    monkeypatch.setenv("HOLTER_TOKEN", "for another service")
    plan = Plan(["clamp"], steps, find_examples(), tmp_path)
    training = demo_training.start("clamp", plan, "http://127.0.0.1:1")
    assert started["env"]["HOLTER_URL"] == "http://127.0.0.1:1"
    assert not {"HOLTER_MODE", "HOLTER_TOKEN"} & set(started["env"])
    assert started["command"][-len(training.arguments) :] == training.arguments
    assert training.arguments[:2] == ["--config", "recipes/clamp"]
    assert ("--max_steps" in training.arguments) is (steps is not None)
