"""Logits of many clips at one shape, and the device and cores to compute them on."""

import os

import numpy as np
import torch
from torch import distributed

from audiolib.dataset import Clips
from audiolib.errors import AudiolibError
from audiolib.loader import eval_batches
from audiolib.models import Classifier
from audiolib.views import View

BATCH_FRAMES = 8192


def shared_scores(
    model: Classifier,
    clips: Clips,
    view: View,
    patch: tuple[int, int],
    device: torch.device,
    *,
    bf16: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits and targets (clips, c) of a whole split at one shape; each training worker computes a run of the clips."""
    parallel = distributed.is_available() and distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if parallel else (0, 1)
    own = range(len(clips) * rank // world, len(clips) * (rank + 1) // world)
    model.eval()
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        made = eval_batches(clips, view, BATCH_FRAMES, own)
        logits = [model(batch.to(device), patch).float().cpu() for batch in made]
    parts = [torch.cat(logits) if logits else torch.zeros(0, clips.classes)]
    if parallel:
        gathered: list[torch.Tensor | None] = [None] * world
        distributed.all_gather_object(gathered, parts[0])
        parts = [part for part in gathered if part is not None]
    return torch.cat(parts).numpy(), clips.target


def pick_device(name: str) -> torch.device:
    """`auto` is this worker's GPU where there is one.

    Raises:
        AudiolibError: `cuda` is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise AudiolibError("torch finds no CUDA device; set the device (train.device, or --device) to auto or cpu")
    return torch.device(name)


def own_cores() -> int:
    """Cores for this process: of this machine, shared by the training workers on it, whom Ray and torchrun count."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
