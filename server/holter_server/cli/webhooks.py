"""`holter webhook`: who is told about incidents."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import plain_table, print_json, stderr, stdout

__all__ = ["webhooks"]

webhooks = typer.Typer(no_args_is_help=True, help="Who is told: webhooks of the service.")

Id = Annotated[str, typer.Argument(metavar="ID", help="A webhook's id, from holter webhook list.")]

_ANSWER_WITHIN = 15.0  # seconds; the service itself gives a receiver 10
_LOOK_EVERY = 0.2  # seconds


class Severity(StrEnum):
    info = "info"
    warning = "warning"
    critical = "critical"


class EventType(StrEnum):
    firing = "incident.firing"
    resolved = "incident.resolved"
    state = "run.state"
    alert = "run.alert"


@webhooks.command()
def add(
    address: Annotated[
        str, typer.Argument(metavar="URL", help="https://…, or of Apprise's: slack://…, ntfy://…, mailto://…")
    ],
    *,
    name: Annotated[str, typer.Option(help="A name for people.")] = "",
    project: Annotated[str | None, typer.Option(help="Only runs of this project.")] = None,
    types: Annotated[list[EventType] | None, typer.Option("--type", help="Only this; may be given again.")] = None,
    min_severity: Annotated[Severity, typer.Option(help="Nothing milder than this.")] = Severity.warning,
    group_wait: Annotated[
        float | None, typer.Option(help="Seconds in which a run's incidents become one message.")
    ] = None,
    repeat: Annotated[float | None, typer.Option(help="Hours after which what still fires is told again.")] = None,
    resolved: Annotated[bool, typer.Option(help="Tell that an incident is over.")] = True,
    rate: Annotated[int | None, typer.Option(help="Messages a minute at most.")] = None,
    quiet: Annotated[str | None, typer.Option(help='Quiet hours: "22:00-07:00 Europe/Berlin".')] = None,
    quiet_passes: Annotated[Severity, typer.Option(help="What gets through them.")] = Severity.critical,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Tell this address or channel about incidents. Prints the signing secret, which is shown only once."""
    body: dict[str, Any] = {"url": address, "name": name, "project": project, "min_severity": min_severity.value}
    asked = {
        "group_wait_s": group_wait,
        "repeat_interval_s": None if repeat is None else repeat * 3600,
        "rate_per_minute": rate,
        "quiet_hours": None if quiet is None else _quiet_hours(quiet, quiet_passes),
        "send_resolved": None if resolved else False,
    }
    body["policy"] = {key: value for key, value in asked.items() if value is not None}
    if types:
        body["types"] = [kind.value for kind in types]
    webhook = Connection(url, token).post("/webhooks", body)["webhook"]
    if as_json:
        print_json({"webhook": webhook})
        return
    console = stdout()
    console.print(f"Added {webhook['id']}: {webhook['url']}", soft_wrap=True)
    if webhook["channel"] == "webhook":
        console.print(f"Secret, shown only now: {webhook['secret']}", soft_wrap=True)
    console.print(Text(f"Try it: holter webhook test {webhook['id']}", style="dim"))


@webhooks.command("list")
def show_all(url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """List the webhooks."""
    found = Connection(url, token).all("/webhooks", "webhooks")
    if as_json:
        print_json({"webhooks": found})
        return
    if not found:
        stderr().print("No webhooks yet. Add one: holter webhook add https://…")
        return
    table = plain_table("id", "name", "project", "tells of", "from", "breaker", "url", flexible=("url", "tells of"))
    for webhook in found:
        table.add_row(
            webhook["id"],
            webhook["name"] or "–",
            webhook["project"] or "all",
            ", ".join(webhook["types"]),
            webhook["min_severity"],
            webhook["breaker"]["state"],
            Text(webhook["url"]),
        )
    stdout().print(table)


@webhooks.command("test")
def send_test(identifier: Id, url: Url = DEFAULT_URL, token: Token = None, as_json: AsJson = False) -> None:
    """Send a test message and wait for what the receiver answers."""
    connection = Connection(url, token)
    delivery = connection.post(f"/webhooks/{quote(identifier, safe='')}/test")["delivery"]
    delivery = _settled(connection, delivery)
    if as_json:
        print_json({"delivery": delivery})
    if delivery["state"] == "delivered":
        if not as_json:
            stdout().print(f"Delivered: the receiver answered {delivery['last_status']}")
        return
    reason = delivery["last_error"] or "no answer yet"
    raise Failure(f"Not delivered: {reason}", "The service tries again by itself; a private address needs a setting")


@webhooks.command()
def remove(identifier: Id, url: Url = DEFAULT_URL, token: Token = None) -> None:
    """Remove a webhook."""
    Connection(url, token).delete(f"/webhooks/{quote(identifier, safe='')}")
    stdout().print(f"Removed {identifier}")


@webhooks.command()
def deliveries(
    state: Annotated[
        str | None, typer.Option(help="Only pending, sending, delivered, failed, skipped, grouped.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """List what was sent and what became of it, newest first."""
    asked = {"limit": limit} | ({} if state is None else {"state": state})
    found = Connection(url, token).get("/deliveries", **asked)["deliveries"]
    if as_json:
        print_json({"deliveries": found})
        return
    table = plain_table("id", "type", "why", "state", "attempts", "last answer", flexible=("last answer",))
    for row in found:
        last = row["held"] or row["last_error"] or row["last_status"] or "–"
        table.add_row(row["id"], row["type"], row["reason"], row["state"], str(row["attempts"]), Text(str(last)))
    stdout().print(table)


@webhooks.command()
def redeliver(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="A delivery's id, from holter webhook deliveries.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Send a message again, now, under the id that it had."""
    delivery = Connection(url, token).post(f"/deliveries/{quote(identifier, safe='')}/redeliver")["delivery"]
    if as_json:
        print_json({"delivery": delivery})
        return
    stdout().print(f"{identifier} is sent again")


def _quiet_hours(text: str, passes: Severity) -> dict[str, str]:
    """'22:00-07:00 Europe/Berlin' as the API takes it."""
    hours, _, zone = text.strip().partition(" ")
    start, dash, end = hours.partition("-")
    if not dash:
        raise Failure(f"{text!r} are no quiet hours", 'Write them as "22:00-07:00" or "22:00-07:00 Europe/Berlin"')
    return {"start": start, "end": end, "timezone": zone.strip() or "UTC", "passes": passes.value}


def _settled(connection: Connection, delivery: dict[str, Any]) -> dict[str, Any]:
    """The delivery once it has been tried, or as it stands when the patience is over."""
    deadline = time.monotonic() + _ANSWER_WITHIN
    while delivery["state"] in ("pending", "sending") and not delivery["attempts"] and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY)
        rows = connection.get("/deliveries", webhook=delivery["webhook"])["deliveries"]
        delivery = next((row for row in rows if row["id"] == delivery["id"]), delivery)
    return delivery
