"""Small training jobs for tests."""

from pathlib import Path
from typing import Any

from audiolib.config.training import Augment, Packing, Phase, Recipe, TrainSection
from audiolib.job import Job

# As a preset gives it: the patch is a pair, for which JSON has only a list.
TINY = {"name": "flexi_nano", "width": 24, "depth": 1, "heads": 2, "patch": (16, 16)}


def phase(compression: int = 1, method: str = "none", epochs: int = 1, lr: float = 1e-3) -> Phase:
    return Phase(compression=compression, method=method, epochs=epochs, lr=lr)


def augment(**changes: Any) -> Augment:
    return Augment(**{"freq_mask": 8, "time_mask": 8, "mixup": 0.5, "roll": 4, "noise": 0.05, **changes})


def recipe(**changes: Any) -> Recipe:
    values = {
        "phases": [phase()],
        "patch_sizes": [16, 24, 32],
        "valid_patch_sizes": [32],
        "batch_size": 16,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "betas": [0.9, 0.98],
        "schedule": "cosine",
        "warmup_fraction": 0.1,
        "label_smoothing": 0.1,
        "augment": augment(),
    }
    return Recipe(**{**values, **changes})


def packing(**changes: Any) -> Packing:
    values = {
        "tokens": 512,
        "packer": "best_fit",
        "window": 64,
        "longest_seconds": 30.0,
        "shortest_seconds": 0.1,
        "hops_ms": [10, 14, 20, 40],
        "pools": [1, 2],
    }
    return Packing(**{**values, **changes})


def packed_recipe(**changes: Any) -> Recipe:
    return recipe(
        **{"batch_size": None, "packing": packing(), "patch_sizes": [16], "valid_patch_sizes": [16], **changes}
    )


def job(features: Path, folder: Path, **changes: Any) -> Job:
    plain = {
        "num_workers": 1,
        "max_failures": 2,
        "accumulate": 1,
        "compile": False,
        "deterministic": False,
        "device": "cpu",
        "precision": "float32",
        "attention": "auto",
        "scan": "auto",
        "loader_processes": None,
        "memory_mib": 2048,
        "checkpoint_seconds": 1e6,
        "keep_checkpoints": 2,
    }
    settings = TrainSection(**{name: changes.pop(name, value) for name, value in plain.items()}, start=None)
    values = {
        "stage": "pretrain",
        "recipe": recipe(),
        "settings": settings,
        "architecture": TINY,
        "features": features,
        "seconds": 0.64,
        "seed": 1,
        "start": None,
        "out": folder / "out",
        "scratch": folder / "scratch",
    }
    return Job(**{**values, **changes})
