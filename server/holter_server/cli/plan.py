"""`holter plan`: a whole protocol as one command, from the sanity check to the verdict."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from holter.health.yaml_text import RuleError
from holter_server.cli.compare import EXIT_CODES, criteria_text, show_comparison, write_reports
from holter_server.cli.connection import Connection, Token
from holter_server.cli.failure import Failure
from holter_server.cli.plan_file import Protocol, Variant, read_protocol
from holter_server.cli.screen import print_json, stdout
from holter_server.cli.serve import read_settings

if TYPE_CHECKING:
    from holter_server.service import Address

__all__ = ["plan"]

FAILED = EXIT_CODES["not_comparable"]
LOOK_EVERY = 1.0  # seconds
GRACE = 60.0  # seconds for a training to end after it was asked to stop
ENDED = ("finished", "failed", "stopped")


def plan(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The plan, in YAML.")],
    *,
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the plan's, for the comparison.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Only the first so many of the plan's seeds.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for report.md and report.html (default: .holter/plan/TIME).")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", envvar="HOLTER_URL", help="Of a service; without it one is started.")
    ] = None,
    token: Token = None,
) -> None:
    """Run a plan: sanity check, paired trainings with seeds, verdict and report. A run that falls ill ends it.

    The exit status is that of `holter compare`: 0 accepted, 1 rejected, 2 undetermined, 3 could not compare.
    """
    try:
        protocol = _read(file, steps, seeds)
        criteria = criteria_text(protocol.criteria)
        folder = Path(".holter", "plan", time.strftime("%Y%m%d-%H%M%S")).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            address = url or stack.enter_context(_own_service(folder)).url
            stdout().print(Text(f"{protocol.summary}: {address}"), soft_wrap=True)
            work = _Work(protocol, criteria, Connection(address, token), token, folder)
            verdict = work.run(report or folder)
    except Failure as failure:
        failure.exit_code = FAILED
        raise
    raise typer.Exit(EXIT_CODES[verdict])


@contextmanager
def _own_service(folder: Path) -> Iterator[Address]:
    from holter_server.errors import ServiceError  # noqa: PLC0415 - the other commands need not wait for the service
    from holter_server.service import running  # noqa: PLC0415

    settings = read_settings(
        host="127.0.0.1", port=0, db=f"sqlite:///{folder / 'holter.db'}", token=None, log_level="error"
    )
    try:
        with running(settings) as address:
            yield address
    except ServiceError as error:
        raise Failure(error.message, error.hint) from None


def _read(file: Path, steps: int | None, seeds: int | None) -> Protocol:
    try:
        protocol = read_protocol(file)
    except RuleError as error:
        raise Failure(str(error), "examples/denovo/plan.yaml is one that is right") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"Can't read {file}: {getattr(error, 'strerror', error)}", "Name a plan in YAML") from None
    if steps is not None:
        protocol = replace(protocol, steps=steps, sanity=min(protocol.sanity, steps))
    return protocol if seeds is None else replace(protocol, seeds=protocol.seeds[:seeds])


class _Sick(Exception):
    """A run fell ill and was stopped."""

    def __init__(self, side: str, incident: dict[str, Any]) -> None:
        super().__init__(side)
        self.side, self.incident = side, incident


class _Work:
    """One execution of a protocol."""

    def __init__(
        self, protocol: Protocol, criteria: str, connection: Connection, token: str | None, folder: Path
    ) -> None:
        self._plan, self._criteria, self._connection, self._folder = protocol, criteria, connection, folder
        self._token = token
        self._mark = time.strftime("%Y%m%d-%H%M%S")
        self._commit = _commit(protocol.folder)  # as it is now: people go on working while it trains
        self._runs: dict[str, list[str]] = {"baseline": [], "candidate": []}

    def run(self, report: Path) -> str:
        """Train, compare, report; the verdict."""
        sick: _Sick | None = None
        try:
            self._train_all()
        except _Sick as stopped:
            sick = stopped
        if sick is not None and not all(self._runs.values()):
            return self._end_early(sick, report)
        body = {**self._runs, "criteria": self._criteria, "figures": True}
        found = self._connection.post("/compare", body)["comparison"]
        for side in found["runs"].values():
            for run in side:
                run["commit"] = run["commit"] or self._commit
        if sick is not None:
            found["verdict"], found["reason"] = _sick_verdict(sick)
        write_reports(found, report / "report.md", report / "report.html", self._plan.summary)
        show_comparison(found)
        stdout().print(Text(f"Report: {report / 'report.html'}"), soft_wrap=True)
        return str(found["verdict"])

    def _train_all(self) -> None:
        plan = self._plan
        if plan.sanity:
            run = self._train("candidate", plan.candidate, plan.sanity, plan.seeds[0], "sanity check")
            if plan.sanity == plan.steps:
                self._runs["candidate"].append(run)
        for seed in plan.seeds:
            for side, variant in (("baseline", plan.baseline), ("candidate", plan.candidate)):
                if side == "candidate" and seed == plan.seeds[0] and self._runs["candidate"]:
                    continue  # the sanity check was it
                self._runs[side].append(self._train(side, variant, plan.steps, seed, f"seed {seed}"))

    def _train(self, side: str, variant: Variant, steps: int, seed: int, what: str) -> str:
        """Train to the end. Raises `_Sick` once it has stopped a run, `Failure` for one that broke off."""
        run = f"{variant.name}-{seed}-{self._mark}-{steps}"
        log = self._folder / f"{run}.log"
        stdout().print(Text(f"{what}: {variant.name}, {steps:,} steps"))
        started = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                variant.arguments(steps, seed),
                cwd=self._plan.folder,
                env=self._environment(run),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                incident = self._watch(run, process)
            finally:
                _end(process)
        if incident is not None:
            self._runs[side].append(run)
            raise _Sick(side, incident)
        if process.returncode != 0:
            raise Failure(f"{variant.name} broke off (status {process.returncode})", f"Its output: {log}")
        row = self._wait_until_shipped(run)
        self._connection.patch(f"/runs/{run}", {"group": f"{variant.name}-{self._mark}"})
        seconds = time.monotonic() - started
        stdout().print(Text(f"  {row['state']} at step {row['last_step']:,} after {seconds:.0f} s: {row['health']}"))
        return run

    def _environment(self, run: str) -> dict[str, str]:
        own = {"HOLTER_URL": self._connection.url, "HOLTER_DIR": str(self._folder / "agent"), "HOLTER_RUN_ID": run,
               "PYTHONUNBUFFERED": "1"}  # fmt: skip
        if self._token:
            own["HOLTER_TOKEN"] = self._token
        return {name: value for name, value in os.environ.items() if not name.startswith("HOLTER_")} | own

    def _watch(self, run: str, process: subprocess.Popen[bytes]) -> dict[str, Any] | None:
        """Wait for the end. A grave incident on the way stops the run and is returned."""
        while process.poll() is None:
            time.sleep(LOOK_EVERY)
            incident = self._grave(run)
            if incident is not None:
                stdout().print(Text(f"  {incident['message']}: stopping it", style="bold red"))
                self._connection.post(f"/runs/{run}/commands", {"name": "stop", "args": {}})
                deadline = time.monotonic() + GRACE
                while process.poll() is None and time.monotonic() < deadline:
                    time.sleep(LOOK_EVERY)
                return incident
        return self._grave(run)

    def _grave(self, run: str) -> dict[str, Any] | None:
        if not self._connection.get("/runs", q=run)["runs"]:
            return None  # it has not begun
        found = self._connection.get("/incidents", run=run, severity="critical", limit=50)["incidents"]
        return next((each for each in found if each["kind"] in self._plan.stop_on), None)

    def _wait_until_shipped(self, run: str) -> dict[str, Any]:
        deadline = time.monotonic() + GRACE
        while True:
            row: dict[str, Any] = self._connection.run(run)
            if row["state"] in ENDED:
                return row
            if time.monotonic() > deadline:
                raise Failure(f"The end of {run} did not reach the service", "holter sync ships what is left")
            time.sleep(LOOK_EVERY)

    def _end_early(self, sick: _Sick, report: Path) -> str:
        """There is nothing to compare with yet: say why it ended."""
        verdict, reason = _sick_verdict(sick)
        stdout().print(Text(f"{verdict}: {reason}", style="bold"))
        report.mkdir(parents=True, exist_ok=True)
        lines = [f"# {self._plan.summary}", "", f"**{verdict}**: {reason}", "", f"Runs: {self._runs}",
                 f"Commit: {self._commit}", ""]  # fmt: skip
        (report / "report.md").write_text("\n".join(lines), encoding="utf-8")
        print_json({"verdict": verdict, "reason": reason, "incident": sick.incident})
        return verdict


def _sick_verdict(sick: _Sick) -> tuple[str, str]:
    about = f"{sick.side} fell ill at step {sick.incident['step']} and was stopped: {sick.incident['message']}."
    advice = f" {sick.incident['advice']}" if sick.incident.get("advice") else ""
    return ("rejected" if sick.side == "candidate" else "undetermined"), about + advice


def _end(process: subprocess.Popen[bytes]) -> None:
    for stop in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is not None:
            return
        process.send_signal(stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            continue


def _commit(folder: Path) -> str | None:
    """The commit that is checked out, with "+" where files were changed since."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=folder, capture_output=True, text=True,
                                 check=True)  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")
