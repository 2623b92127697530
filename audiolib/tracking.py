"""Results to MLflow. One run for a pass through the pipeline; its stages attach to it.

Everything logged here stands in the stages' own files too: a lost database is a lost view, not lost results.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from audiolib import registry
from audiolib.config.strict import resolved
from audiolib.errors import AudiolibError
from audiolib.files import digest, lock, scratch_folder, sha256_file, write_json
from audiolib.record import RECORD, Record, read_record
from audiolib.registry import answering, if_it_answers, quiet_mlflow, source_tags, tracking_uri
from audiolib.results import Home, at_home, main_metric, patch_name, summary


class Run:
    """A pass through the pipeline, as MLflow knows it. Only its id and address are kept, so it can cross processes."""

    def __init__(self, uri: str, run_id: str) -> None:
        self.uri, self.run_id = uri, run_id

    def _client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri)

    def stage(self, name: str) -> str:
        """The id of the nested run of a training stage; made on the first call."""
        client = self._client()
        if (there := self._nested(name)) is not None:
            return there
        parent = client.get_run(self.run_id)
        own = ("model", "dataset", "seed", "mlflow.user")
        kept = {k: tag for k, tag in parent.data.tags.items() if k in own or k.startswith("mlflow.source.")}
        tags = {**kept, "mlflow.parentRunId": self.run_id, "stage": name}
        made = client.create_run(parent.info.experiment_id, tags=tags, run_name=f"{parent.info.run_name}, {name}")
        return made.info.run_id

    def _nested(self, name: str) -> str | None:
        client = self._client()
        own = f"tags.`mlflow.parentRunId` = '{self.run_id}' and tags.stage = '{name}'"
        found = client.search_runs([client.get_run(self.run_id).info.experiment_id], own)
        return found[0].info.run_id if found else None

    def epoch(self, row: dict[str, Any]) -> None:
        """One epoch of a training stage, once: curves over epochs in the stage's nested run, under names that are the
        same for all stages and models, and in the pass itself the score over what it has cost so far.

        What MLflow misses of it, the evaluation tells later.
        """
        with if_it_answers(self.uri):
            self._epoch(row)

    def _epoch(self, row: dict[str, Any]) -> None:
        stage = row["stage"]
        nested = self.stage(stage)
        names = {
            "train_loss": row["train_loss"],
            "valid_score": row["valid_score"],
            "lr": row["lr"],
            "compute/gmac_cum": row["gmac_cum"],
            "packing/efficiency": row["efficiency"],
        }
        if row["epoch"] not in self.steps("compute/seconds", nested):  # Time alone differs when an epoch is repeated.
            names["compute/seconds"] = row["seconds"]
        self._log(nested, [(name, float(value), row["epoch"]) for name, value in names.items()])
        self._log(self.run_id, [(f"curve/{stage}_valid_vs_gmac", row["valid_score"], round(row["gmac_cum"]))])

    def _log(self, run_id: str, points: list[tuple[str, float, int]]) -> None:
        """Log the points (name, value, step) that tell something new: a stage run again finds the same once more."""
        from mlflow.entities import Metric

        client, new, places = self._client(), [], {}
        for name, value, step in points:
            places.setdefault((name, step), set()).add(value)
        told = {name: client.get_metric_history(run_id, name) for name, _ in places}
        for (name, step), values in places.items():
            before = [old for old in told[name] if old.step == step]
            newest = max((old.timestamp for old in before), default=0)
            if {old.value for old in before if old.timestamp == newest} != values:
                # The newest is what MLflow shows, also when a clock was set back in between.
                now = max(int(time.time() * 1000), newest + 1)
                new += [Metric(name, value, now, step) for value in sorted(values)]
        client.log_batch(run_id, metrics=new)

    def history(self, rows: list[dict[str, Any]]) -> None:
        """The epochs that this run does not have yet: DVC restores a stage from its cache without running it."""
        for row in rows:
            self._epoch(row)

    def steps(self, metric: str, run_id: str | None = None) -> list[int]:
        """The steps of all points of a metric of the pass or of a nested run, as they were logged."""
        return [point.step for point in self._client().get_metric_history(run_id or self.run_id, metric)]

    def matrix(self, rows: pl.DataFrame, own: Home) -> None:
        """A result matrix: a metric for each cell at home, curves over patch, length, hop and cost, and a table.

        Names do not contain the model, so that different models lie on one axis. The fine-tuned model has the plain
        names, others the name of their stage before them.
        """
        points, metric = [], main_metric(rows)

        def add(name: str, value: float, step: int = 0) -> None:
            points.append((name, value, step))

        for row in at_home(rows, "patch", own).rows(named=True):
            lead = _lead(row["stage"]) + metric
            add(f"{lead}/{patch_name(row['patch_f'], row['patch_t'])}", row["value"])
            add(f"curve/{lead}_vs_patch", row["value"], row["patch_t"])
            add(f"curve/{lead}_vs_mmac", row["value"], round(row["gmac"] * 1000))
        for row in at_home(rows, "length", own).rows(named=True):
            lead = _lead(row["stage"]) + metric
            add(f"{lead}/len_{row['seconds']:g}s", row["value"])
            add(f"curve/{lead}_vs_length_10ms", row["value"], round(row["seconds"] * 100))
        for row in at_home(rows, "hop", own).rows(named=True):
            lead = _lead(row["stage"]) + metric
            add(f"{lead}/hop_{row['hop_ms']:g}ms", row["value"])
            add(f"curve/{lead}_vs_hop_ms", row["value"], round(row["hop_ms"]))
        self._log(self.run_id, points)
        if self._client().list_artifacts(self.run_id, "matrix"):  # A table that is logged again grows by its rows.
            again = {"columns": rows.columns, "data": [list(row) for row in rows.rows()]}
            self._client().log_dict(self.run_id, again, "matrix/rows.json")
        else:
            self._client().log_table(self.run_id, rows.to_dict(as_series=False), "matrix/rows.json")

    def summary(self, metrics: dict[str, float]) -> None:
        """Numbers that sum a run up, shown as columns."""
        self._log(self.run_id, [(name, value, 0) for name, value in metrics.items()])

    def artifact(self, path: Path, folder: str) -> None:
        """A file, kept with the run."""
        self._client().log_artifact(self.run_id, str(path), folder)

    def tag(self, name: str, value: str) -> None:
        """A word about the pass; another one takes its place."""
        self._client().set_tag(self.run_id, name, value)

    def tags(self) -> dict[str, str]:
        """All words about the pass."""
        return dict(self._client().get_run(self.run_id).data.tags)

    def dataset(self, index: Path, name: str, split: str) -> None:
        """Name the clips that were measured, by the digest of all their shards."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"features": index.name})
        entry = Dataset(name, sha256_file(index)[:16], "local", source)
        self._client().log_inputs(self.run_id, [DatasetInput(entry, [InputTag("mlflow.data.context", split)])])

    def finish(self) -> None:
        """Mark the pass, and those of its stages that trained, as complete."""
        for stage in ("pretrain", "finetune"):
            if (nested := self._nested(stage)) is not None:
                self._client().set_terminated(nested)
        self.done()

    def done(self, status: str = "FINISHED") -> None:
        """Mark this run alone as complete, or as FAILED or KILLED."""
        self._client().set_terminated(self.run_id, status)


def log_outcome(root: Path, evaluate: Path, features: Path, model: Path) -> None:
    """Everything that an evaluation left, as much of it as MLflow takes.

    Args:
        root: the repository.
        evaluate: the evaluation's folder.
        features: the clips that were measured.
        model: the fine-tuned model; it is registered.
    """
    log_record(root, evaluate, features)
    with if_it_answers(tracking_uri(root)):
        run = attach(root)
        registry.register(run.uri, run.run_id, model, f"audiolib-{resolved(root)['params']['data']}")


def log_record(root: Path, evaluate: Path, features: Path) -> None:
    """Cells, curves, training and the record itself, unless the run of the pass has them: DVC may have taken the
    evaluation from its cache, where MLflow knows nothing of it.

    Args: see `log_outcome`.
    """
    record, same = read_record(evaluate), digest([sha256_file(evaluate / name) for name in RECORD])
    with if_it_answers(tracking_uri(root)):
        run = attach(root)
        if run.tags().get("record") != same:
            _tell(run, record, evaluate, features)
            run.tag("record", same)


def _tell(run: Run, record: Record, evaluate: Path, features: Path) -> None:
    rows, own = record.rows, record.home
    run.history(record.history)
    run.matrix(rows, own)
    for name in RECORD:
        run.artifact(evaluate / name, "record")
    metric = main_metric(rows)
    for stage, found in summary(rows, own).items():
        values = {f"summary/{_lead(stage)}{key}": found[key] for key in (metric, "patch_mean", "patch_worst_over_best")}
        run.summary({key: value for key, value in values.items() if value is not None})
    run.dataset(features / "index.json", rows["corpus"][0], rows["split"][0])


def log_files(root: Path, paths: list[Path], folder: str) -> None:
    """Keep a stage's files with the run and mark the pass as complete, if MLflow takes them."""
    with if_it_answers(tracking_uri(root)):
        run = attach(root)
        for path in paths:
            run.artifact(path, folder)
        run.finish()


def _lead(stage: str) -> str:
    return "" if stage == "finetune" else f"{stage}_"


def attach(root: Path) -> Run:
    """The run of the pass that `root`'s parameters describe; made on the first call.

    Its id is kept in `.scratch/runs`, named by the parameters, without those of the page: a stage that runs later, in
    another process or after a crash, finds it.
    """
    quiet_mlflow()
    settings, name, note = _pass(root)
    # Two processes that open a fresh database at once would both create its tables, and one would fail.
    with lock(scratch_folder(root) / "mlflow.lock"):
        uri = tracking_uri(root)
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError), answering(uri):
            run_id = json.loads(note.read_text(encoding="utf-8"))["run_id"]
            if registry.is_active(client, run_id):
                client.update_run(run_id, "RUNNING")  # It may have failed before.
                return Run(uri, run_id)
        with answering(uri):
            run_id = registry.create_pass(client, root, settings, name)
        write_json(note, {"run_id": run_id, "uri": uri})
    return Run(uri, run_id)


def _pass(root: Path) -> tuple[dict[str, Any], str | None, Path]:
    """The settings of a pass, the DVC experiment that it is, and the file that its run's id is kept in."""
    settings, name = resolved(root), os.environ.get("DVC_EXP_NAME")
    settings["params"].pop("report", None)
    key = digest({"settings": settings, "experiment": name})
    return settings, name, scratch_folder(root) / "runs" / f"{key}.json"


@contextlib.contextmanager
def telling_failure(root: Path) -> Iterator[None]:
    """Around a stage: where it fails, the run of its pass, if there is one yet, is marked so until a stage goes on."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, AudiolibError):
            run = Run(**json.loads(_pass(root)[2].read_text(encoding="utf-8")))
            with if_it_answers(run.uri):
                run.done("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def separate_run(folder: Path) -> Run:
    """A run in a database of its own in `folder`."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment(registry.experiment_name(), artifact_location=folder.as_uri())
    return Run(uri, client.create_run(experiment).info.run_id)


def study_runs(root: Path, experiment: str, study: str, wanted: dict[str, dict[str, str]]) -> dict[str, Run]:
    """A study's runs by their keys, made with these tags where they are not there; of other keys they are deleted."""
    quiet_mlflow()
    uri = tracking_uri(root)
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    with answering(uri):
        number = registry.experiment_for_runs(client, root, experiment)
        there = client.search_runs([number], f"tags.study = '{study}'", max_results=5000)
        found = {run.data.tags["key"]: run.info.run_id for run in there}
        for key in found.keys() - wanted.keys():  # Their rows were replaced.
            client.delete_run(found.pop(key))
        for key in wanted.keys() - found.keys():
            tags = {**wanted[key], "study": study, "key": key, **source_tags("python -m audiolib.study_record")}
            found[key] = client.create_run(number, tags=tags).info.run_id
    return {key: Run(uri, found[key]) for key in wanted}
