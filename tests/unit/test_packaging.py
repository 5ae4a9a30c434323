"""The wheel is what people get, so it is the wheel that is built, installed and asked here."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE_ROOTS = ("agent", "db", "server", "web")

pytestmark = pytest.mark.xdist_group("wheel")  # built once, not once per worker


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def alone(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel and nothing else."""
    return _install(wheel, tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def complete(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment that has the wheel and, after it, everything that is installed here.

    A path in a .pth file is added without reading the .pth files in it, so the editable installation stays out.
    """
    binaries = _install(wheel, tmp_path_factory.mktemp("complete"))
    (packages,) = binaries.parent.glob("lib/python*/site-packages")
    (packages / "everything_else.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return binaries


def _install(wheel: Path, folder: Path) -> Path:
    venv.create(folder, with_pip=False)
    binaries = folder / "bin"
    command = [sys.executable, "-m", "pip", "--python", str(binaries / "python"), "--disable-pip-version-check"]
    subprocess.run([*command, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True)
    return binaries


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HOLTER"))}
    return subprocess.run(
        [str(folder / command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,  # away from the source tree
        env=kept,
    )


def _names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_every_file_of_the_four_packages_is_in_the_wheel(wheel: Path) -> None:
    """Page assets, rule packs, migrations, py.typed: what stands in the source is shipped, and nothing else."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *SOURCE_ROOTS]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split("\n")
    expected = {name.split("/", 1)[1] for name in listed if name and (ROOT / name).is_file()}
    shipped = {name for name in _names(wheel) if ".dist-info/" not in name}
    assert shipped == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "holter_web/static/index.html",
        "holter_web/static/js/*.js",
        "holter_web/static/css/*.css",
        "holter/health/packs/*.yaml",
        "holter_db/migrations/env.py",
        "holter_db/migrations/versions/*.py",
        "holter/py.typed",
        "holter_db/py.typed",
        "holter_server/py.typed",
        "holter_web/py.typed",
        "holter-*.dist-info/licenses/LICENSE",
    ],
)
def test_what_would_be_missed_late_is_in_the_wheel(wheel: Path, pattern: str) -> None:
    """Each of these is read at run time, long after an import has succeeded."""
    assert [name for name in _names(wheel) if Path(name).match(pattern)]


def test_importing_the_agent_loads_neither_torch_nor_the_service(complete: Path) -> None:
    """A training pays for what runs in it and for nothing else."""
    code = "import sys, holter; print(holter.__file__); print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = _run(complete, "python", "-c", code)
    assert done.returncode == 0, done.stderr
    place, modules = done.stdout.splitlines()
    assert Path(place).is_relative_to(complete.parent)
    heavy = "torch holter_db holter_server holter_web fastapi starlette uvicorn sqlalchemy pydantic plotly typer rich"
    assert not set(heavy.split()) & set(modules.split())


def test_the_console_script_says_its_version(complete: Path) -> None:
    """The entry point of the wheel works, and version and project agree."""
    done = _run(complete, "holter", "--version")
    assert (done.returncode, done.stdout) == (0, f"holter {PROJECT['version']}\n"), done.stderr


def test_every_command_of_the_wheel_loads(complete: Path) -> None:
    """The help of the whole tree imports every module of the command line."""
    done = _run(complete, "python", "-m", "holter_server.cli.reference")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (ROOT / "docs" / "cli.md").read_text()


def test_the_agent_alone_says_what_the_command_line_needs(alone: Path) -> None:
    """`pip install holter` puts a `holter` on the path; without the extra it says so instead of a traceback."""
    done = _run(alone, "holter", "runs")
    assert done.returncode == 2
    assert 'pip install "holter[server]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_every_public_name_of_the_wheel_can_be_had(complete: Path) -> None:
    """Some are loaded only when asked for, which would hide a module that the wheel lacks."""
    done = _run(complete, "python", "-c", "import holter; [getattr(holter, name) for name in holter.__all__]")
    assert done.returncode == 0, done.stderr


def test_the_packaged_pieces_are_found_at_run_time(complete: Path) -> None:
    """The rules load from the wheel's YAML, and a database is made by the wheel's migrations."""
    code = (
        "from holter.health import RuleSet; from holter_db.database import Database\n"
        "assert RuleSet.default().describe()\n"
        "database = Database.open('sqlite:///packaged.db'); database.ping(); database.close()\n"
    )
    done = _run(complete, "python", "-c", code)
    assert done.returncode == 0, done.stderr
