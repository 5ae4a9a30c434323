"""What the service says of itself, in Prometheus' text format (exposition format 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holter_db import counts
from holter_server.context import Context

__all__ = ["CONTENT_TYPE", "exposition"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(here: Context) -> str:
    """One sample per line, each family with its help and type."""
    runs, deliveries, incidents = here.read(
        lambda conn: (counts.runs_by_state(conn), counts.deliveries_by_state(conn), counts.open_incidents(conn))
    )
    families = (
        _family("holter_runs", "gauge", "Runs by state.", _labelled("state", runs)),
        _family("holter_incidents_open", "gauge", "Open incidents by severity.", _labelled("severity", incidents)),
        _family("holter_deliveries", "gauge", "Deliveries by state.", _labelled("state", deliveries)),
        _family("holter_points_total", "counter", "Points committed.", [("", here.points)]),
        _family("holter_frames_total", "counter", "Frames committed.", [("", here.frames)]),
        _family("holter_commits_total", "counter", "Commits of the writer thread.", [("", here.writer.commits)]),
        _family("holter_writes_waiting", "gauge", "Jobs waiting for the writer thread.", [("", here.writer.waiting)]),
        _family(
            "holter_segments_waiting", "gauge", "Segments that are not in chunks yet.", [("", here.compactor.waiting)]
        ),
        _family("holter_bodies_bytes", "gauge", "Bytes of request bodies being taken in.", [("", here.room.held)]),
        _family("holter_live_sockets", "gauge", "Open live sockets.", [("", here.hub.connections)]),
        *_of_peers(here),
        _family("process_start_time_seconds", "gauge", "Start, unix seconds, UTC.", [("", here.started_at)]),
    )
    return "".join(families)


def _of_peers(here: Context) -> Iterable[str]:
    """Of servers on PostgreSQL, which hear one another."""
    if here.peers is None:
        return ()
    connected, heard = int(here.peers.connected), here.peers.heard
    return (
        _family("holter_peer_feed_connected", "gauge", "1 while it hears other servers.", [("", connected)]),
        _family("holter_peer_announcements_total", "counter", "Commits of other servers heard of.", [("", heard)]),
    )


def _labelled(label: str, values: Mapping[str, int]) -> list[tuple[str, float]]:
    return [(f'{{{label}="{name}"}}', values[name]) for name in sorted(values)]


def _family(name: str, kind: str, text: str, samples: Iterable[tuple[str, float]]) -> str:
    lines = [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *(f"{name}{label} {value}" for label, value in samples)]
    return "\n".join(lines) + "\n"
