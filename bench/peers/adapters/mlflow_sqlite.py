"""mlflow straight on a SQLite file, without a server: its cheapest way that writes each step."""

from __future__ import annotations

from data import METRICS

from . import Agent, Log


class Mlflow(Agent):
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
        return {name: [(each.step, each.value) for each in history(self.identity, name)] for name in METRICS}


PEER = Mlflow
