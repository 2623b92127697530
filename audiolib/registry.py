"""What MLflow keeps beyond numbers: its runs, records of evaluations, and models that anyone can load from it."""

import getpass
import importlib.metadata
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, filterwarnings

from audiolib.errors import AudiolibError
from audiolib.files import digest, fresh_folder, scratch_folder, sha256_file, state_folder
from audiolib.origin import git
from audiolib.progress import say
from audiolib.record import training_settings

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_CURVES = ("curve/accuracy_vs_patch", "curve/map_vs_patch")
_MOST = 12  # Lines that can be told apart.
_WRAPPER = Path(__file__).with_name("mlflow_model.py")


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, else an SQLite file at the repository's root: never a path relative to some folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_folder(root) / 'mlflow.db'}"


def experiment_name() -> str:
    """MLFLOW_EXPERIMENT_NAME, else the project's own."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "audiolib"


def quiet_mlflow() -> None:
    """Before MLflow is imported: it tells its makers nothing, looks for no git, and draws no bars for small files."""
    for name, value in (
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("GIT_PYTHON_REFRESH", "quiet"),
        ("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false"),
    ):
        os.environ.setdefault(name, value)


class NoAnswer(AudiolibError):
    """MLflow is not there, or will not do what it is asked."""


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Turn the silence of an MLflow server into one line."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        raise NoAnswer(f"MLflow at {uri} cannot be used: {reason}; see MLFLOW_TRACKING_URI") from error


_silent: set[str] = set()


@contextmanager
def if_it_answers(uri: str) -> Iterator[None]:
    """Leave out what MLflow does not take, and say so once: hours of work do not end for it.

    From then on it is asked in haste, where each request would else wait for minutes.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, NoAnswer, OSError) as error:
        if uri not in _silent:
            reason = " ".join(str(error).split())[:300]
            say(f"MLflow at {uri} does not take what it is told; going on without it: {reason}")
        _silent.add(uri)
        os.environ.update(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="10")


def is_active(client: "MlflowClient", run_id: str) -> bool:
    """Whether there is such a run, and nobody has deleted it. What keeps MLflow from answering is raised."""
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def experiment_id(uri: str, name: str | None = None) -> str | None:
    """Of an experiment, that of the pipeline unless told; null before the first run."""
    from mlflow import MlflowClient

    with answering(uri):
        found = MlflowClient(uri).get_experiment_by_name(name or experiment_name())
    return None if found is None else found.experiment_id


def experiment_for_runs(client: "MlflowClient", root: Path, name: str) -> str:
    """The id of an experiment that runs are put into; made on the first call."""
    there = client.get_experiment_by_name(name)
    if there is not None:
        return there.experiment_id
    local = None if os.environ.get("MLFLOW_TRACKING_URI") else (state_folder(root) / "mlartifacts").as_uri()
    return client.create_experiment(name, artifact_location=local)


def create_pass(client: "MlflowClient", root: Path, settings: dict[str, Any], name: str | None) -> str:
    """A new run for a pass through the pipeline: what it is, and all its settings as parameters; returns its id.

    Args:
        client: of MLflow.
        root: the repository.
        settings: params and presets of the pass.
        name: of the DVC experiment that it is, if it is one.
    """
    experiment = experiment_for_runs(client, root, experiment_name())
    params = settings["params"]
    tags = {
        "model": params["model"],
        "dataset": params["data"],
        "seed": str(params["seed"]),
        "dvc.exp": name or "",
        "dvc.baseline": os.environ.get("DVC_EXP_BASELINE_REV", ""),
        "fingerprint": digest(settings),
        "trained": digest(training_settings(settings)),
        **source_tags("dvc exp run" if name else "dvc repro"),
    }
    fold = settings["data"]["source"].get("fold")
    name = f"{params['model']} {params['data']} seed {params['seed']}" + ("" if fold is None else f" fold {fold}")
    run = client.create_run(experiment, tags=tags, run_name=name)
    from mlflow.entities import Param

    values = [Param(key, str(value)[:500]) for key, value in _flat(settings)]
    for first in range(0, len(values), 100):  # More in one call is refused.
        client.log_batch(run.info.run_id, params=values[first : first + 100])
    return run.info.run_id


def source_tags(command: str) -> dict[str, str]:
    """Where a run comes from, in MLflow's own words: its client sets none of them."""
    user = "unknown"
    with suppress(KeyError, OSError):  # In a container a user may have no name.
        user = getpass.getuser()
    made = {"mlflow.user": user, "mlflow.source.name": command, "mlflow.source.type": "LOCAL"}
    return {**made, "mlflow.source.git.commit": commit} if (commit := git("rev-parse", "HEAD")) else made


def _flat(value: dict[str, Any], lead: str = "") -> Iterator[tuple[str, Any]]:
    for key, entry in value.items():
        path = f"{lead}{key}"
        if isinstance(entry, dict):
            yield from _flat(entry, f"{path}.")
        else:
            yield path, entry


def to_overlay(uri: str, experiment: str) -> tuple[str, list[str]]:
    """What lies best over one another: a curve over patch sizes, and the newest run of each model, all on the corpus
    that was measured last.

    Args:
        uri: of MLflow.
        experiment: its id.
    """
    from mlflow import MlflowClient

    models: dict[str, str] = {}
    corpus, curve = None, ""
    for run in _newest_first(MlflowClient(uri), experiment):
        curves = [name for name in run.data.metrics if name in _CURVES]
        if curves and run.data.tags.get("dataset") == (corpus := corpus or run.data.tags.get("dataset")):
            curve = curve or curves[0]
            models.setdefault(run.data.tags.get("model", ""), run.info.run_id)
    return curve, list(models.values())[::-1][-_MOST:]


def recorded(root: Path, names: list[str], corpus: str | None) -> list[tuple[str, Path]]:
    """Evaluations kept in MLflow: what to call each, and a folder with its files.

    Args:
        root: the repository.
        names: DVC experiments or MLflow run ids; none = the newest run of each model, however it was evaluated.
        corpus: only runs on it; null = they must all be on one.

    Raises:
        AudiolibError: a name is unknown, or the runs are on several corpora and none was chosen.
    """
    uri = tracking_uri(root)
    database = uri.removeprefix("sqlite:///").partition("?")[0]
    if uri.startswith("sqlite:///") and not Path(database).exists():  # MLflow would make one.
        if names:
            raise AudiolibError(f"no recorded run is called {names[0]}: {database} is not there yet")
        return []
    quiet_mlflow()
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    client, experiment, runs = MlflowClient(uri), experiment_id(uri), {}
    for run in [] if experiment is None else _newest_first(client, experiment):
        tags = run.data.tags
        if "stage" in tags or not any(file.path == "record" for file in client.list_artifacts(run.info.run_id)):
            continue
        if names and not {run.info.run_id, tags.get("dvc.exp")} & set(names):
            continue
        if corpus in (None, tags["dataset"]):
            runs.setdefault(run.info.run_id if names else tags.get("trained", tags["fingerprint"]), run)
    known = {name for run in runs.values() for name in (run.info.run_id, run.data.tags.get("dvc.exp"))}
    if missing := sorted(set(names) - known):
        raise AudiolibError(f"no recorded run is called {missing[0]}; `dvc exp show` lists experiments")
    corpora = sorted({run.data.tags["dataset"] for run in runs.values()})
    if len(corpora) > 1:
        raise AudiolibError(f"there are runs on {', '.join(corpora)}; choose one with --data")
    found = []
    for run in reversed(runs.values()):
        # Named by what it holds: the same pass on other clips has the same id.
        folder = scratch_folder(root) / "recorded" / f"{run.info.run_id}-{run.data.tags.get('record', 'first')}"
        if not folder.exists():
            part = fresh_folder(folder.with_suffix(".part"))
            download_artifacts(run_id=run.info.run_id, artifact_path="record", dst_path=str(part), tracking_uri=uri)
            part.rename(folder)
        name = run.data.tags.get("dvc.exp") or run.info.run_name
        found.append((f"{name} ({run.info.run_id[:8]})", folder / "record"))
    return found


def _newest_first(client: "MlflowClient", experiment: str) -> Iterator["Run"]:
    """All runs, page by page."""
    token = None
    while True:
        page = client.search_runs([experiment], order_by=["start_time DESC"], page_token=token)
        yield from page
        token = page.token
        if not token:
            return


# Columns of what a registered model returns.
_TOLD = {"file": "string", "rank": "long", "class": "string", "probability": "double"}


def register(uri: str, run_id: str, model: Path, name: str) -> None:
    """Keep a model folder with its run and register it, once: `mlflow.pyfunc.load_model("models:/<name>/<version>")`.

    What is loaded takes paths of sound files and returns a table (`mlflow_model.py`). This package travels with the
    model: a later checkout may know the weights no more, and what PyPI calls audiolib is another project.
    """
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    client, seal = mlflow.MlflowClient(uri), sha256_file(model / "config.json")  # Which has the hash of the weights.
    if client.get_run(run_id).data.tags.get("model.sha256") == seal:
        return
    asked = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        with mlflow.start_run(run_id=run_id), catch_warnings():
            # The signature says what an example of the input would; the words stand in colour codes.
            filterwarnings("ignore", message=".*An input example was not provided")
            mlflow.pyfunc.log_model(
                name="model",
                python_model=str(_WRAPPER),
                artifacts={"model": str(model)},
                signature=ModelSignature(
                    inputs=Schema([ColSpec("string")]),
                    outputs=Schema([ColSpec(kind, name) for name, kind in _TOLD.items()]),
                    params=ParamSchema([ParamSpec("top_k", "long", 0)]),
                ),
                code_paths=[str(_WRAPPER.parent)],
                pip_requirements=_requirements(),
                registered_model_name=name,
                step=-1,  # MLflow logs the metrics of this step a second time and then refuses them; none has it.
            )
    finally:
        mlflow.set_tracking_uri(asked)  # It stands in the environment: a process that starts later would inherit it.
    client.update_run(run_id, "RUNNING")  # Its report is still to come.
    client.set_tag(run_id, "model.sha256", seal)


def _requirements() -> list[str]:
    """What the library needs, without extras, in the versions that are installed.

    A version's local part (`+cpu`) is left out: no index knows it.
    """
    lines = importlib.metadata.requires("audiolib") or []
    needed = [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]
    return [f"{package}=={importlib.metadata.version(package).partition('+')[0]}" for package in needed]
