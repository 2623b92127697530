"""Resumable training state: hashed files, written atomically, the newest valid one wins."""

import json
import math
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, digest, disk_errors, read_sealed, sha256_file, write_sealed
from audiolib.progress import say


class Found(NamedTuple):
    """A checkpoint as it was saved."""

    name: str
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class Checkpoints:
    """The checkpoints of one training run.

    Args:
        root: the folder for all runs; a run's own folder in it is named by its fingerprint.
        fingerprint: everything that decides the run's result. Another recipe, corpus or code is another run and never
            finds these files.
        keep: how many of the newest stay; one that is damaged falls back to the one before.
    """

    def __init__(self, root: Path, fingerprint: dict[str, Any], keep: int = 2) -> None:
        self.folder, self.keep = root / digest(fingerprint), keep
        # As it comes back from a file: a tuple there is a list.
        self.fingerprint = json.loads(json.dumps(fingerprint))

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any], ends: int = 0) -> None:
        """Write the state after `step` steps; its description comes last, so that half a checkpoint is none.

        `ends` counts the epochs and phases that have ended: several states follow the same step, and one that took the
        name of another would for a moment stand beside the other's description.
        """
        path = self.folder / f"step-{step:09d}-{ends:05d}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        entry = {"sha256": sha256_file(path), "fingerprint": self.fingerprint, "state": state}
        write_sealed(path.with_suffix(".json"), entry)
        kept = self._newest_first()
        # Newer ones are those that were passed over when the run continued from an older one.
        place = kept.index(path.with_suffix(".json"))
        for old in kept[:place] + kept[place + self.keep :]:
            with disk_errors(old):
                old.unlink()
                old.with_suffix(".safetensors").unlink(missing_ok=True)

    def newest(self) -> Found | None:
        """The newest checkpoint whose bytes are those written, or null."""
        for entry_path in self._newest_first():
            try:
                return self.read(entry_path.stem)
            except AudiolibError as error:
                say(f"warning: {error}; falling back to the one before")
        return None

    def agreed(self) -> Found | None:
        """The newest one of the first worker, for all workers: they must not continue from different steps.

        Raises:
            AudiolibError: this worker does not have it.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return self.newest()
        first = distributed.get_rank() == 0
        found = self.newest() if first else None
        names = [found and found.name]
        distributed.broadcast_object_list(names)
        if first or names[0] is None:
            return found
        try:
            return self.read(names[0])
        except AudiolibError as error:
            raise AudiolibError(
                f"{error}; the first worker has it whole: all need the same folder of checkpoints"
            ) from error

    def read(self, name: str) -> Found:
        """A checkpoint by its name.

        Raises:
            AudiolibError: it is missing, or its bytes are not those written.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            entry = read_sealed(path.with_suffix(".json"))
            if sha256_file(path) == entry["sha256"] and entry["fingerprint"] == self.fingerprint:
                return Found(name, load_file(path), entry["state"])
            reason = "its sha256 is not the one recorded"
        except (AudiolibError, SafetensorError, OSError, KeyError, TypeError) as error:
            reason = str(error)
        raise AudiolibError(f"checkpoint {path} is damaged ({reason})")

    def others(self) -> str | None:
        """Of the newest unfinished run of the same stage, if it is another one: what it differs in, for a message."""
        for path in sorted(self.folder.parent.glob("*/step-*.json"), key=_age):
            with suppress(AudiolibError, KeyError, TypeError):
                theirs = read_sealed(path)["fingerprint"]
                keys = [key for key in {**theirs, **self.fingerprint} if theirs.get(key) != self.fingerprint.get(key)]
                return ", ".join(keys) or None
        return None

    def newest_age(self) -> float | None:
        """Smaller for newer ones; null where there is none."""
        return min(map(_age, self.folder.glob("step-*.json")), default=None)

    def clear(self) -> None:
        """Remove the checkpoints of a run whose result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)


def _age(path: Path) -> float:
    """Seconds, from some beginning, since a file was written; of one that its owner has just removed endless."""
    try:
        return -path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimiser's moments by name."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{key}": value for number, entry in state.items() for key, value in entry.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a slash, without it."""
    return {
        name.removeprefix(prefix + "/"): tensor for name, tensor in tensors.items() if name.startswith(prefix + "/")
    }
