"""The health rules, and a project's own ones laid over them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from holter.health import RuleSet
from holter_db import rule_sets
from holter_server import schemas
from holter_server.answers import Json
from holter_server.body import rules_text
from holter_server.context import Here
from holter_server.openapi import RULES_BODY

router = APIRouter(tags=["rules"])


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


def _answer(found: RuleSet, text: str | None) -> Json:
    return Json({"rules": found.describe(), "packs": [pack.name for pack in found.packs()], "project_rules": text})
