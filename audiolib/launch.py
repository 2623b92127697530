"""One process or many: the only door to Ray. One worker needs no Ray; the loop is the same either way."""

import functools
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from audiolib.cluster import start_ray
from audiolib.config.corpus import DataPreset
from audiolib.config.strict import read_preset, read_section
from audiolib.config.training import ModelPreset, Recipe, Seed, TrainSection
from audiolib.errors import AudiolibError
from audiolib.files import digest, lock, scratch_folder, user_path
from audiolib.job import Job, check_settings, fingerprint
from audiolib.predict import own_cores
from audiolib.progress import say
from audiolib.start import start_digest
from audiolib.tracking import attach
from audiolib.train import fit

OnEpoch = Callable[[dict[str, Any]], None]


def train_stage(root: Path, stage: str, features: Path, start: Path | None, out: Path) -> None:
    """Run the `pretrain` or `finetune` recipe of the chosen model preset and record it in MLflow as it goes.

    Args:
        root: project folder, absolute: Ray workers run elsewhere.
        stage: which recipe.
        features: features folder.
        start: model folder to continue from, or null.
        out: where the model folder is left.
    """
    preset = read_preset(root, "model", ModelPreset)
    data = read_preset(root, "data", DataPreset)
    settings = read_section(root, "train", TrainSection)
    if start is None and settings.start is not None:
        start = user_path(settings.start)
    job = Job(
        stage=stage,
        recipe=scaled(getattr(preset, stage), data.epochs_scale),
        settings=settings,
        architecture=preset.architecture.model_dump(mode="json", exclude_none=True),
        features=features,
        seconds=data.seconds,
        seed=read_section(root, "seed", Seed),
        start=start,
        out=out,
        scratch=scratch_folder(root),
    )
    run(job, attach(root).epoch)


def scaled(recipe: Recipe, scale: int) -> Recipe:
    """The recipe with `scale` times as many epochs in every phase."""
    phases = [phase.model_copy(update={"epochs": phase.epochs * scale}) for phase in recipe.phases]
    steps = recipe.steps
    if steps is not None:
        steps = steps.model_copy(update={"start": steps.start * scale, "every": steps.every * scale})
    averaging = recipe.averaging
    if averaging is not None and averaging.last_epochs is not None:
        averaging = averaging.model_copy(update={"last_epochs": averaging.last_epochs * scale})
    return recipe.model_copy(update={"phases": phases, "steps": steps, "averaging": averaging})


def run(job: Job, on_epoch: OnEpoch | None = None) -> None:
    """Train a job in this process, or with several Ray workers here or on the cluster of `RAY_ADDRESS`.

    Raises:
        AudiolibError: the settings do not go together; the training failed; or several workers are asked for and Ray is
            not installed.
    """
    # Whatever its precision: what `auto` means is decided where the training runs.
    same = digest({**fingerprint(job, start_digest(job.start)), "precision": None})
    # Two that share checkpoints would remove each other's.
    with lock(
        job.scratch / "checkpoints" / job.stage / f"{same}.lock",
        lambda: say(f"{job.stage}: another process is at the same training; waiting until it ends"),
    ):
        if job.settings.num_workers == (1, 1) and not os.environ.get("RAY_ADDRESS"):
            fit(job, on_epoch)
        else:
            _run_on_ray(job, on_epoch)


def _run_on_ray(job: Job, on_epoch: OnEpoch | None) -> None:
    fewest, most = job.settings.num_workers
    check_settings(job, fewest)  # Every worker would find the same, half a minute later.
    ray = start_ray(most)
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    gpu = on_gpus(job.settings.device, fewest, int(ray.cluster_resources().get("GPU", 0)))
    if not gpu:  # A worker that asked for none would take the first of its machine, as would its neighbours.
        job = replace(job, settings=job.settings.model_copy(update={"device": "cpu"}))
    # A name that Ray has seen continues that run: the name says what is trained, and by which process.
    name = f"{job.stage}-{digest([str(job.out), job.recipe.model_dump(mode='json'), job.seed, os.getpid()])}"
    complaint = job.scratch / "ray" / f"{name}.error"
    complaint.parent.mkdir(parents=True, exist_ok=True)
    complaint.unlink(missing_ok=True)

    def fit_once(attempt: int) -> None:
        TorchTrainer(
            functools.partial(_worker, job=job, on_epoch=on_epoch, complaint=complaint),
            torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
            scaling_config=ScalingConfig(num_workers=fewest if fewest == most else (fewest, most), use_gpu=gpu),
            # Ray would repeat a user's mistake as it does the loss of a worker: attempts are counted here instead.
            run_config=RunConfig(
                name=f"{name}-{attempt}",
                storage_path=str((job.scratch / "ray").resolve()),
                callbacks=[_hushed_controller()],
            ),
        ).fit()

    reason = ""
    for attempt in range(job.settings.max_failures + 1):
        if attempt:
            say(f"{job.stage}: {reason}; beginning again from the last checkpoint")
        try:
            return fit_once(attempt)
        except TrainingFailedError as error:
            lost = getattr(error, "worker_failures", {})
            for failure in lost.values():
                if isinstance(failure, AudiolibError):
                    raise failure from None
            first = next(iter(lost.values()), error)
            told = " ".join(f"{type(first).__name__}: {first}".split())
            reason = f"training on Ray failed: {told[:500]}"
            if not lost:  # What a start that went wrong holds of the cluster is set free with the connection.
                ray.shutdown()
                start_ray(most)
    raise AudiolibError(reason)


def on_gpus(device: str, fewest: int, there: int) -> bool:
    """Whether Ray is asked for a GPU for each worker.

    Args:
        device: of `train.device`.
        fewest: workers.
        there: GPUs that Ray knows of.

    Raises:
        AudiolibError: they are too few, and no cluster is there that may grow.
    """
    if device == "cpu" or (device == "auto" and there == 0):
        return False
    if there < fewest:
        few = f"Ray finds {there} GPUs, and train.num_workers asks for {fewest} workers with one each"
        if device == "auto" or not os.environ.get("RAY_ADDRESS"):
            fewer = f"train.num_workers to at most {there}, or " if there else ""
            raise AudiolibError(f"{few}; set {fewer}train.device to cpu")
        say(f"{few}; waiting until the cluster has them")
    return True


def _worker(job: Job, on_epoch: OnEpoch | None, complaint: Path) -> None:
    """What every Ray worker runs. Ray sets one thread for each; they share the cores of this machine instead.

    A user's mistake on one worker ends all of them, the others out of the middle of what they do together. The driver
    tells it in one line; the empty file `complaint` lets the others know why they end, so that they are silent.
    """
    torch.set_num_threads(own_cores())
    try:
        fit(job, on_epoch)
    except AudiolibError:
        with suppress(OSError):  # A full disk may be what went wrong.
            complaint.touch()
        _hush()
        raise
    except Exception:
        if complaint.exists():
            _hush()
        raise


def _hush() -> None:
    """In a process that is about to end: Ray would print the traceback of a user's mistake."""
    logging.getLogger("ray.train").setLevel(logging.CRITICAL)


def _hushed_controller() -> Any:
    """What keeps Ray's controller from printing a user's mistake."""
    from ray.train import UserCallback

    class Hushed(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            if any(isinstance(error, AudiolibError) for error in worker_exceptions.values()):
                _hush()

    return Hushed()
