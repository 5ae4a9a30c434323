"""Makes docs/images: starts the service on an empty database, runs real trainings and photographs the page.

    python docs/screenshots.py            # a few minutes: two trainings that fall ill, one that does not
    python docs/screenshots.py --out DIR

Needs `pip install "holter[server,examples,dev]"` and a Chromium (``--chromium``, by default /usr/bin/chromium).
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3
from playwright.sync_api import Browser, sync_playwright

from holter_server.service import running
from holter_server.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "denovo"
WIDE = {"width": 1440, "height": 1500}
PHONE = {"width": 390, "height": 1800}  # two screens: what is wrong, and the first curves
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
DRAWN_MS = 60_000
SETTLE_S = 5.0  # for the charts below the fold of the picture
DEADLINE_S = 900.0

log = logging.getLogger("screenshots")


class Studio:
    """A running service, and a browser to look at it with."""

    def __init__(self, url: str, folder: Path, out: Path, browser: Browser) -> None:
        self.url, self.folder, self.out, self.browser = url, folder, out, browser
        self._http = urllib3.PoolManager()

    def run_named(self, name: str) -> dict[str, Any] | None:
        """The newest run of this name, or None."""
        runs = self._http.request("GET", f"{self.url}/api/v1/runs?q={name}").json()["runs"]
        return next((run for run in runs if run["name"] == name), None)

    @contextmanager
    def training(self, recipe: str, steps: int) -> Iterator[None]:
        """A recipe of the example, training in a process of its own for the length of the block."""
        arguments = [sys.executable, "scripts/train_gaussian_losses.py", "--config", f"demo/{recipe}"]
        arguments += ["--max_steps", str(steps), "--output", str(self.folder / "checkpoints")]
        environment = {**os.environ, "HOLTER_URL": self.url, "HOLTER_DIR": str(self.folder / "spool")}
        environment["OMP_NUM_THREADS"] = "1"
        log.info("training %s", recipe)
        with (self.folder / f"{recipe}.log").open("wb") as output:
            process = subprocess.Popen(arguments, cwd=EXAMPLE, env=environment, stdout=output, stderr=output)
            try:
                yield
            finally:
                self._stop(recipe)
                process.terminate()
                process.wait()

    def _stop(self, name: str) -> None:
        """Stop the training as the page's button does, and wait until the service has heard that it ended."""
        run = self.run_named(name)
        if run is None or run["state"] != "running":
            return
        self._http.request("POST", f"{self.url}/api/v1/runs/{run['id']}/commands", json={"name": "stop"})
        self.wait_for(name, lambda run: run["state"] != "running")

    def wait_for(self, name: str, ready: Callable[[dict[str, Any]], bool]) -> str:
        """The id of the run once ``ready`` says yes to it."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            run = self.run_named(name)
            if run is not None and ready(run):
                return str(run["id"])
            time.sleep(0.5)
        raise SystemExit(f"{name} did not come that far in {DEADLINE_S:.0f} s; see its log in {self.folder}")

    def photograph(self, image: str, address: str, *, clip: dict[str, int] | None = None, **options: Any) -> None:
        """Save what the page at ``address`` shows."""
        context = self.browser.new_context(**options)
        page = context.new_page()
        page.goto(self.url + address)
        drawn = "path.js-line" if address.startswith("/runs/") else "tbody tr"
        page.wait_for_selector(drawn, state="attached", timeout=DRAWN_MS)
        time.sleep(SETTLE_S)
        page.screenshot(path=self.out / f"{image}.png", clip=clip, timeout=DRAWN_MS)  # type: ignore[arg-type]
        context.close()
        log.info("%s.png", image)


def take(studio: Studio) -> None:
    with studio.training("healthy_new", 2000):
        studio.wait_for("healthy_new", lambda run: run["state"] == "finished")
    with studio.training("precursor_x100", 3000):
        run = studio.wait_for("precursor_x100", lambda run: run["last_step"] and run["last_step"] > 1700)
        studio.photograph("run", f"/runs/{run}", viewport=WIDE)
        studio.photograph(
            "run-phone", f"/runs/{run}", viewport=PHONE, device_scale_factor=2, is_mobile=True, has_touch=True
        )
    with studio.training("nan_empty_spectra", 3000):
        run = studio.wait_for("nan_empty_spectra", lambda run: run["last_step"] and run["last_step"] > 1400)
        studio.photograph("run-dark", f"/runs/{run}", viewport=WIDE, color_scheme="dark")
        incident = {"x": 0, "y": 0, "width": 1200, "height": 900}
        studio.photograph("incident", f"/runs/{run}", clip=incident, viewport={"width": 1200, "height": 900})
        studio.photograph("runs", "/", viewport={"width": 1440, "height": 480})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder for the images")
    parser.add_argument("--chromium", default="/usr/bin/chromium", help="the browser's program")
    options = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    log.setLevel(logging.INFO)
    options.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="holter-screenshots-") as name,
        running(Settings(db=f"sqlite:///{name}/holter.db", port=0)) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=options.chromium, args=ARGUMENTS)
        take(Studio(str(url), Path(name), options.out, browser))
        browser.close()


if __name__ == "__main__":
    main()
