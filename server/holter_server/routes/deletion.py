"""Deleting a run: hidden at once, to be restored for a while, purged for good at the end."""

from __future__ import annotations

from fastapi import APIRouter

from holter_db import runs
from holter_db.database import Connection
from holter_db.deletion import begin_purge
from holter_db.errors import Gone, NotFound
from holter_server import schemas, shapes
from holter_server.answers import Json
from holter_server.context import Context, Here
from holter_server.writing import Transaction

router = APIRouter(tags=["runs"])


@router.delete("/runs/{id}", response_model=schemas.DeletedAnswerOfRun)
def delete(here: Here, id: str) -> Json:
    """Hide a run from every list and take nothing more for it. `purge_at` is when its points go for good, or null."""

    def work(tx: Transaction) -> runs.RunRow:
        return runs.delete_run(tx.conn, here.run_id(tx.conn, id), tx.now)

    shape = _shape(here, here.writer.call(work, order=id))
    return Json({"deleted": shape["id"], "purge_at": shape["purge_at"]})


@router.post("/runs/{id}/restore", response_model=schemas.RunAnswer)
def restore(here: Here, id: str) -> Json:
    """Bring a deleted run back, with everything. A run that retention had deleted gets the tag `keep`."""

    def work(tx: Transaction) -> runs.RunRow:
        return runs.restore_run(tx.conn, _deleted_id(tx.conn, id))

    return Json({"run": shapes.run(here.writer.call(work, order=id))})


@router.post("/runs/{id}/purge", response_model=schemas.DeletedRunAnswer, status_code=202)
def purge(here: Here, id: str) -> Json:
    """Remove a deleted run for good, now. It happens in the background; it is done when the run answers `run_purged`
    and is no longer in `GET /runs?deleted=true`.
    """

    def work(tx: Transaction) -> runs.RunRow:
        run_id = _deleted_id(tx.conn, id)
        begin_purge(tx.conn, run_id, tx.now)
        return runs.deleted_run(tx.conn, run_id)

    row = here.writer.call(work, order=id)
    here.upkeep.wake()
    return Json({"run": _shape(here, row)}, status_code=202)


def _shape(here: Context, row: runs.RunRow) -> shapes.Shape:
    return shapes.deleted_run(row, here.settings.purge_after_days)


def _deleted_id(conn: Connection, text: str) -> str:
    """The deleted run that is meant; where there is none, the one that is not deleted."""
    try:
        return runs.resolve_run(conn, text, deleted=True)
    except Gone:
        raise
    except NotFound:
        return runs.resolve_run(conn, text)
