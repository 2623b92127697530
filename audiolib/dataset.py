"""The clips of one split: what is known of all of them, and the log-mel and sound of any one.

A split that fits into the memory it may have is read once and held. A larger one stays on disk and is read by row
group, the groups used last being held; with the order of `order.py` each is read once an epoch.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from audiolib.shards import ROWS_PER_GROUP, ShardFolder

MEMORY_MIB = 2048
_NO_SOUND = "a hop that is no multiple of the stored one needs the sound, which was not read"


class Held(Protocol):
    """Where log-mel and sound come from.

    Attributes:
        limit: bytes that they take in memory, or may take; log-mel that is kept at other hops comes on top.
    """

    limit: int

    def mel(self, index: int) -> np.ndarray:
        """(t, f) float16."""

    def at_hop(self, index: int, hop: float, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """(t, f) float32 log-mel at another hop, which `compute` makes of a clip's int16 sound."""


@dataclass(frozen=True)
class Clips:
    """One split of a features folder.

    Attributes:
        frames: (clips,) stored frames of each.
        labels: class numbers of all clips end to end; those of a clip lie between two of `label_ends`.
        label_ends: (clips + 1,).
        names: ids.
        keys: (clips,) a number made of each id.
        classes: how many there are.
        mean: of the training split's log-mel; `std` likewise.
        frontend: the settings that the log-mel was made with.
        held: the log-mel, and the sound when asked for.
        groups: (g + 1,) bounds of the runs of clips that are read together.
        window: stored frames that are shuffled at a time; null when all clips are held in memory.
    """

    frames: np.ndarray
    labels: np.ndarray
    label_ends: np.ndarray
    names: Sequence[str]
    keys: np.ndarray
    classes: int
    mean: float
    std: float
    frontend: dict[str, Any]
    held: Held
    groups: np.ndarray
    window: int | None = None

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def ids(self) -> list[str]:
        """Of all clips."""
        return list(self.names)

    @property
    def target(self) -> np.ndarray:
        """(clips, c) of all clips: 1 for each class that one has."""
        return self.targets(np.arange(len(self)))

    def targets(self, chosen: Sequence[int] | np.ndarray) -> np.ndarray:
        """(k, c) float32 of some clips."""
        chosen = np.asarray(chosen, np.int64)
        first = self.label_ends[chosen].astype(np.int64)
        counts = self.label_ends[chosen + 1] - first
        target = np.zeros((len(chosen), self.classes), np.float32)
        rows = np.repeat(np.arange(len(chosen)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        target[rows, self.labels[first[rows] + within]] = 1.0
        return target

    @property
    def power(self) -> int:
        """Of the amplitudes whose logarithm the log-mel is: 2, or 1 for magnitudes (papers.md 4.3)."""
        return 1 if self.frontend.get("kind") == "stft" else 2

    def normalised(self, mel: np.ndarray) -> np.ndarray:
        """(x - mean) / (2 std): mean 0, standard deviation 0.5, as AST has it."""
        return (mel - np.float32(self.mean)) * np.float32(0.5 / self.std)

    def log_mel(self, index: int, hop: float = 1.0) -> np.ndarray:
        """(t, f) float32 log-mel of a clip at `hop` times the stored hop, with an unchanged window.

        A whole multiple visits exactly every so-many-th stored frame; any other is computed from the sound.
        """
        if hop == int(hop):
            return self.held.mel(index)[:: int(hop)].astype(np.float32)
        from audiolib.frontend import Frontend, from_int16, log_mel

        settings = Frontend(**{**self.frontend, "hop_ms": round(self.frontend["hop_ms"] * hop, 6)})
        return self.held.at_hop(index, hop, lambda wave: log_mel(from_int16(wave), settings))


@dataclass
class InMemory:
    """All log-mel, and all sound or none.

    Attributes:
        spare: bytes that log-mel at other hops may yet take: of clips that are asked for again and again it is kept.
        others: what was kept, by clip and hop.
    """

    mels: list[np.ndarray]
    waves: list[np.ndarray] | None = None
    spare: int = 0
    others: dict[tuple[int, float], np.ndarray] = field(default_factory=dict)

    @property
    def limit(self) -> int:
        """See `Held`."""
        return sum(array.nbytes for array in [*self.mels, *(self.waves or [])])

    def mel(self, index: int) -> np.ndarray:
        """See `Held`."""
        return self.mels[index]

    def at_hop(self, index: int, hop: float, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """See `Held`."""
        if (index, hop) in self.others:
            return self.others[index, hop]
        if self.waves is None:
            raise ValueError(_NO_SOUND)
        made = compute(self.waves[index])
        if made.nbytes <= self.spare:
            self.spare -= made.nbytes
            made.setflags(write=False)
            self.others[index, hop] = made
        return made


class OnDisk:
    """Row groups of shards, those used last held up to a limit; each process that uses it holds its own.

    Args:
        shards: the folder.
        split: whose clips.
        waveform: whether sound is read, too.
        limit: bytes of log-mel and sound to hold.
    """

    def __init__(self, shards: ShardFolder, split: str, waveform: bool, limit: int) -> None:
        self.shards, self.waveform, self.limit = shards, waveform, limit
        self.files = [shard for shard in shards.shards if shard.split == split]
        self.firsts = np.cumsum([0, *(shard.clips for shard in self.files)])
        self.groups: OrderedDict[tuple[int, int], tuple[list[np.ndarray], list[np.ndarray]]] = OrderedDict()
        self.bytes = 0

    def mel(self, index: int) -> np.ndarray:
        """See `Held`."""
        (mels, _), place = self._group(index)
        return mels[place]

    def at_hop(self, index: int, hop: float, compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """See `Held`."""
        (_, waves), place = self._group(index)
        if not waves:
            raise ValueError(_NO_SOUND)
        return compute(waves[place])

    def _group(self, index: int) -> tuple[tuple[list[np.ndarray], list[np.ndarray]], int]:
        file = int(np.searchsorted(self.firsts, index, side="right")) - 1
        number, place = divmod(index - int(self.firsts[file]), ROWS_PER_GROUP)
        if (file, number) not in self.groups:
            found = self.shards.group(self.files[file], number, self.waveform)
            self.groups[file, number] = found
            self.bytes += _size(found)
            while self.bytes > self.limit and len(self.groups) > 1:
                self.bytes -= _size(self.groups.popitem(last=False)[1])
        self.groups.move_to_end((file, number))
        return self.groups[file, number], place


def _size(group: tuple[list[np.ndarray], list[np.ndarray]]) -> int:
    return sum(array.nbytes for arrays in group for array in arrays)


def read_split(folder: Path, split: str, waveform: bool = False, memory_mib: int = MEMORY_MIB) -> Clips:
    """The clips of a split of a features folder, with their sound if asked for; every shard is verified when read.

    Args:
        folder: what the feature stage left.
        split: of `corpora.clips.SPLITS`.
        waveform: whether sound is needed.
        memory_mib: what log-mel and sound may take in memory; what takes more stays on disk.
    """
    shards = ShardFolder(folder)
    facts = shards.facts(split, waveform)
    limit = memory_mib * 2**20
    bytes_per_frame = shards.bytes_per_frame(waveform)
    held: Held
    if int(facts.frames.sum() * bytes_per_frame) <= limit:
        window = None
        rows = list(shards.rows(split, waveform))
        waves = [row.wave for row in rows if row.wave is not None] or None
        held = InMemory([row.log_mel for row in rows], waves)
    else:
        held = OnDisk(shards, split, waveform, limit)
        window = int(limit / 2 / bytes_per_frame)  # A step at the border of two windows needs both.
    return Clips(
        frames=facts.frames,
        labels=facts.labels,
        label_ends=facts.label_ends,
        names=facts.names,
        keys=facts.keys,
        classes=len(shards.classes),
        mean=shards.stats["mean"],
        std=shards.stats["std"],
        frontend=shards.frontend,
        held=held,
        groups=facts.groups,
        window=window,
    )


def read_training(folder: Path, waveform: bool, memory_mib: int) -> tuple[Clips, Clips]:
    """The splits `train` and `valid`; what memory both leave keeps log-mel of the first at other hops.

    Its clips are asked for again and again.

    Args:
        folder: see `read_split`, also for the others.
        waveform: whether sound is needed.
        memory_mib: for each of both, and for the first with what it keeps.
    """
    train, valid = (read_split(folder, split, waveform, memory_mib) for split in ("train", "valid"))
    if isinstance(train.held, InMemory):
        train.held.spare = max(0, memory_mib * 2**20 - train.held.limit - valid.held.limit)
    return train, valid
