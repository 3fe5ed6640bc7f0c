"""The loggers of docs/trackers.md, with libraries that record: a training that is resumed goes on in the same run."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

from chexseg_jax.training import loggers

PAGE = Path(__file__).parents[2] / "docs" / "trackers.md"
FIRST, SECOND = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def train_in_two_parts(logger, folder, monkeypatch):
    monkeypatch.setattr(loggers, "LOGGERS", {"tracker": logger})
    for first_step in (1, 2):
        with loggers.open_loggers(folder / "segmentation-0a.part", first_step=first_step) as log:
            log(first_step, {"loss": 0.5})


def test_weights_and_biases(tmp_path, monkeypatch):
    calls = []

    def init(*, id, resume, **_):
        log = lambda scalars, step: calls.append((id, step, scalars))  # noqa: E731
        return SimpleNamespace(log=log, finish=lambda: calls.append((id, resume)))

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    exec(FIRST, names := {})
    train_in_two_parts(names["WandB"], tmp_path, monkeypatch)
    name, end = "segmentation-0a", ("segmentation-0a", "allow")
    assert calls == [(name, 1, {"loss": 0.5}), end, (name, 2, {"loss": 0.5}), end]


def test_mlflow(tmp_path, monkeypatch):
    experiments, runs, points = {}, {}, []

    class Client:
        def get_experiment_by_name(self, name):
            return experiments.get(name)

        def create_experiment(self, name):
            experiments[name] = SimpleNamespace(experiment_id="1")
            return "1"

        def search_runs(self, ids, query):
            return [
                run
                for name, run in runs.items()
                if ids == ["1"] and query == f"attributes.run_name = '{name}'"
            ]

        def create_run(self, experiment, run_name):
            runs[run_name] = SimpleNamespace(info=SimpleNamespace(run_id=f"run {len(runs)}"))
            return runs[run_name]

        def log_metric(self, run, name, value, step):
            points.append((run, name, value, step))

        def set_terminated(self, run):
            points.append(run)

    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=Client))
    exec(SECOND, names := {})
    train_in_two_parts(names["MLflow"], tmp_path, monkeypatch)
    assert points == [("run 0", "loss", 0.5, 1), "run 0", ("run 0", "loss", 0.5, 2), "run 0"]
