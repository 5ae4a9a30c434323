"""Finds what the picture of a message shows: the incident's metric around its step, as it is stored."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from typing import Any

import numpy as np

from holter_db.database import Connection, Database
from holter_db.incidents import IncidentRow, get_incident
from holter_db.runs import get_run
from holter_db.series import view_series
from holter_server.notify.picture import Curve, Plot, draw

__all__ = ["IncidentPicture"]

STEPS_BEFORE, STEPS_AFTER = 400, 100
PIXELS = 300


class IncidentPicture:
    """Draws the picture of a delivery's body; None for one that is not about a metric."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def __call__(self, body: Mapping[str, Any]) -> bytes | None:
        incident = body["data"].get("incident")
        if body["type"] == "test" or not incident or not incident["metric"]:
            return None
        with self._database.read() as conn:
            plot = _plot(conn, get_incident(conn, incident["id"]))
        return None if plot is None else draw(plot)


def _plot(conn: Connection, row: IncidentRow) -> Plot | None:
    if row.step is None:
        return None
    run = get_run(conn, row.run)
    last = row.step + STEPS_AFTER
    found = view_series(
        conn, row.run, [glob.escape(row.metric)], first=row.step - STEPS_BEFORE, last=last, width=PIXELS, x="step"
    )
    curves = [
        Curve(np.asarray(item.steps, dtype=np.float64), item.values)
        for item in found
        if item.writer == row.writer and len(item.steps)
    ]
    if not curves:
        return None
    title = f"{row.severity.upper()}  {run.project}/{run.name}"
    return Plot(title, row.message, row.severity, curves, float(row.step), row.threshold)
