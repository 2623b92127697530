"""The steps of an epoch, planned before it begins, and the batches made of them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from audiolib.augment import Random, add_noise, fit_length, mask_bands, mask_frames, mix, roll, trim
from audiolib.batches import Batch, pack, pooled
from audiolib.dataset import Clips, InMemory
from audiolib.order import Order
from audiolib.packing import best_fit, deal, next_fit
from audiolib.rng import rng
from audiolib.views import View

if TYPE_CHECKING:
    from audiolib.config.training import Augment, Packing


Item = tuple[int, View]  # a clip's place in its split, and how it is shown
Step = list[list[Item]]  # the clips of every worker


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Complete batches of an epoch, at least one."""
    return max(1, count // batch_size)


class EqualSteps(Sequence[Step]):
    """The steps of an epoch with a fixed number of clips each; a last incomplete one is left out.

    A step has the same clips for any number of workers: the r-th takes every `world`-th, beginning with the r-th.

    Args:
        order: places of clips.
        view: how all are shown.
        batch_size: clips of a step.
        world: workers.
    """

    def __init__(self, order: np.ndarray, view: View, batch_size: int, world: int = 1) -> None:
        self.order, self.view, self.batch_size, self.world = order, view, batch_size, world

    def __len__(self) -> int:
        return steps_per_epoch(len(self.order), self.batch_size)

    def __getitem__(self, step: int) -> Step:
        if not 0 <= step < len(self):
            raise IndexError(step)
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size].tolist()
        return [[(index, self.view) for index in chosen[rank :: self.world]] for rank in range(self.world)]


def packed_steps(
    order: np.ndarray, views: list[View], tokens: list[int], packing: "Packing", mixing: Random, world: int = 1
) -> list[Step]:
    """The steps of an epoch in packs of a token budget: every clip once, the same clips a step for any `world`.

    Args:
        order: places of clips.
        views: of every clip.
        tokens: of every clip as it is shown.
        packing: budget and packer.
        mixing: the packer goes from large clips to small ones; this decides the order of its packs, 256 at a time, so
            that what is read from disk stays close together.
        world: workers that share each pack.
    """
    places = order.tolist()
    sizes = [tokens[index] for index in places]
    if packing.packer == "best_fit":
        packs = best_fit(sizes, packing.tokens, packing.window)
    else:
        packs = next_fit(sizes, packing.tokens)
    starts = range(0, len(packs), 256)
    mixed = [start + place for start in starts for place in mixing.permutation(min(256, len(packs) - start)).tolist()]
    # Clips of equal token counts lie side by side: attention takes them in one call.
    return [
        [
            [(places[place], views[places[place]]) for place in sorted(share, key=lambda p: sizes[p])]
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
        order: what they were made of.
        rank: whose share of them is made.
        parts: batches that a share is made of: the steps are planned for that many times the workers.
        repeats: whether a clip may come several times: each time it is changed in another way.
    """

    clips: Clips
    augment: "Augment"
    home: int
    seed: int
    number: int
    steps: Sequence[Step]
    order: Order
    rank: int = 0
    parts: int = 1
    repeats: bool = False

    def __len__(self) -> int:
        return len(self.steps) * self.parts

    def __getitem__(self, number: int) -> Batch:
        step, part = divmod(number, self.parts)
        shares, mine = self.steps[step], self.rank * self.parts + part
        # A worker without a clip of a small pack takes one that counts for nothing: all take part in every step.
        own = shares[mine] or max(shares, key=len)[:1]
        times = Counter(index for share in shares[:mine] for index, _ in share) if self.repeats else Counter[int]()
        changed = []
        for index, view in own:
            changed.append(self._changed(index, view, (step, times[index]) if self.repeats else ()))
            times[index] += 1
        mels, targets, draws = zip(*changed, strict=True)
        weight = len(shares[mine]) * len(shares) / sum(map(len, shares))
        return shown(list(mels), np.stack(targets), [view for _, view in own], draws, weight)

    def _changed(self, index: int, view: View, again: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, int]:
        """One clip as this epoch sees it: cut, mixed, normalised, masked, shifted, made noisy; its target; its draw.

        `again` says which of its times in the epoch this is.
        """
        clips, augment = self.clips, self.augment
        random = rng(self.seed, "clip", self.number, int(clips.keys[index]), *again)
        sound = clips.log_mel(index, view.hop)
        mel = view.fit(sound, random, clips.mean)
        target = clips.targets([index])[0]
        if augment.mixup and random.uniform() < augment.mixup:
            second = self._partner(index, random)
            share = float(random.beta(10, 10))
            other = clips.log_mel(second, view.hop)
            mel = mix(mel, fit_length(other, len(mel), random, fill=clips.mean), share, clips.power)
            mel[max(len(sound), len(other)) :] = clips.mean  # Where both are padding, so is their sum.
            target = share * target + (1 - share) * clips.targets([second])[0]
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

    def _partner(self, index: int, random: Random) -> int:
        """Any clip to be mixed with one; of a split that lies on disk, any that is near."""
        group = int(np.searchsorted(self.clips.groups, index, side="right")) - 1
        near = self.order.partners(group)
        return int(random.integers(len(self.clips))) if near is None else int(near[random.integers(len(near))])


def batches(epoch: Epoch, start: int = 0, processes: int = 0) -> Iterator[Batch]:
    """The batches from step `start` on, `epoch.parts` a step, made ahead by `processes` or in this one."""
    ahead = {"multiprocessing_context": "fork", "prefetch_factor": 4, "worker_init_fn": _forget} if processes else {}
    pin = torch.cuda.is_available()
    return iter(
        DataLoader(
            epoch,
            batch_size=None,
            sampler=range(start * epoch.parts, len(epoch)),
            num_workers=processes,
            pin_memory=pin,
            **ahead,
        )
    )


def _forget(_worker: int) -> None:
    """A process that ends with the epoch will not be asked again: what it kept would be memory for nothing."""
    info = get_worker_info()
    if info is not None and isinstance(held := info.dataset.clips.held, InMemory):
        held.spare = 0


def steps(epoch: Epoch, start: int = 0, processes: int = 0) -> Iterator[list[Batch]]:
    """The same, a list of the parts of each step."""
    made = batches(epoch, start, processes)
    while step := list(islice(made, epoch.parts)):
        yield step


def eval_batches(
    clips: Clips, view: View, batch_frames: int, own: Sequence[int] | None = None, mels: list[np.ndarray] | None = None
) -> Iterator[Batch]:
    """All clips (or `own`) in order, cut at their end to the view, about `batch_frames` stored frames at a time.

    `mels` are the normalised log-mel of these clips at the view's hop, where somebody has them already.
    """
    places = own if own is not None else range(len(clips))
    chosen: list[int] = []
    made = total = 0

    def batch() -> Batch:
        if mels is None:
            found = [clips.normalised(clips.log_mel(index, view.hop)) for index in chosen]
        else:
            found = mels[made : made + len(chosen)]
        return shown([view.fit(mel) for mel in found], clips.targets(chosen), [view] * len(chosen))

    for index in places:
        frames = view.frames if view.padded else min(view.frames, int(clips.frames[index]))
        if chosen and total + frames > batch_frames:
            yield batch()
            made, chosen, total = made + len(chosen), [], 0
        chosen.append(index)
        total += frames
    if chosen:
        yield batch()


def shown(
    mels: list[np.ndarray],
    targets: np.ndarray | None,
    views: list[View],
    draws: tuple[int, ...] = (),
    weight: float = 1.0,
) -> Batch:
    """Clips of (t, f) fetched frames as a batch: pooled as their views want it, laid end to end."""
    seen = [
        pooled(torch.from_numpy(mel)[None], view.pool, view.pooling)[0] for mel, view in zip(mels, views, strict=True)
    ]
    target = None if targets is None else torch.from_numpy(targets)
    return pack(seen, target, [view.stretch for view in views], draws, weight)
