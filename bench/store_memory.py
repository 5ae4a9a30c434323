"""Memory of the service beside very many stored points, with 100 live runs, and while people look at pages."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import psutil
import sqlalchemy as sa
from holter_service import Service
from peers.data import METRICS
from store_compaction import compact
from store_databases import Home
from store_frames import Template, store_run
from store_load import open_loop
from store_parts import Bench, Part, at_most, told

from holter_db.database import Connection, Database
from holter_db.schema import metadata

MEMORY_MB = 400.0
LIVE_RUNS = 100
TEMPLATE_POINTS = 10_000_000  # of the run that is copied; fewer where fewer points are asked for
LOOKED_AT = 20  # stored runs
SAMPLE_S = 0.25


def measure(bench: Bench) -> Part:
    part = Part("memory")
    home = bench.home("memory")
    stored = _store(bench, home)
    about = f"{stored:,} stored points"
    with bench.service(home, "memory") as service:
        part.add(told(f"memory, {about}, nothing going on", _memory(service)[0] / 1e6, " MB"))
        templates = []
        for index in range(LIVE_RUNS):
            run = service.ask("POST", "/runs", {"project": "live", "name": f"live{index}"})["run"]["id"]
            templates.append(Template(run, METRICS, index, bench.effort.live_s + 4))
        with Watch(service) as watch:
            load = open_loop(service.port, templates, bench.effort.live_s)
        p99 = 1000 * load.quantiles()["p99"]
        note = f"; {watch.text()}; p99 until acknowledged {p99:.0f} ms"
        part.add(at_most(f"memory, {about}, {LIVE_RUNS} live runs for {bench.effort.live_s} s", watch.rss / 1e6,
                         MEMORY_MB, " MB", note=note))  # fmt: skip
        part.raw["live"] = watch.raw() | {"p99_ms": p99, "missed": load.missed(1.0)}
        with Watch(service) as watch:
            over = threading.Event()
            reader = threading.Thread(target=_look, args=(service, over))
            reader.start()
            open_loop(service.port, templates, bench.effort.live_s)
            over.set()
            reader.join()
        part.add(at_most(f"memory, the same, and {LOOKED_AT} stored runs are looked at", watch.rss / 1e6, MEMORY_MB,
                         " MB", note=f"; {watch.text()}"))  # fmt: skip
        part.raw["looked at"] = watch.raw()
    part.raw["stored"] = stored
    bench.forget("memory")
    return part


# --- many stored points -------------------------------------------------------------------------------------------


def _store(bench: Bench, home: Home) -> int:
    """One run's points, compacted, and copies of all its rows under other ids; how many points there are."""
    wanted = bench.effort.stored_points
    steps = min(TEMPLATE_POINTS, wanted // 2) // len(METRICS)
    copies = wanted // (steps * len(METRICS))
    print(f"  storing {copies:,} runs of {steps * len(METRICS):,} points …", flush=True)
    database = Database.open(home.url)
    try:
        store_run(database, "stored0000", 4, METRICS, steps)
        compact(database)
        for index in range(1, copies):
            with database.write() as conn:
                copy_run(conn, "stored0000", f"stored{index:04}")
    finally:
        database.close()
    return copies * steps * len(METRICS)


def copy_run(conn: Connection, source: str, target: str) -> None:
    """Every row of a run again under another id, within the database."""
    for table in metadata.sorted_tables:
        key = "id" if table.name == "runs" else "run_id"
        if key not in table.c or (table.name != "runs" and not table.c[key].primary_key):
            continue
        others = [column for column in table.c if column.name != key]
        rows = sa.select(sa.literal(target), *others).where(table.c[key] == source)
        conn.execute(sa.insert(table).from_select([key, *(column.name for column in others)], rows))


def _look(service: Service, over: threading.Event) -> None:
    """What pages ask, until it is over: a view of every metric of some runs, and a comparison of all of them."""
    names = [f"stored{index:04}" for index in range(LOOKED_AT)]
    known = [name for name in names if service.request("GET", f"/api/v1/runs/{name}")[0] == 200]
    while True:
        for name in known:
            for metric in METRICS:
                service.ask("GET", f"/runs/{name}/series?metric={metric}&width=1000")
            if over.is_set():
                return
        service.ask("POST", "/series/query", {"runs": known, "metrics": list(METRICS[:4]), "width": 1000})


# --- how much it takes --------------------------------------------------------------------------------------------


def _memory(service: Service) -> tuple[int, int]:
    """Resident and proportional bytes of the service with all its processes."""
    main = psutil.Process(service.pid)
    found = [process.memory_full_info() for process in (main, *main.children(recursive=True))]
    return sum(each.rss for each in found), sum(each.pss for each in found)


@dataclass
class Watch:
    """The most memory a service takes within a block."""

    service: Service
    rss: int = 0
    pss: int = 0
    samples: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            rss, pss = _memory(self.service)
            self.rss, self.pss, self.samples = max(self.rss, rss), max(self.pss, pss), self.samples + 1
            if self._ended.wait(SAMPLE_S):
                return

    def text(self) -> str:
        return f"proportional {self.pss / 1e6:,.0f} MB"

    def raw(self) -> dict[str, int]:
        return {"rss": self.rss, "pss": self.pss, "samples": self.samples}
