"""The health rules, a project's own ones laid over them, and what rules would have said of stored runs."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from holter.health import RuleSet
from holter.health.plugins import load_plugins
from holter_db import mutes, rule_sets, runs
from holter_db.database import Connection
from holter_db.errors import NotFound
from holter_db.rule_sets import RuleSetRow
from holter_server import backtest as replay
from holter_server import schemas, shapes
from holter_server.agent_rules import rules_of_agent
from holter_server.answers import Json
from holter_server.author import Author
from holter_server.body import STRUCT_BYTES_MAX, rules_text
from holter_server.context import Here
from holter_server.openapi import RULES_BODY
from holter_server.writing import Transaction

router = APIRouter(tags=["rules"])


class Backtest(BaseModel):
    """Rules to try, and the runs to try them on."""

    model_config = ConfigDict(extra="forbid")
    runs: list[str] = Field(min_length=1, max_length=50)
    rules: str | None = Field(
        None, max_length=STRUCT_BYTES_MAX, description="YAML, laid over the default rules; default: the project's own"
    )
    project: str | None = Field(
        None, max_length=128, description="whose rules these are, or are to be taken; default: each run's own project"
    )


class Restore(BaseModel):
    """Which version becomes the newest one again."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1)
    comment: str = Field("", max_length=1000)


Name = Annotated[str, Path(max_length=128)]
Comment = Annotated[str, Query(max_length=1000, description="why")]


@router.get("/rules", response_model=schemas.RulesAnswer)
def rules(here: Here, project: str | None = None, run: str | None = None) -> Json:
    """The rules that apply: the packs, with the project's own rules laid over them.

    With `run`, which agents give, `agent_rules` are those rules as they hold beside that run: with its mutes, and with
    a dry run of the whole service.
    """

    def ask(conn: Connection) -> tuple[RuleSetRow | None, str | None]:
        row = _newest(conn, project)
        return row, None if run is None else _of_agent(here, conn, run, row)

    row, of_agent = here.read(ask)
    text = row.text if row is not None and row.text.strip() else None
    found = RuleSet.default() if text is None else RuleSet.parse(text, name="project rules")
    return _answer(found, text, 0 if row is None else row.version, of_agent)


@router.put("/projects/{name}/rules", response_model=schemas.RulesAnswer, openapi_extra=RULES_BODY)
def put(
    *,
    here: Here,
    name: Name,
    text: Annotated[str, Depends(rules_text)],
    author: Author,
    comment: Comment = "",
    expected: Annotated[
        int | None, Query(ge=0, description="the version that you have seen; 409 if it moved on")
    ] = None,
) -> Json:
    """Set a project's rules, as YAML: a new version. A mistake is answered with its line and the keys allowed there."""
    found = RuleSet.parse(text, name=f"{name}.yaml")

    def work(tx: Transaction) -> RuleSetRow:
        return rule_sets.put(tx.conn, name, text, tx.now, author=author, comment=comment, expected=expected)

    return _answer(found, text, here.writer.call(work, order=f" {name}").version)


@router.post("/rules/check", response_model=schemas.RulesCheckAnswer, openapi_extra=RULES_BODY)
def check(text: Annotated[str, Depends(rules_text)]) -> Json:
    """Read rules without keeping them. A mistake is answered as by `PUT`; `changed` names what they add or change."""
    found = RuleSet.parse(text)
    usual = {(rule["pack"], rule["id"]): rule for rule in RuleSet.default().describe()}
    now = {(rule["pack"], rule["id"]): rule for rule in found.describe()}
    changed = {key[1] for key in usual.keys() | now.keys() if usual.get(key) != now.get(key)}
    return Json({"valid": True, "rules": len(found.rules), "changed": sorted(changed)})


@router.get("/projects/{name}/rules/versions", response_model=schemas.RulesVersionsAnswer)
def versions(here: Here, name: Name) -> Json:
    """Every version of a project's rules, newest first: who, when and why. The greatest one applies."""
    rows = here.read(lambda conn: rule_sets.history(conn, name))
    return Json({"versions": [shapes.rules_version(row, text=False) for row in rows], "next": None})


@router.get("/projects/{name}/rules/versions/{version}", response_model=schemas.RulesVersionAnswer)
def show_version(here: Here, name: Name, version: int) -> Json:
    """One of them with its text."""
    row = here.read(lambda conn: rule_sets.version(conn, name, version))
    return Json({"version": shapes.rules_version(row, text=True)})


@router.post("/projects/{name}/rules/restore", response_model=schemas.RulesAnswer)
def restore(here: Here, name: Name, body: Restore, author: Author) -> Json:
    """Make an earlier version the newest one again, as a new version; nothing of the history is lost."""

    def work(tx: Transaction) -> tuple[RuleSet, RuleSetRow]:
        old = rule_sets.version(tx.conn, name, body.version)
        found = RuleSet.parse(old.text, name=f"{name}.yaml version {old.version}")
        comment = body.comment or f"version {old.version} restored"
        return found, rule_sets.put(tx.conn, name, old.text, tx.now, author=author, comment=comment)

    found, row = here.writer.call(work, order=f" {name}")
    return _answer(found, row.text, row.version)


@router.post("/rules/backtest", response_model=schemas.BacktestAnswer)
def backtest(here: Here, body: Backtest) -> Json:
    """What the rules would have said of stored runs: every record once more through the live engine.

    Nothing is written and nobody is told. The clock is not replayed, so that no run is hung or lost here.
    """
    given = None if body.rules is None else RuleSet.parse(body.rules, name=f"{body.project or 'rules'}.yaml")

    @cache
    def rules_of(project: str) -> RuleSet:
        text = here.read(lambda conn: rule_sets.get(conn, project))
        return RuleSet.default() if text is None else RuleSet.parse(text, name=f"{project}.yaml")

    def find(text: str) -> tuple[str, RuleSet]:
        row = here.read(lambda conn: runs.get_run(conn, here.run_id(conn, text)))
        return row.id, given or rules_of(body.project or row.project)

    def replayed(run_id: str, rules: RuleSet) -> dict[str, Any]:
        return here.read(lambda conn: replay.backtest(conn, run_id, rules))

    wanted = dict(find(text) for text in body.runs)  # every mistake is found before the work begins
    results = [replayed(run_id, rules) for run_id, rules in wanted.items()]
    fired = Counter(incident["rule"] for result in results for incident in result["incidents"])
    return Json({"runs": results, "fired": fired.total(), "rules": dict(fired)})


def _newest(conn: Connection, project: str | None) -> RuleSetRow | None:
    return next(iter(rule_sets.history(conn, project)), None) if project is not None else None


def _of_agent(here: Here, conn: Connection, run: str, row: RuleSetRow | None) -> str | None:
    """The project's rules as a run's agent should have them; None where the run is not known yet."""
    try:
        muted = mutes.list_mutes(conn, run=here.run_id(conn, run))
    except NotFound:
        return None
    return rules_of_agent("" if row is None else row.text, muted, dry_run=here.settings.dry_run)


def _answer(found: RuleSet, text: str | None, version: int, of_agent: str | None = None) -> Json:
    answer: dict[str, Any] = {
        "rules": found.describe(),
        "packs": [pack.name for pack in found.packs()],
        "project_rules": text or None,
        "version": version,
        "plugins": [plugin.describe() for plugin in load_plugins()],
    }
    if of_agent is not None:
        answer["agent_rules"] = of_agent
    return Json(answer)
