"""`holter mute` and `holter unmute`: a rule that is not to be heard of here."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from holter_server.cli.connection import DEFAULT_URL, AsJson, Connection, Token, Url
from holter_server.cli.failure import Failure
from holter_server.cli.screen import print_json, stdout

__all__ = ["mute", "unmute"]


def mute(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The rule's id, as holter rules list shows it.")],
    *,
    run: Annotated[str | None, typer.Option(help="Only for this run.")] = None,
    project: Annotated[str | None, typer.Option(help="For every run of this project.")] = None,
    metric: Annotated[str, typer.Option(metavar="GLOB", help="Only for these metrics.")] = "",
    hours: Annotated[float | None, typer.Option(min=0.001, help="For so long; without it for good.")] = None,
    comment: Annotated[str, typer.Option(help="Why, for those who wonder later.")] = "",
    url: Url = DEFAULT_URL,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Hear nothing of a rule here: it is still written down, but nobody is told and nothing is stopped."""
    connection = Connection(url, token)
    if run is None and project is None:
        raise Failure("A mute is for a run or for a project", "Add --run RUN or --project NAME")
    body: dict[str, Any] = {"rule": rule, "metric": metric, "comment": comment, "project": project}
    if run is not None:
        body["run"] = connection.run(run)["id"]
    if hours is not None:
        body["seconds"] = hours * 3600
    made = connection.post("/mutes", body)["mute"]
    if as_json:
        print_json({"mute": made})
        return
    stdout().print(Text(f"Muted {rule} as {made['id']}. Hear of it again: holter unmute {made['id']}"))


def unmute(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="The mute's id, as holter mute printed it.")],
    url: Url = DEFAULT_URL,
    token: Token = None,
) -> None:
    """Take a mute away."""
    Connection(url, token).delete(f"/mutes/{identifier}")
    stdout().print(f"Removed {identifier}")
