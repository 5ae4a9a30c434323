"""The workload's two scripts, run as a user runs them, with the real agent recording into a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "examples" / "denovo" / "scripts"
QUICK = [
    "--config",
    "tiny",
    "--max_steps",
    "4",
    "--set",
    "training.validation_size=8",
    "--set",
    "training.batch_size=4",
]


def run_script(name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HOLTER_")}
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
        env=environment | {"HOLTER_MODE": "offline", "HOLTER_DIR": str(folder / "spool")},
    )


@pytest.mark.parametrize(
    ("script", "loss"), [("train_optimized.py", "HardMinHuber"), ("train_gaussian_losses.py", "GaussianKernel")]
)
def test_each_script_trains_with_its_own_losses(script: str, loss: str, tmp_path: Path) -> None:
    """It says which ones, trains from any working directory, and leaves a record."""
    result = run_script(script, *QUICK, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert loss in result.stdout
    assert "Auxiliary losses enter from step 3" in result.stdout
    assert "Step 3    | Total:" in result.stdout
    assert "left out" not in result.stderr  # the agent says so when it can't record what it was given
    assert any((tmp_path / "spool").rglob("rank0*"))


def test_a_mistake_in_the_configuration_ends_the_script_before_anything_is_recorded(tmp_path: Path) -> None:
    """Exit status 2, the line, and the keys that are allowed; no run of 0 steps."""
    config = tmp_path / "mine.yaml"
    config.write_text("training:\n  max_step: 5000\n", encoding="utf-8")
    result = run_script("train_gaussian_losses.py", "--config", str(config), folder=tmp_path)
    assert result.returncode == 2
    assert "mine.yaml:2: unknown key training.max_step. Did you mean max_steps?" in result.stderr
    assert not (tmp_path / "spool").exists()
