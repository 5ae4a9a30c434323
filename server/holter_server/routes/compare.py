"""Comparing: a candidate, or seeds of it, with a baseline."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from holter_db.database import Connection
from holter_db.errors import QueryError
from holter_server import schemas
from holter_server.answers import Json
from holter_server.body import STRUCT_BYTES_MAX
from holter_server.compare_load import RUNS_MAX, load_record, resolve_sides
from holter_server.context import Here

if TYPE_CHECKING:
    from holter_server.verdict.criteria import Criteria
    from holter_server.verdict.data import Record

router = APIRouter(tags=["compare"])

Side = Annotated[
    list[str],
    Field(
        min_length=1,
        max_length=RUNS_MAX,
        description="ids, prefixes that one id has, project/name, or filters such as group=new,project=denovo; "
        "for the baseline also pinned: the runs of the candidate's project with the tag baseline",
    ),
]


class SidesBody(BaseModel):
    """The runs of the two sides; several on one side are seeds of the same training."""

    model_config = ConfigDict(extra="forbid")
    baseline: Side
    candidate: Side
    criteria: str = Field(
        "default", max_length=STRUCT_BYTES_MAX, description="default, denovo, or criteria and tree as YAML"
    )
    metrics: list[str] = Field(
        default_factory=lambda: ["*"], min_length=1, max_length=100, description="globs: values to list"
    )
    seed: int = Field(0, ge=0, lt=2**32, description="of the bootstraps: equal questions get equal answers")
    figures: bool = Field(False, description="with figures, as plotly JSON")
    theme: Literal["light", "dark"] = "light"


@router.post("/compare", response_model=schemas.ComparisonAnswer)
def post(here: Here, body: SidesBody) -> Json:
    """A verdict by criteria and a decision tree: gate, table with intervals, the tree read literally and honestly.

    `verdict` is `accepted`, `rejected`, `undetermined` or, where the gate blocks, `not_comparable`. In `rows`,
    `difference` is candidate − baseline in the metric's unit, or what `measure` says; `states` is what may be true.
    """
    # SciPy takes a quarter of a second to import, which a service that is never asked need not spend.
    from holter_server.verdict import judge  # noqa: PLC0415

    criteria = _criteria(body.criteria)

    def load(conn: Connection) -> tuple[list[Record], list[Record]]:
        old, new = resolve_sides(conn, body.baseline, body.candidate)
        needed = judge.needed_metrics(criteria)
        return [load_record(conn, run, needed) for run in old], [load_record(conn, run, needed) for run in new]

    baseline, candidate = here.read(load)

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, glob) for glob in body.metrics)

    found: dict[str, Any] = judge.judge(criteria, baseline, candidate, seed=body.seed, wanted=wanted)
    if body.figures:
        from holter_server.figure_compare import comparison_figures  # noqa: PLC0415

        found["figures"] = comparison_figures(found, baseline, candidate, body.theme)
    return Json({"comparison": found})


def _criteria(text: str) -> Criteria:
    from holter_server.verdict.criteria import NAMES, parse, shipped  # noqa: PLC0415

    if text in NAMES:
        return shipped(text)
    if "\n" not in text and ":" not in text:
        raise QueryError(f"There are no criteria {text!r}", f"Use {', '.join(NAMES)}, or send YAML.")
    return parse(text, "criteria")
