"""`holter lint`: findings with row, step, arithmetic and advice; exit codes; JSON; a chart."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from holter.lint import lint
from holter.logfiles import LogFile, Row
from holter_server.cli.app import app
from holter_server.cli.plot import Points, draw

HEALTHY = [1.0 + math.exp(-step / 20) + 0.01 * math.sin(step) for step in range(200)]
KEYS = {"kind", "rule", "severity", "metric", "step", "row", "value", "message", "advice"}


def log_of(losses: list[float], **more: list[float]) -> LogFile:
    rows = [
        Row(10 * index, {"loss": loss, **{name: values[index] for name, values in more.items()}})
        for index, loss in enumerate(losses)
    ]
    return LogFile("", "made", rows)


def table(path: Path, losses: list[float]) -> Path:
    path.write_text("step,loss\n" + "".join(f"{10 * row},{loss}\n" for row, loss in enumerate(losses)))
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["lint", *map(str, arguments)], env={"COLUMNS": "100"})


def test_a_healthy_log_has_no_findings() -> None:
    assert lint(log_of(HEALTHY)) == []


def test_a_finding_tells_row_and_step_of_an_online_replay() -> None:
    losses = [*HEALTHY[:100], 30.0, *HEALTHY[101:]]
    (finding,) = lint(log_of(losses))
    assert (finding.kind, finding.severity, finding.row, finding.step) == ("spike", "warning", 100, 1000)
    assert (finding.resolved_row, finding.resolved_step) == (103, 1030)
    assert finding.value == 30.0
    assert finding.threshold == pytest.approx(5.0, abs=0.3)


def test_rows_count_those_that_lack_the_metric() -> None:
    rows = [Row(index, {"loss": math.nan if index == 7 else 1.0} if index % 7 == 0 else {}) for index in range(20)]
    (finding,) = lint(LogFile("", "made", rows))
    assert (finding.row, finding.step, finding.severity) == (7, 7, "warning")


def test_the_end_of_the_file_is_the_end_of_the_run() -> None:
    """Two NaN and no more: only the end says that it did not recover."""
    (finding,) = lint(log_of([*HEALTHY[:50], math.nan, math.nan]))
    assert (finding.row, finding.severity, finding.evidence["class"]) == (50, "critical", "C")


def test_a_remark_that_gets_worse_is_a_finding_of_its_own() -> None:
    """A single NaN gradient is a remark; the loss that goes with it twelve rows later is known at its very row."""
    gradient = [1.0 + 0.1 * math.sin(step) for step in range(200)]
    gradient[50] = math.nan
    losses = list(HEALTHY)
    for row in range(62, 200):
        losses[row] = gradient[row] = math.nan
    found = lint(log_of(losses, grad_norm=gradient))
    assert [(finding.row, finding.severity) for finding in found] == [(50, "info"), (62, "critical")]


def test_it_says_the_same_as_single_rows_would() -> None:
    """Rows with other metrics in between cut the log into other batches."""
    losses = np.array(HEALTHY)
    losses[120:] *= 2
    plain = log_of(losses.tolist())
    rows = [
        Row(row.step, row.values if index % 3 else row.values | {"epoch": 1.0}) for index, row in enumerate(plain.rows)
    ]
    cut = lint(LogFile("", "made", rows))
    assert [(finding.row, finding.message) for finding in cut] == [(f.row, f.message) for f in lint(plain)]


def test_exit_status_0_1_and_2(tmp_path: Path) -> None:
    healthy = table(tmp_path / "healthy.csv", HEALTHY)
    sick = table(tmp_path / "sick.csv", [*HEALTHY, math.nan])
    broken = tmp_path / "broken.bin"
    broken.write_bytes(b"\xff\xfe\x00")
    assert run(healthy).exit_code == 0
    assert run(healthy, sick).exit_code == 1
    assert run(healthy, sick, broken).exit_code == 2
    assert "neither text nor" in run(broken).stderr
    assert run(tmp_path / "nowhere.csv").exit_code == 2


def test_json_has_the_shape_that_is_promised(tmp_path: Path) -> None:
    sick = table(tmp_path / "sick.csv", [*HEALTHY, math.nan, math.nan, math.nan])
    result = run("--json", sick, tmp_path / "nowhere.csv")
    first, second = json.loads(result.stdout)["files"]
    assert (first["path"], first["healthy"], first["rows"]) == (str(sick), False, 203)
    (finding,) = first["findings"]
    assert set(finding) >= KEYS
    assert (finding["kind"], finding["row"], finding["step"], finding["value"]) == ("non_finite", 200, 2000, "NaN")
    assert (second["healthy"], second["findings"], second["error"]["type"]) == (None, [], "unreadable")
    assert result.exit_code == 2


def test_people_get_arithmetic_advice_and_a_chart(tmp_path: Path) -> None:
    told = run(table(tmp_path / "sick.csv", [*HEALTHY[:100], 30.0, *HEALTHY[101:]])).stdout
    assert "1 unhealthy" in told
    assert "step 1000 to 1030 · row 100" in told
    assert "loss is 30 at step 1000" in told
    assert "5 x" not in told.split("\n")[0]
    assert "ln value - ln median > max(ln 5, 10 x scale)" in told
    assert "restart from a checkpoint before it" in told
    assert "▲" in told
    assert any("⠀" <= character <= "⣿" for character in told)
    assert "⣿" not in run(tmp_path / "sick.csv", "--no-plot").stdout


def test_remarks_leave_a_file_healthy(tmp_path: Path) -> None:
    """A loss that has not learned is told, and is no alarm."""
    result = run(table(tmp_path / "flat.csv", [2.3 + 0.001 * math.sin(step) for step in range(100)]))
    assert result.exit_code == 0
    assert "healthy, 1 remark" in result.stdout
    assert "plateau" in result.stdout


def test_rules_of_ones_own(tmp_path: Path) -> None:
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "rules:\n  - {id: mine, check: limit, roles: [loss], above: 1.5, severity: critical, advice: Look.}\n"
    )
    healthy = table(tmp_path / "healthy.csv", HEALTHY)
    assert run(healthy, "--rules", rules).exit_code == 1
    rules.write_text("rules:\n  - {id: mine}\n")
    result = run(healthy, "--rules", rules)
    assert result.exit_code == 2
    assert "mine.yaml line 2" in result.stderr


def test_the_denovo_rules_come_with_a_precursor_loss(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    log.write_text(
        "Step 100 | Total: 3.3 | CE: 3.3 | Spectrum: 0.0 | Precursor: 0.1\nStep 200| Total: 6 | Precursor: 6.4\n"
    )
    (finding,) = json.loads(run("--json", log).stdout)["files"][0]["findings"]
    assert (finding["rule"], finding["step"], finding["row"]) == ("precursor-high", 200, 1)
    assert "0.08/0.01 → 0.05/0.005" in finding["advice"]


def test_a_chart_shows_every_spike_and_every_nan() -> None:
    values = [1.0] * 1000
    values[500], values[700] = 50.0, math.nan
    lines = draw("loss", Points(range(1000), range(1000), values), [500], width=50).plain.split("\n")
    assert lines[0].strip() == "loss (log axis)"
    assert lines[1].split("┤")[1].strip("⠀")  # the spike is in the topmost line
    marks = lines[9]
    assert marks.index("▲") < marks.index("×")
    assert lines[10].split() == ["step", "0", "999"]
