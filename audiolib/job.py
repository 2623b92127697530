"""What is to be trained, and where a training run stands."""

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from audiolib.errors import AudiolibError
from audiolib.files import code_digest, sha256_file
from audiolib.precision import has_bf16

if TYPE_CHECKING:
    from audiolib.config.training import Recipe, TrainSection


@dataclass(frozen=True)
class Job:
    """One training stage.

    `architecture` is a model name and its overrides; `start` a model folder to continue from, or null; `scratch` holds
    the checkpoints; `seconds` is the clip length trained at.
    """

    stage: str
    recipe: "Recipe"
    settings: "TrainSection"
    architecture: dict[str, Any]
    features: Path
    seconds: float
    seed: int
    start: Path | None
    out: Path
    scratch: Path

    @property
    def draws(self) -> int:
        """The seed of order, cuts, hops, masks and patch sizes: each stage draws its own, not the other's once more."""
        return self.seed if self.stage == "finetune" else self.seed + 2**32


@dataclass
class Progress:
    """Where a run stands; part of every checkpoint."""

    phase: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    efficiency: float = 1.0
    macs: int = 0
    tokens: int = 0
    averaged: int = 0
    elapsed: float = 0.0
    best: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def gmac(self) -> float:
        """10^9 multiply-accumulates of all clips trained on so far, forward."""
        return self.macs / 1e9


# The files that decide what a step computes; a checkpoint made by others is not continued.
CODE = (
    *("train.py", "epochs.py", "views.py", "packing.py", "loader.py", "dataset.py", "order.py", "batches.py"),
    *("augment.py", "optim.py", "averaging.py", "objective.py", "phases.py", "predict.py", "metrics.py", "rng.py"),
    *("start.py", "convert.py", "frontend.py", "shards.py", "models/*.py"),
    *("kernels/*/*.py", "kernels/*/*.cpp", "kernels/compile.py", "kernels/*.h"),
)


def fingerprint(job: Job, start_digest: str | None) -> dict[str, Any]:
    """All that decides a training's result; `start_digest` is the hash of the model it begins with."""
    return {
        "stage": job.stage,
        "recipe": job.recipe.model_dump(mode="json"),
        "precision": precision_of(job.settings),
        "memory_mib": job.settings.memory_mib,
        "kernels": [job.settings.attention, job.settings.scan],
        "architecture": job.architecture,
        "seconds": job.seconds,
        "seed": job.seed,
        "features": sha256_file(job.features / "index.json"),
        "normalisation": sha256_file(job.features / "stats.json"),
        "start": start_digest,
        "code": code_digest(Path(__file__).parent, CODE),
    }


def precision_of(settings: "TrainSection") -> str:
    """What `auto` means on this machine: a training in bfloat16 is not continued in float32."""
    if settings.precision != "auto":
        return settings.precision
    gpu = settings.device != "cpu" and torch.cuda.is_available()
    return "bfloat16" if has_bf16(torch.device("cuda" if gpu else "cpu")) else "float32"


def check_settings(job: Job, world: int) -> None:
    """Refuse settings that do not go together.

    Args:
        job: the training.
        world: how many workers share a step.

    Raises:
        AudiolibError: a step has fewer clips than parts of it; or packs are to be compiled.
    """
    size, settings = job.recipe.batch_size, job.settings
    if size is not None and size < world * settings.accumulate:
        shares = f"{world} workers in {settings.accumulate} parts"
        raise AudiolibError(f"batch_size {size} cannot be shared by {shares}; each needs a clip")
    if settings.compile and size is None:
        raise AudiolibError("train.compile needs steps of clips of one length; every pack would be another program")


def compiled(model: nn.Module, recipe: "Recipe") -> nn.Module:
    """A model by torch.compile, for every patch size of a recipe: beyond its limit torch runs the rest as it is."""
    sizes = len({*recipe.patch_sizes, *recipe.valid_patch_sizes})
    limit = 2 * sizes * len(recipe.phases)  # Training and validation are compiled apart.
    torch.compiler.config.recompile_limit = max(torch.compiler.config.recompile_limit, limit)
    return torch.compile(model)


def make_deterministic() -> None:
    """Let torch choose operators that give the same bits on a GPU each time, or refuse what has none."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
