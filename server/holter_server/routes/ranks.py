"""Ranks: which of them hold the others up."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query

from holter_db.stragglers import list_rank_rows
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here

router = APIRouter(tags=["runs"])


@router.get("/runs/{id}/ranks", response_model=schemas.RanksAnswer)
def ranks(
    here: Here,
    id: str,
    attempt: Annotated[int | None, Query(ge=1, description="default: the newest")] = None,
    last: Annotated[int, Query(ge=1, le=1000, description="steps whose median is the step time")] = 50,
) -> Json:
    """The ranks of an attempt, the worst first: failed, silent, then by lag in steps, then by step time."""
    now = time.time()
    rows = here.read(lambda conn: list_rank_rows(conn, here.run_id(conn, id), now, attempt=attempt, last=last))
    return Json({"ranks": [shapes.rank(row) for row in rows]})
