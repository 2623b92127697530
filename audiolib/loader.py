"""Clips of one split in memory, and the batches of an epoch in an order that only (seed, epoch) decides."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from audiolib.augment import add_noise, fit_length, mask_bands, mask_frames, mix, roll
from audiolib.batches import Batch, compress, pack
from audiolib.rng import rng
from audiolib.shards import ShardFolder

if TYPE_CHECKING:
    from audiolib.config.training import Augment


@dataclass(frozen=True)
class Clips:
    """One split: log-mel (t, f) float16 of every clip, their targets (clips, c), ids, and the normalisation."""

    mel: list[np.ndarray]
    target: np.ndarray
    ids: list[str]
    mean: float
    std: float

    def __len__(self) -> int:
        return len(self.mel)

    def normalised(self, mel: np.ndarray) -> np.ndarray:
        """(x - mean) / (2 std): mean 0, standard deviation 0.5, as AST has it."""
        return (mel - np.float32(self.mean)) * np.float32(0.5 / self.std)


def read_split(folder: Path, split: str) -> Clips:
    """Read a split of a features folder; every shard is verified."""
    shards = ShardFolder(folder)
    rows = list(shards.rows(split))
    target = np.zeros((len(rows), len(shards.classes)), np.float32)
    for place, row in enumerate(rows):
        target[place, list(row.label)] = 1.0
    ids = [row.id for row in rows]
    return Clips([row.log_mel for row in rows], target, ids, shards.stats["mean"], shards.stats["std"])


@dataclass(frozen=True)
class View:
    """The shape at which clips are shown to a model: length in full-resolution frames, and temporal compression."""

    frames: int
    compression: int = 1
    method: str = "none"


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation that depends on nothing else."""
    return rng(seed, "order", epoch).permutation(count)


def train_batches(
    clips: Clips,
    view: View,
    augment: "Augment",
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """The batches of one epoch from batch `start` on; a last incomplete one is left out.

    The batch of a step is the same set of clips with the same changes for any number of workers: rank r takes every
    `world`-th clip of it, beginning with the r-th.
    """
    order = epoch_order(len(clips), seed, epoch)
    for step in range(start, steps_per_epoch(len(clips), batch_size)):
        chosen = order[step * batch_size : (step + 1) * batch_size][rank::world]
        pairs = [_changed(clips, int(i), view, augment, seed, epoch) for i in chosen]
        yield _batch(np.stack([mel for mel, _ in pairs]), np.stack([target for _, target in pairs]), view)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Complete batches of an epoch, at least one."""
    return max(1, count // batch_size)


def eval_batches(clips: Clips, view: View, batch_frames: int) -> Iterator[Batch]:
    """All clips in order, each cut or padded at its end to the view's length, about `batch_frames` frames at a time."""
    size = max(1, batch_frames // view.frames)
    for first in range(0, len(clips), size):
        chosen = clips.mel[first : first + size]
        mel = np.stack([fit_length(clips.normalised(m.astype(np.float32)), view.frames) for m in chosen])
        yield _batch(mel, clips.target[first : first + size], view)


def _batch(mel: np.ndarray, target: np.ndarray, view: View) -> Batch:
    coarse = compress(torch.from_numpy(mel), view.compression, view.method)
    stretch = 1.0 if view.method == "patchify" else float(view.compression)
    return pack(list(coarse), torch.from_numpy(target), [stretch] * len(coarse))


def _changed(
    clips: Clips, index: int, view: View, augment: "Augment", seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """One clip as this epoch sees it: cut, mixed, normalised, masked, shifted, made noisy."""
    random = rng(seed, "clip", epoch, zlib.crc32(clips.ids[index].encode()))
    mel = fit_length(clips.mel[index].astype(np.float32), view.frames, random, fill=clips.mean)
    target = clips.target[index]
    if augment.mixup and random.uniform() < augment.mixup:
        second = int(random.integers(len(clips)))
        share = float(random.beta(10, 10))
        other = fit_length(clips.mel[second].astype(np.float32), view.frames, random, fill=clips.mean)
        mel = mix(mel, other, share)
        target = share * target + (1 - share) * clips.target[second]
    mel = clips.normalised(mel)
    if augment.freq_mask:
        mel = mask_bands(mel, augment.freq_mask, random)
    if augment.time_mask:
        mel = mask_frames(mel, augment.time_mask, random)
    if augment.roll:
        mel = roll(mel, augment.roll, random)
    if augment.noise:
        mel = add_noise(mel, augment.noise, random)
    return mel, target.astype(np.float32)
