"""Resumable training state: hashed files, written atomically, the newest valid one wins."""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, digest, disk_errors, read_sealed, sha256_file, write_sealed
from audiolib.progress import say


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

    def save(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Write the state after `step` steps; its description comes last, so that half a checkpoint is none."""
        path = self.folder / f"step-{step:09d}.safetensors"
        with atomic_path(path) as temporary:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        entry = {"sha256": sha256_file(path), "fingerprint": self.fingerprint, "state": state}
        write_sealed(path.with_suffix(".json"), entry)
        for old in self._newest_first()[self.keep :]:
            with disk_errors(old):
                old.unlink()
                old.with_suffix(".safetensors").unlink(missing_ok=True)

    def newest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and state of the newest checkpoint whose bytes are those written, or null."""
        for entry_path in self._newest_first():
            path = entry_path.with_suffix(".safetensors")
            try:
                entry = read_sealed(entry_path)
                if sha256_file(path) == entry["sha256"] and entry["fingerprint"] == self.fingerprint:
                    return load_file(path), entry["state"]
                reason = "its sha256 is not the one recorded"
            except (AudiolibError, SafetensorError, OSError, KeyError, TypeError) as error:
                reason = str(error)
            say(f"warning: checkpoint {path} is damaged ({reason}); falling back to the one before")
        return None

    def others(self) -> str | None:
        """Of the newest unfinished run of the same stage, if it is another one: what it differs in, for a message."""
        entries = sorted(self.folder.parent.glob("*/step-*.json"), key=lambda path: path.stat().st_mtime)
        for path in reversed(entries):
            with suppress(AudiolibError, KeyError, TypeError):
                theirs = read_sealed(path)["fingerprint"]
                keys = [key for key in {**theirs, **self.fingerprint} if theirs.get(key) != self.fingerprint.get(key)]
                return ", ".join(keys) or None
        return None

    def clear(self) -> None:
        """Remove the checkpoints of a run whose result is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.json"), reverse=True)


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
