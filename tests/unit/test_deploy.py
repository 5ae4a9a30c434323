"""Image and compose file, as far as they can be checked on a machine that has no engine."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from holter_server.cli.app import app
from holter_server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OUR_SERVICES = ("holter", "holter-sqlite")


def _instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of every line of the Dockerfile, continuations joined."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in text.splitlines()]
    return [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


INSTRUCTIONS = _instructions()
FINAL_STAGE = INSTRUCTIONS[max(i for i, (name, _) in enumerate(INSTRUCTIONS) if name == "FROM") :]


def _arguments(instruction: str) -> list[str]:
    return [arguments for name, arguments in FINAL_STAGE if name == instruction]


def _image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for arguments in _arguments("ENV") for pair in shlex.split(arguments))


def test_every_base_image_has_a_python_that_we_support() -> None:
    """requires-python holds for each stage, and the stages share one interpreter, whose packages are copied."""
    bases = {arguments.split()[0] for name, arguments in INSTRUCTIONS if name == "FROM"}
    (base,) = bases
    version = tuple(int(part) for part in re.fullmatch(r"python:(\d+)\.(\d+)-slim", base).groups())  # type: ignore[union-attr]
    lowest = tuple(int(part) for part in PROJECT["requires-python"].removeprefix(">=").split("."))
    assert version >= lowest


def test_what_is_copied_exists_and_is_sent_to_the_engine() -> None:
    """A COPY source must be in the tree, and .dockerignore, which excludes everything, must let it through."""
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [arguments.split() for name, arguments in INSTRUCTIONS if name == "COPY" and "--from" not in arguments]
    sources = {source for arguments in copies for source in arguments[:-1]}
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
    assert sources == let_through


def test_what_the_build_reads_is_copied_before_it() -> None:
    """hatchling fails without the README, the licence or one of the packages."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = [path.split("/")[0] for path in config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
    needed = {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], *packages}
    copied: set[str] = set()
    for name, arguments in INSTRUCTIONS:
        if name == "COPY":
            copied |= set(arguments.split()[:-1])
        if name == "RUN" and "pip install" in arguments:
            assert needed <= copied
            extra = re.search(r'"\.\[(\w+)\]"', arguments)
            assert extra
            assert extra[1] in PROJECT["optional-dependencies"]
            return
    pytest.fail("nothing is installed")


def test_the_service_does_not_run_as_root() -> None:
    """The last USER is one that the image makes, and it owns the folder of the database."""
    user = _arguments("USER")[-1]
    made = " ".join(_arguments("RUN"))
    assert user not in ("root", "0")
    assert re.search(rf"useradd .*\b{user}\b", made)
    assert re.search(rf"install -d -o {user} -g \w+ /data", made)
    assert _image_environment()["HOLTER_DB"].startswith("sqlite:////data/")
    assert _arguments("VOLUME") == ["/data"]


def test_the_image_runs_a_command_that_exists() -> None:
    """CMD is in exec form, so that the service gets the engine's signals itself."""
    program, *command = json.loads(_arguments("CMD")[-1])
    assert program in PROJECT["scripts"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert command[0] in commands


def test_every_variable_is_a_setting() -> None:
    """A mistyped HOLTER_ variable would be ignored in silence."""
    known = {f"HOLTER_{name.upper()}" for name in Settings.model_fields}
    ours = {name for name in _image_environment() if name.startswith("HOLTER_")}
    for service in OUR_SERVICES:
        ours |= set(COMPOSE["services"][service]["environment"])
    assert ours <= known


def test_the_exposed_port_is_the_port_that_is_served_and_published() -> None:
    port = _image_environment()["HOLTER_PORT"]
    assert _arguments("EXPOSE") == [port]
    for service in OUR_SERVICES:
        (published,) = COMPOSE["services"][service]["ports"]
        assert published.endswith(f":{port}")


@pytest.fixture
def healthz() -> Iterator[tuple[int, dict[str, int]]]:
    """The port of a server that answers /healthz with ``answer["status"]``."""
    answer = {"status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer["status"] if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, answer
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_health_check_tells_well_from_ill(healthz: tuple[int, dict[str, int]]) -> None:
    """The HEALTHCHECK's own command is run: 0 for a service that answers, not 0 for one that fails or is gone."""
    port, answer = healthz
    program, *arguments = json.loads(_arguments("HEALTHCHECK")[-1].split("CMD", 1)[1])
    assert program == "python"

    def check(at: int) -> int:
        environment = os.environ | {"HOLTER_PORT": str(at)}
        return subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, check=False
        ).returncode

    assert check(port) == 0
    answer["status"] = 503
    assert check(port) != 0
    assert check(1) != 0


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_a_published_service_cannot_be_without_a_token(name: str) -> None:
    """compose refuses to start when HOLTER_TOKEN is unset, and the port is on loopback unless told otherwise."""
    service = COMPOSE["services"][name]
    assert service["environment"]["HOLTER_TOKEN"].startswith("${HOLTER_TOKEN:?")
    assert service["ports"][0].startswith("${HOLTER_PUBLISH:-127.0.0.1:")
    assert service["image"] == f"holter:{PROJECT['version']}"


@pytest.mark.parametrize("name", OUR_SERVICES)
def test_the_service_can_write_only_where_it_must(name: str) -> None:
    """A read-only container needs a volume for SQLite, and /tmp."""
    service = COMPOSE["services"][name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    if service["environment"]["HOLTER_DB"].startswith("sqlite:////data/"):
        assert [volume.split(":")[1] for volume in service["volumes"]] == ["/data"]


def test_the_service_waits_for_postgresql() -> None:
    """Both sides name the same user and database, and the service starts once PostgreSQL accepts connections."""
    service, postgres = COMPOSE["services"]["holter"], COMPOSE["services"]["postgres"]
    assert service["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert "pg_isready" in " ".join(postgres["healthcheck"]["test"])
    stored = postgres["environment"]
    user, password, database = (stored[f"POSTGRES_{name}"] for name in ("USER", "PASSWORD", "DB"))
    found = re.fullmatch(r"postgresql://(\w+):(.+)@(\w+):5432/(\w+)", service["environment"]["HOLTER_DB"])
    assert found
    assert found.groups() == (user, password, "postgres", database)


def test_every_volume_is_declared_and_kept() -> None:
    """Data lives in named volumes, so that `docker compose down` keeps it."""
    used = {volume.split(":")[0] for service in COMPOSE["services"].values() for volume in service.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])
    assert COMPOSE["services"]["postgres"]["volumes"]


def test_sqlite_is_a_profile_of_its_own() -> None:
    """A plain `up` starts PostgreSQL and the service, never two services on one port."""
    without_profile = {name for name, service in COMPOSE["services"].items() if "profiles" not in service}
    assert without_profile == {"holter", "postgres"}
    assert COMPOSE["services"]["holter-sqlite"]["profiles"] == ["sqlite"]
