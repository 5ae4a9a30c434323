"""`holter demo`: the service, real trainings streaming into it, and the page to watch them on."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from holter_server.cli.connection import Connection
from holter_server.cli.demo_training import RECIPES, Plan, check_installed, find_examples, recipe_names, start
from holter_server.cli.demo_watch import progress_bars, watch
from holter_server.cli.failure import FAILED, INTERRUPTED, USAGE, Failure
from holter_server.cli.screen import health_text, plain_table, state_text, stdout, step
from holter_server.cli.serve import read_settings

__all__ = ["demo"]

_PORT = 8787


def demo(
    *,
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help=f"Train this instead of {', '.join(RECIPES)}; may be given again."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Steps of each training, instead of its own number.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, show_default=False, help=f"Port; without it {_PORT}, or a free one.")
    ] = None,
    db: Annotated[
        str | None, typer.Option("--db", show_default=False, help="Database; without it a new one in ./.holter/demo.")
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="URL", show_default=False, help="Also send every incident there; may be on this machine."),
    ] = None,
    end: Annotated[bool, typer.Option("--exit", help="End with the trainings, instead of serving on.")] = False,
) -> None:
    """Start the service and train small models into it: one that is well, and two that fall ill."""
    from holter_server.errors import ServiceError  # noqa: PLC0415 - the other commands need not wait for the service
    from holter_server.service import running  # noqa: PLC0415

    plan = _plan(recipe, steps)
    settings = read_settings(
        host="127.0.0.1",
        port=_likely_port() if port is None else port,
        db=db or f"sqlite:///{plan.folder / 'holter.db'}",
        token=None,
        allow_private_webhooks=webhook is not None,
        log_level="error",
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running(settings) as service:
            status = _show(stdout(), service.url, plan, webhook)
            if status != INTERRUPTED and not end:
                _serve_on(stdout(), service.url, plan)
    except ServiceError as error:
        raise Failure(error.message, error.hint) from None
    raise typer.Exit(status)


def _plan(recipes: list[str] | None, steps: int | None) -> Plan:
    examples = find_examples()
    check_installed()
    there = recipe_names(examples)
    for recipe in recipes or ():
        if recipe not in there:
            raise Failure(f"There is no recipe {recipe!r}", f"Those are: {', '.join(there)}", exit_code=USAGE)
    folder = Path(".holter", "demo", time.strftime("%Y%m%d-%H%M%S")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return Plan(recipes or list(RECIPES), steps, examples, folder)


def _likely_port() -> int:
    """The usual port, or 0 (any that is free) when something else is there already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _PORT))
        except OSError:
            return 0
    return _PORT


def _show(console: Console, url: str, plan: Plan, webhook: str | None) -> int:
    """Greet, train one after the other, sum up. Returns the exit status."""
    console.print(Text.assemble("\nThe page: ", (url, "bold cyan underline")), soft_wrap=True)
    if "SSH_CONNECTION" in os.environ:
        port = url.rsplit(":", 1)[1].strip("/")
        console.print(Text(f"From your own machine: ssh -L {port}:127.0.0.1:{port} …", style="dim"), soft_wrap=True)
    models = "a small model" if len(plan.recipes) == 1 else f"{len(plan.recipes)} small models, one after the other"
    console.print(f"\nTraining {models}: {', '.join(plan.recipes)}")
    connection = Connection(url)
    if webhook:
        connection.post("/webhooks", {"url": webhook, "name": "demo", "min_severity": "info"})
        console.print(f"Incidents also go to {webhook}", soft_wrap=True)
    console.print()
    rows: list[dict[str, Any]] = []
    status = _train(console, connection, plan, rows)
    _sum_up(console, connection, rows)
    return status


def _train(console: Console, connection: Connection, plan: Plan, rows: list[dict[str, Any]]) -> int:
    """Train each recipe; append each run to ``rows``."""
    status = 0
    with progress_bars(console) as progress:
        for recipe in plan.recipes:
            training = start(recipe, plan, connection.url)
            try:
                run = watch(training, connection, progress)
            except KeyboardInterrupt:
                console.print("Ending the training …")
                return INTERRUPTED
            finally:
                training.end()
            if run is not None:
                rows.append(run)
            if run is None or training.exit_status != 0:
                status = FAILED
                console.print(Text(f"{recipe} broke off (status {training.exit_status}); its output, {training.log}:"))
                console.print(Text(training.last_lines(), style="dim"))
    return status


def _sum_up(console: Console, connection: Connection, rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    table = plain_table("run", "state", "health", "steps", "incidents", flexible=("incidents",))
    for row in rows:
        run = connection.get(f"/runs/{row['id']}")["run"]
        incidents = connection.get("/incidents", run=run["id"], limit=200)["incidents"]
        rules = ", ".join(dict.fromkeys(incident["rule"] for incident in reversed(incidents)))
        table.add_row(
            run["name"],
            state_text(run["state"]),
            health_text(run["health"], run["open_incidents"]),
            step(run["last_step"]),
            rules or "none",
        )
    console.print()
    console.print(table)


def _serve_on(console: Console, url: str, plan: Plan) -> None:
    address = (url, "bold cyan underline")
    try:  # from the first line on, which invites to it
        console.print(Text.assemble("\nStill serving at ", address, ", Ctrl-C to stop."), soft_wrap=True)
        console.print(Text(f"Look from another terminal: holter runs --url {url}", style="dim"), soft_wrap=True)
        console.print(Text(f"What this demo wrote: {plan.folder}", style="dim"), soft_wrap=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("\nStopped.")
