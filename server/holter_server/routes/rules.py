"""The health rules, a project's own ones laid over them, and what rules would have said of stored runs."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path
from pydantic import BaseModel, ConfigDict, Field

from holter.health import RuleSet
from holter_db import rule_sets, runs
from holter_server import backtest as replay
from holter_server import schemas
from holter_server.answers import Json
from holter_server.body import STRUCT_BYTES_MAX, rules_text
from holter_server.context import Here
from holter_server.openapi import RULES_BODY

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


@router.get("/rules", response_model=schemas.RulesAnswer)
def rules(here: Here, project: str | None = None) -> Json:
    """The rules that apply: the packs, with the project's own rules laid over them."""
    text = None if project is None else here.read(lambda conn: rule_sets.get(conn, project))
    found = RuleSet.default() if text is None else RuleSet.parse(text, name="project rules")
    return _answer(found, text)


@router.put("/projects/{name}/rules", response_model=schemas.RulesAnswer, openapi_extra=RULES_BODY)
def put(here: Here, name: Annotated[str, Path(max_length=128)], text: Annotated[str, Depends(rules_text)]) -> Json:
    """Set a project's rules, as YAML. A mistake is answered with its line and the keys allowed there."""
    found = RuleSet.parse(text, name=f"{name}.yaml")
    here.writer.call(lambda tx: rule_sets.put(tx.conn, name, text, tx.now), order=f" {name}")
    return _answer(found, text)


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


def _answer(found: RuleSet, text: str | None) -> Json:
    return Json({"rules": found.describe(), "packs": [pack.name for pack in found.packs()], "project_rules": text})
