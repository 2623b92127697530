"""Clips of one split in memory, and the batches of an epoch in an order that only (seed, epoch) decides."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from audiolib.augment import add_noise, fit_length, mask_bands, mask_frames, mix, roll
from audiolib.batches import Batch, pack, pooled
from audiolib.rng import rng
from audiolib.shards import ShardFolder

if TYPE_CHECKING:
    from audiolib.config.training import Augment


@dataclass(frozen=True)
class Clips:
    """One split of a features folder, in memory.

    Attributes:
        mel: (t, f) float16 log-mel of every clip.
        target: (clips, c).
        ids: of the clips.
        mean: of the training split's log-mel; `std` likewise.
        frontend: the settings that the log-mel was made with.
        wave: (l,) int16 sound of every clip, when asked for.
    """

    mel: list[np.ndarray]
    target: np.ndarray
    ids: list[str]
    mean: float
    std: float
    frontend: dict[str, Any]
    wave: list[np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.mel)

    def normalised(self, mel: np.ndarray) -> np.ndarray:
        """(x - mean) / (2 std): mean 0, standard deviation 0.5, as AST has it."""
        return (mel - np.float32(self.mean)) * np.float32(0.5 / self.std)

    def log_mel(self, index: int, hop: float = 1.0) -> np.ndarray:
        """(t, f) float32 log-mel of a clip at `hop` times the stored hop, with an unchanged window.

        A whole multiple visits exactly every so-many-th stored frame; any other is computed from the sound.
        """
        if hop == int(hop):
            return self.mel[index][:: int(hop)].astype(np.float32)
        if self.wave is None:
            raise ValueError(f"a hop of {hop:g} stored hops needs the sound, which was not read")
        from audiolib.frontend import Frontend, from_int16, log_mel

        settings = Frontend(**{**self.frontend, "hop_ms": self.frontend["hop_ms"] * hop})
        return log_mel(from_int16(self.wave[index]), settings)


def read_split(folder: Path, split: str, waveform: bool = False) -> Clips:
    """Read a split of a features folder, with its sound if asked for; every shard is verified."""
    shards = ShardFolder(folder)
    rows = list(shards.rows(split, waveform))
    target = np.zeros((len(rows), len(shards.classes)), np.float32)
    for place, row in enumerate(rows):
        target[place, list(row.label)] = 1.0
    ids = [row.id for row in rows]
    waves = [row.wave for row in rows if row.wave is not None] if waveform else None
    stats = shards.stats
    return Clips([row.log_mel for row in rows], target, ids, stats["mean"], stats["std"], shards.frontend, waves)


@dataclass(frozen=True)
class View:
    """The shape at which clips are shown to a model: length in full-resolution frames, and temporal compression.

    The methods are those of papers.md 3.1. `frame_shift` takes frames at a longer hop, `avg_pool` and `max_pool` make
    one frame of several, `patchify` leaves the frames and makes the patches wider (`phases.phase_patch`).
    """

    frames: int
    compression: float = 1.0
    method: str = "none"

    @property
    def hop(self) -> float:
        """Hop of the log-mel that is fetched, in stored hops."""
        return self.compression if self.method == "frame_shift" else 1.0

    @property
    def pool(self) -> int:
        """Fetched frames that become one."""
        return int(self.compression) if self.method in ("avg_pool", "max_pool") else 1

    @property
    def fetched(self) -> int:
        """Frames of a clip as fetched."""
        return math.ceil(self.frames / self.hop)

    @property
    def seen(self) -> int:
        """Frames of a clip as the model sees it."""
        return math.ceil(self.fetched / self.pool)

    @property
    def needs_sound(self) -> bool:
        """Whether stored log-mel is not enough."""
        return self.hop != int(self.hop)


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
        chosen = range(first, min(first + size, len(clips)))
        mel = np.stack([fit_length(clips.normalised(clips.log_mel(i, view.hop)), view.fetched) for i in chosen])
        yield _batch(mel, clips.target[first : first + size], view)


def _batch(mel: np.ndarray, target: np.ndarray, view: View) -> Batch:
    coarse = pooled(torch.from_numpy(mel), view.pool, view.method)
    return pack(list(coarse), torch.from_numpy(target), [view.hop * view.pool] * len(coarse))


def _changed(
    clips: Clips, index: int, view: View, augment: "Augment", seed: int, epoch: int
) -> tuple[np.ndarray, np.ndarray]:
    """One clip as this epoch sees it: cut, mixed, normalised, masked, shifted, made noisy.

    Widths in frames are divided by the hop, so that they last equally long at every time resolution.
    """
    random = rng(seed, "clip", epoch, zlib.crc32(clips.ids[index].encode()))
    mel = fit_length(clips.log_mel(index, view.hop), view.fetched, random, fill=clips.mean)
    target = clips.target[index]
    if augment.mixup and random.uniform() < augment.mixup:
        second = int(random.integers(len(clips)))
        share = float(random.beta(10, 10))
        other = fit_length(clips.log_mel(second, view.hop), view.fetched, random, fill=clips.mean)
        mel = mix(mel, other, share)
        target = share * target + (1 - share) * clips.target[second]
    mel = clips.normalised(mel)
    if augment.freq_mask:
        mel = mask_bands(mel, augment.freq_mask, random)
    if augment.time_mask:
        mel = mask_frames(mel, round(augment.time_mask / view.hop), random)
    if augment.roll:
        mel = roll(mel, round(augment.roll / view.hop), random)
    if augment.noise:
        mel = add_noise(mel, augment.noise, random)
    return mel, target.astype(np.float32)
