"""Commands: what the service asks of a training."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from holter_db import commands
from holter_db.commands import CommandRow
from holter_db.errors import Conflict
from holter_db.runs import LIVE_STATES, get_run
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Here
from holter_server.writing import Transaction

router = APIRouter(tags=["commands"])


class CommandRequest(BaseModel):
    """`stop`, `checkpoint`, `dump`, or any name that the training gave to `on_command`."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.:-]+$", examples=["stop"])
    args: dict[str, Any] = {}
    by: str = Field("api", max_length=200)


@router.post("/runs/{id}/commands", response_model=schemas.CommandAnswer, status_code=201)
def request(here: Here, id: str, body: CommandRequest) -> Json:
    """Ask something of a run. It goes requested → delivered → acknowledged → done (or failed)."""

    def work(tx: Transaction) -> CommandRow:
        run = get_run(tx.conn, here.run_id(tx.conn, id))
        if run.state not in LIVE_STATES:
            raise Conflict(f"Run {run.id} is {run.state}: nobody would carry out {body.name!r}", "Resume it first.")
        return here.pipeline.request_command(tx, run.id, body.name, body.args, body.by)

    return Json({"command": shapes.command(here.writer.call(work, order=id))}, status_code=201)


@router.get("/runs/{id}/commands", response_model=schemas.CommandsAnswer)
def list_(here: Here, id: str) -> Json:
    """The commands of a run and how far each has come."""
    rows = here.read(lambda conn: commands.list_commands(conn, here.run_id(conn, id)))
    return Json({"commands": [shapes.command(row) for row in rows]})
