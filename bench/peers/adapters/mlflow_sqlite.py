"""mlflow straight on a SQLite file, without a server: its cheapest way that writes each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from data import METRICS

from . import Agent, Log


class Mlflow(Agent):
    history_points = 200_000
    compared_steps = 1_000

    @property
    def store(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    def begin(self) -> Log:
        import mlflow

        mlflow.set_tracking_uri(self.store)
        mlflow.set_experiment("bench")
        self.remember(mlflow.start_run().info.run_id)
        return mlflow.log_metrics

    def end(self) -> None:
        import mlflow

        mlflow.end_run()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        import mlflow

        client = mlflow.MlflowClient(self.store)
        history = client.get_metric_history
        return {name: [(each.step, each.value) for each in history(self.identity_of(), name)] for name in METRICS}

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        import mlflow
        from mlflow.entities import Metric

        mlflow.set_tracking_uri(self.store)
        mlflow.set_experiment("bench")
        with mlflow.start_run(run_name=run) as started:
            self.remember(started.info.run_id, run)
            store = mlflow.tracking._tracking_service.utils._get_store()
            for first in range(0, len(values), 5_000):
                rows = enumerate(values[first : first + 5_000].tolist(), first)
                logged = [
                    Metric(name, value, step, step)
                    for step, row in rows
                    for name, value in zip(metrics, row, strict=True)
                ]
                for begin in range(0, len(logged), 5_000):
                    store._log_metrics(started.info.run_id, logged[begin : begin + 5_000])

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        import mlflow

        found = mlflow.MlflowClient(self.store).get_metric_history(self.identity_of(run), metric)
        return [(each.step, each.value) for each in found]

    def view(self, run: str, metric: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in self._interval([run], metric)]

    def compare(self, runs: Sequence[str], metrics: Sequence[str]) -> int:
        return sum(len(self._interval(runs, metric)) for metric in metrics)

    def _interval(self, runs: Sequence[str], metric: str) -> Any:
        """What its page asks for, with the number of points that stands in the page."""
        import mlflow

        mlflow.set_tracking_uri(self.store)
        store = mlflow.tracking._tracking_service.utils._get_store()
        return store.get_metric_history_bulk_interval(
            run_ids=[self.identity_of(run) for run in runs], metric_key=metric, max_results=320,
            start_step=None, end_step=None,
        )  # fmt: skip


PEER = Mlflow
