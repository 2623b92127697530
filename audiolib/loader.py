"""Clips of one split in memory, and the steps of an epoch in an order that only (seed, epoch) decides."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from audiolib.augment import add_noise, fit_length, mask_bands, mask_frames, mix, roll, trim
from audiolib.batches import Batch, pack, pooled
from audiolib.packing import at_least, best_fit, deal, next_fit
from audiolib.rng import rng
from audiolib.shards import ShardFolder
from audiolib.views import View

if TYPE_CHECKING:
    from audiolib.config.training import Augment, Packing


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


Item = tuple[int, View]  # a clip's place in its split, and how it is shown
Step = list[list[Item]]  # the clips of every worker


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: a permutation that depends on nothing else."""
    return rng(seed, "order", epoch).permutation(count)


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Complete batches of an epoch, at least one."""
    return max(1, count // batch_size)


def equal_steps(count: int, view: View, batch_size: int, seed: int, epoch: int, world: int = 1) -> list[Step]:
    """The steps of an epoch with a fixed number of clips each; a last incomplete one is left out.

    A step has the same clips for any number of workers: the r-th takes every `world`-th, beginning with the r-th.
    """
    order = epoch_order(count, seed, epoch).tolist()
    starts = range(0, steps_per_epoch(count, batch_size) * batch_size, batch_size)
    chosen = [[(index, view) for index in order[start : start + batch_size]] for start in starts]
    return [[step[rank::world] for rank in range(world)] for step in chosen]


def packed_steps(
    views: list[View], tokens: list[int], packing: "Packing", seed: int, epoch: int, world: int = 1
) -> list[Step]:
    """The steps of an epoch in packs of a token budget: every clip once, the same clips a step for any `world`.

    Args:
        views: of every clip.
        tokens: of every clip as it is shown.
        packing: budget and packer.
        seed: with `epoch` it alone decides the order.
        world: workers that share each pack.
    """
    order = epoch_order(len(views), seed, epoch).tolist()
    sizes = [tokens[index] for index in order]
    if packing.packer == "best_fit":
        packs = best_fit(sizes, packing.tokens, packing.window)
    else:
        packs = next_fit(sizes, packing.tokens)
    packs = at_least(packs, world)
    mixed = rng(seed, "packs", epoch).permutation(len(packs)).tolist()
    # Clips of equal token counts lie side by side: attention takes them in one call.
    return [
        [
            [(order[place], views[order[place]]) for place in sorted(share, key=lambda p: sizes[p])]
            for share in deal(packs[number], sizes, world)
        ]
        for number in mixed
    ]


@dataclass(frozen=True)
class Epoch(Dataset):
    """The training batches of one epoch, each made when it is asked for, in any process.

    Attributes:
        clips: the split.
        augment: what is done to them; its widths are for clips of `home` frames and shrink with shorter ones.
        home: stored frames.
        seed: with `number`, the epoch's, it decides all that is random.
        steps: for each step the clips of every worker.
        rank: whose share of them is made.
    """

    clips: Clips
    augment: "Augment"
    home: int
    seed: int
    number: int
    steps: list[Step]
    rank: int = 0

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, step: int) -> Batch:
        shares = self.steps[step]
        own = shares[self.rank]
        mels, targets, draws = zip(*(self._changed(index, view) for index, view in own), strict=True)
        weight = len(own) * len(shares) / sum(map(len, shares))
        return _batch(list(mels), np.stack(targets), [view for _, view in own], draws, weight)

    def _changed(self, index: int, view: View) -> tuple[np.ndarray, np.ndarray, int]:
        """One clip as this epoch sees it: cut, mixed, normalised, masked, shifted, made noisy; its target; its draw."""
        clips, augment = self.clips, self.augment
        random = rng(self.seed, "clip", self.number, zlib.crc32(clips.ids[index].encode()))
        mel = view.fit(clips.log_mel(index, view.hop), random, clips.mean)
        target = clips.target[index]
        if augment.mixup and random.uniform() < augment.mixup:
            second = int(random.integers(len(clips)))
            share = float(random.beta(10, 10))
            other = fit_length(clips.log_mel(second, view.hop), len(mel), random, fill=clips.mean)
            mel = mix(mel, other, share)
            target = share * target + (1 - share) * clips.target[second]
        mel = clips.normalised(mel)
        # In seconds at every resolution, and no larger a part of a short clip than of a long one.
        scale = min(1.0, view.frames / self.home) / view.hop
        if augment.freq_mask:
            mel = mask_bands(mel, augment.freq_mask, random)
        if augment.time_mask:
            mel = mask_frames(mel, round(augment.time_mask * scale), random)
        if augment.roll:
            move = roll if view.padded else trim
            mel = move(mel, round(augment.roll * scale), random)
        if augment.noise:
            mel = add_noise(mel, augment.noise, random)
        return mel, target.astype(np.float32), int(random.integers(2**63))


def batches(epoch: Epoch, start: int = 0, processes: int = 0) -> Iterator[Batch]:
    """The batches from step `start` on, made ahead by `processes` of their own, or in this one."""
    ahead = {"multiprocessing_context": "fork", "prefetch_factor": 4} if processes else {}
    pin = torch.cuda.is_available()
    return iter(
        DataLoader(
            epoch, batch_size=None, sampler=range(start, len(epoch)), num_workers=processes, pin_memory=pin, **ahead
        )
    )


def eval_batches(clips: Clips, view: View, batch_frames: int) -> Iterator[Batch]:
    """All clips in order, cut at their end to the view, about `batch_frames` stored frames at a time."""
    chosen: list[int] = []
    total = 0
    for index in range(len(clips)):
        frames = view.frames if view.padded else min(view.frames, len(clips.mel[index]))
        if chosen and total + frames > batch_frames:
            yield _eval_batch(clips, view, chosen)
            chosen, total = [], 0
        chosen.append(index)
        total += frames
    yield _eval_batch(clips, view, chosen)


def _eval_batch(clips: Clips, view: View, chosen: list[int]) -> Batch:
    mels = [view.fit(clips.normalised(clips.log_mel(index, view.hop))) for index in chosen]
    return _batch(mels, clips.target[chosen], [view] * len(chosen))


def _batch(
    mels: list[np.ndarray],
    targets: np.ndarray,
    views: list[View],
    draws: tuple[int, ...] = (),
    weight: float = 1.0,
) -> Batch:
    shown = [
        pooled(torch.from_numpy(mel)[None], view.pool, view.pooling)[0] for mel, view in zip(mels, views, strict=True)
    ]
    return pack(shown, torch.from_numpy(targets), [view.stretch for view in views], draws, weight)
