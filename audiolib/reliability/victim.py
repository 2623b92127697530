"""A training that something happens to at a chosen place.

`python -m audiolib.reliability.victim FEATURES FOLDER HARM PLACE COUNT`, or only the first two for one without harm.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from audiolib import checkpoint, train
from audiolib.errors import run_main
from audiolib.launch import run
from audiolib.reliability.material import small_job

# Where the COUNT-th call of what is struck: the owner of a name, and the name.
PLACES: dict[str, tuple[Any, str]] = {
    "before a step": (train.Trainer, "_step"),
    "inside an accumulation window": (train.Trainer, "_loss"),
    "at the hand-over of phases": (train, "make_optimizer"),
    "in validation": (train, "shared_scores"),
    "while a checkpoint's tensors are written": (checkpoint, "save_file"),
    "before a checkpoint's description": (checkpoint, "write_sealed"),
    "while old checkpoints are removed": (checkpoint.Checkpoints, "_newest_first"),
}
FILLER = "filler"


def main() -> None:
    """Train; with a harm, do it to this process or its folder at the place."""
    features, folder, harm = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    torch.set_num_threads(1)
    train._CHECK_EVERY = 1  # A checkpoint may follow every step.
    checkpoint.Checkpoints.clear = lambda self: None  # What is left at the end is compared, moments and all.
    if harm:
        owner, name = PLACES[harm[1]]
        setattr(owner, name, _struck(getattr(owner, name), int(harm[2]), HARMS[harm[0]], folder))
    if harm[:1] == ["clock"]:
        time.time = _backwards(time.time)
    run(small_job(features, folder))


def _struck(real: Callable[..., Any], count: int, harm: Callable[[Path], None], folder: Path) -> Callable[..., Any]:
    calls = 0

    def last(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            if real.__name__ == "save_file":
                Path(args[1]).write_bytes(b"half a checkpoint")
            harm(folder)
        return real(*args, **options)

    return last


def _kill(folder: Path) -> None:
    del folder
    os.kill(os.getpid(), signal.SIGKILL)


def _fill(folder: Path) -> None:
    """Leave no byte free on the disk of `folder`."""
    with (folder / FILLER).open("wb", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    handle.write(bytes(size))
            except OSError:
                continue


def _read_only(folder: Path) -> None:
    # A mount over it, since the disk itself has a file open: the lock.
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)


def _forbid(folder: Path) -> None:
    for place in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        place.chmod(0o500)


HARMS = {"kill": _kill, "clock": _kill, "full": _fill, "read-only": _read_only, "forbidden": _forbid}


def _backwards(real: Callable[[], float]) -> Callable[[], float]:
    """A clock that an hour is taken from whenever it is read."""
    reads = 0

    def earlier() -> float:
        nonlocal reads
        reads += 1
        return real() - 3600 * reads

    return earlier


if __name__ == "__main__":
    run_main(main)
