"""`Client`: reads runs back, in a notebook or a script, as numpy arrays.

>>> client = Client("http://127.0.0.1:8787")                 # doctest: +SKIP
>>> run = client.run("denovo/gaussian")                       # doctest: +SKIP
>>> (loss,) = run.series("loss/total"); loss.values           # doctest: +SKIP
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec

from holter.errors import ApiError, HolterError, ServiceUnreachable
from holter.series import Series, SeriesList, merge_pages
from holter.settings import Settings
from holter.transport import Outcome, Transport
from holter.wire import dump_json

__all__ = ["Client", "RunView", "Series", "SeriesList"]

Patterns = str | Iterable[str]
PAGE_MAX = 1000  # rows that the service puts on one page


class Client:
    """A service's REST interface. Every method raises `ApiError` when the service says no."""

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout: float = 30.0) -> None:
        """``url`` and ``token``: without them ``HOLTER_URL`` and ``HOLTER_TOKEN``. ``timeout`` in seconds."""
        settings = Settings.read(os.environ, url=url, token=token)
        self.url = settings.url
        self._transport = Transport(settings.url, settings.token, read=timeout)

    def runs(
        self,
        project: str | None = None,
        *,
        state: str | None = None,
        health: str | None = None,
        tag: str | None = None,
        group: str | None = None,
        q: str | None = None,
        filter: str | None = None,
        sort: str | None = None,
        values: Patterns = (),
        limit: int | None = None,
    ) -> list[RunView]:
        """Runs, newest first unless ``sort`` says otherwise: all that match, or the first ``limit``.

        Args:
            filter: such as ``"config.lr < 1e-3 and last(loss) = NaN"``; docs/rest.md has the language.
            sort: a field, a config key or a metric's value; ``"-last(loss)"`` is from the greatest down.
            values: what to have of each run in its ``values``: ``["config.lr", "last(loss)"]``.
        """
        columns = values if isinstance(values, str) else ", ".join(values)
        query = {
            "project": project, "state": state, "health": health, "tag": tag, "group": group, "q": q, "filter": filter,
            "sort": sort, "values": columns or None, "limit": None if limit is None else min(limit, PAGE_MAX),
        }  # fmt: skip
        found: list[RunView] = []
        for item in self.pages("/runs", "runs", query):
            found.append(RunView(self, item))
            if limit is not None and len(found) >= limit:
                break
        return found

    def run(self, run: str) -> RunView:
        """By id, by a unique prefix of one, or as ``project/name`` (the newest of that name)."""
        project, slash, name = run.partition("/")
        if not slash:
            return RunView(self, self.get(f"/runs/{quote(run, safe='')}")["run"])
        for item in self.pages("/runs", "runs", {"project": project, "q": name}):
            if item.get("name") == name:
                return RunView(self, item)
        raise ApiError(f"There is no run {run}", "List them: client.runs()", status=404, kind="run_not_found")

    def incidents(self, *, state: str | None = None, severity: str | None = None) -> list[dict[str, Any]]:
        """Incidents of all runs."""
        return list(self.pages("/incidents", "incidents", {"state": state, "severity": severity}))

    def compare(
        self,
        baseline: Patterns,
        candidate: Patterns,
        metrics: Patterns = "*",
        *,
        criteria: str = "default",
        seed: int = 0,
        figures: bool = False,
    ) -> dict[str, Any]:
        """A verdict on runs against runs: gate, rows with intervals, verdict, both readings of the tree, knobs.

        Args:
            baseline, candidate: ids, ``project/name``, or filters such as ``group=new,project=denovo``; several runs
                of one side are seeds of it. The baseline may be ``pinned``.
            metrics: globs of the values that get a row.
            criteria: ``default``, ``denovo``, or YAML.
            seed: of the bootstraps.
            figures: with figures, as plotly JSON.
        """
        sides = {"baseline": baseline, "candidate": candidate, "metrics": metrics}
        body: dict[str, Any] = {
            name: [given] if isinstance(given, str) else list(given) for name, given in sides.items()
        }
        body |= {"criteria": criteria, "seed": seed, "figures": figures}
        return dict(self.request("POST", "/compare", body=body)["comparison"])

    # --- requests ---------------------------------------------------------------------------------------------

    def get(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer to ``GET /api/v1{path}``; None and empty values of ``query`` are left out."""
        return self.request("GET", path, query)

    def pages(self, path: str, noun: str, query: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """The items of a list, over all of its pages."""
        cursor: str | None = None
        while True:
            answer = self.get(path, {**query, "cursor": cursor})
            yield from answer[noun]
            cursor = answer.get("next")
            if not cursor:
                return

    def request(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        """The JSON answer to any request below ``/api/v1``."""
        return msgspec.json.decode(self.raw(method, path, query, body) or b"null")

    def raw(self, method: str, path: str, query: Mapping[str, Any] | None = None, body: Any = None) -> bytes:
        """The bytes of the answer.

        Raises:
            ServiceUnreachable: there was none.
            ApiError: the service said no.
        """
        given = [(name, value) for name, value in (query or {}).items() if value is not None]
        address = f"{path}?{urlencode(given, doseq=True)}" if given else path
        headers = {"Accept": "*/*"} | ({} if body is None else {"Content-Type": "application/json"})
        content = None if body is None else dump_json(body)
        outcome = self._transport.request(method, address, body=content, headers=headers)
        if not outcome.done:
            raise self._error(outcome)
        return outcome.body

    def close(self) -> None:
        self._transport.close()

    def _error(self, outcome: Outcome) -> ApiError:
        if outcome.status == 0:
            return ServiceUnreachable(
                f"{self.url}: {outcome.message}", "Start the service (holter serve), or give its address (HOLTER_URL)"
            )
        return ApiError(outcome.message, outcome.hint, status=outcome.status, kind=outcome.kind or "error")


class RunView:
    """One run as the service knows it. ``info`` holds all that it says; `refresh` asks again."""

    def __init__(self, client: Client, info: dict[str, Any]) -> None:
        self._client = client
        self.info = info

    @property
    def id(self) -> str:
        return str(self.info["id"])

    @property
    def name(self) -> str:
        return str(self.info.get("name") or self.id)

    @property
    def project(self) -> str:
        return str(self.info.get("project", ""))

    @property
    def state(self) -> str:
        return str(self.info.get("state", ""))

    @property
    def health(self) -> str:
        return str(self.info.get("health", ""))

    @property
    def config(self) -> dict[str, Any]:
        return dict(self.info.get("config") or {})

    @property
    def values(self) -> dict[str, Any]:
        """What `Client.runs` was asked for by its ``values``; None where the run lacks it."""
        return {name: _plain(value) for name, value in (self.info.get("values") or {}).items()}

    @property
    def _path(self) -> str:
        return f"/runs/{quote(self.id, safe='')}"

    def __repr__(self) -> str:
        return f"<run {self.id} {self.project}/{self.name} {self.state} {self.health}>"

    def refresh(self) -> RunView:
        self.info = self._client.get(self._path)["run"]
        return self

    def metrics(self) -> list[dict[str, Any]]:
        """The catalogue: name, writers, count, first and last step, last, min, max, non-finite count."""
        return list(self._client.get(f"{self._path}/metrics")["metrics"])

    def series(
        self,
        metrics: Patterns = "*",
        *,
        first_step: int | None = None,
        last_step: int | None = None,
        width: int | None = None,
        x: str | None = None,
    ) -> SeriesList:
        """Series whose metric matches one of the globs: every point, or, with ``width``, a view of so many pixels."""
        globs = [metrics] if isinstance(metrics, str) else list(metrics)
        query = {"metric": globs, "from": first_step, "to": last_step, "width": width, "x": x}
        return merge_pages(self._client.pages(f"{self._path}/series", "series", query))

    def figure(self, name: str, **view: Any) -> Any:
        """A plotly figure, the same as on the page: "loss", or "loss/*". ``view``: width, x, theme.

        Raises:
            HolterError: plotly is not installed.
        """
        answer = self.figure_json(name, **view)
        try:
            plotly = __import__("plotly.graph_objects")  # by name: the agent doesn't depend on plotly
        except ImportError:
            raise HolterError("Figures need plotly", "pip install plotly") from None
        return plotly.graph_objects.Figure(answer)

    def figure_json(self, name: str, **view: Any) -> dict[str, Any]:
        """The figure's ``{"data": …, "layout": …}``, for any other plotting."""
        path = f"{self._path}/figures/{quote(name.removesuffix('/*'), safe='/')}"
        return dict(self._client.get(path, view))

    def events(self) -> list[dict[str, Any]]:
        return list(self._client.get(f"{self._path}/events")["events"])

    def incidents(self, state: str | None = None) -> list[dict[str, Any]]:
        return list(self._client.pages("/incidents", "incidents", {"run": self.id, "state": state}))

    def export(self, path: str | os.PathLike[str], format: str | None = None, metrics: Patterns = ()) -> Path:
        """Write every point to a file: csv, jsonl or parquet, by its suffix unless ``format`` says it."""
        target = Path(path)
        chosen = format or target.suffix.removeprefix(".").lower()
        globs = [metrics] if isinstance(metrics, str) else list(metrics)
        query = {"format": chosen, "metric": globs or None}
        target.write_bytes(self._client.raw("GET", f"{self._path}/export", query))
        return target

    def commands(self) -> list[dict[str, Any]]:
        return list(self._client.get(f"{self._path}/commands")["commands"])

    def command(self, name: str, **args: Any) -> dict[str, Any]:
        """Ask the training for something: "checkpoint", "dump", or any name it has a handler for."""
        answer = self._client.request("POST", f"{self._path}/commands", body={"name": name, "args": args})
        return dict(answer["command"])

    def stop(self) -> dict[str, Any]:
        """Ask the training to stop at its next step."""
        return self.command("stop")


def _plain(value: Any) -> Any:
    """A value with what JSON has no number for as the number that it is."""
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
