"""Reads the logs of other tools: tables, JSON, TensorBoard's event files, and what trainings print."""

from __future__ import annotations

from holter.logfiles.model import LogFile, Row, Unreadable
from holter.logfiles.reading import read_log

__all__ = ["LogFile", "Row", "Unreadable", "read_log"]
