"""Real training logs with labels, and how a detector is scored on them."""

from __future__ import annotations

from corpus.entries import Entry, load_entries
from corpus.scoring import Alarm, Outcome, outcome_of

__all__ = ["Alarm", "Entry", "Outcome", "load_entries", "outcome_of"]
