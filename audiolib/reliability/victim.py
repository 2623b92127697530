"""A training that kills itself at a chosen place: `python -m audiolib.reliability.victim FEATURES OUT PLACE COUNT`."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audiolib import checkpoint, train
from audiolib.reliability.material import small_job

# Where the COUNT-th call of what ends it: the owner of a name, and the name.
PLACES: dict[str, tuple[Any, str]] = {
    "before a step": (train.Trainer, "_step"),
    "inside an accumulation window": (train.Trainer, "_loss"),
    "at the hand-over of phases": (train, "make_optimizer"),
    "in validation": (train, "shared_scores"),
    "while a checkpoint's tensors are written": (checkpoint, "save_file"),
    "before a checkpoint's description": (checkpoint, "write_sealed"),
    "while old checkpoints are removed": (checkpoint.Checkpoints, "_newest_first"),
}


def main() -> None:
    """Train; with a place, die there."""
    features, folder, place, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    train._CHECK_EVERY = 1  # A checkpoint may follow every step.
    checkpoint.Checkpoints.clear = lambda self: None  # What is left at the end is compared, moments and all.
    if place in PLACES:
        owner, name = PLACES[place]
        setattr(owner, name, _deadly(getattr(owner, name), count))
    train.fit(small_job(features, folder))


def _deadly(real: Callable[..., Any], count: int) -> Callable[..., Any]:
    calls = 0

    def last(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            if real.__name__ == "save_file":
                Path(args[1]).write_bytes(b"half a checkpoint")
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **options)

    return last


if __name__ == "__main__":
    main()
