"""Audio Mamba: a spectrogram classifier without attention, linear in the number of tokens (papers.md 4.1).

Not included: dropout, stochastic depth, rotary positions (all off in the published models).
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.init import trunc_normal_

from audiolib.batches import Batch
from audiolib.errors import check_choice
from audiolib.models.classifier import Classifier
from audiolib.models.mamba import DIRECTIONS, MambaBlock
from audiolib.models.parts import drop_tokens, kept_tokens, segment_mean
from audiolib.models.positions import Size
from audiolib.models.resize import Resize

# Where class tokens stand among a clip's n patches; `double` is averaged, `mean` has none and averages all patches.
PLACES = {"head": (0.0,), "mid": (0.5,), "end": (1.0,), "double": (0.0, 1.0), "mean": ()}


@dataclass(frozen=True)
class MambaConfig:
    """Shape of an Audio Mamba; fields of patches and positions as in `PatchEmbed`.

    `directions` is fo-fo, fo-bi or bi-bi, `class_token` a key of `PLACES`. `order` says which patches of a clip follow
    one another: `frequency` all times of a band, as published, or `time` all bands of a time, as a stream needs it.
    """

    num_classes: int
    width: int
    depth: int
    frames: int = 1024
    mel_bins: int = 128
    patch: Size = (16, 16)
    stride: Size | None = None
    layout: str = "grid"
    positions: str = "stretch"
    border: str = "pad"
    resize: Resize = field(default_factory=Resize)
    directions: str = "fo-bi"
    class_token: str = "mid"
    order: str = "frequency"
    states: int = 16
    token_dropout: float = 0.0
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        for name, allowed in (("directions", DIRECTIONS), ("class_token", PLACES), ("order", ("frequency", "time"))):
            check_choice(name, getattr(self, name), allowed)


class AudioMamba(Classifier):
    """Patches, Mamba blocks, class token, head; `model(batch, patch)` gives the logits of each clip."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__(config)
        d = config.width
        if PLACES[config.class_token]:
            self.prefix = nn.Parameter(torch.empty(len(PLACES[config.class_token]), d))
            self.prefix_positions = nn.Parameter(torch.empty(len(PLACES[config.class_token]), d))
        self.blocks = nn.ModuleList(
            MambaBlock(d, config.states, config.directions, config.norm_eps) for _ in range(config.depth)
        )
        self.norm = nn.RMSNorm(d, eps=config.norm_eps)
        self.head = nn.Linear(d, config.num_classes)

    def init_weights(self, generator: torch.Generator) -> None:
        """All initialisation.

        mixers                    as published, see `Mixer.init_weights`
        positions                 sines and cosines, see `positions.py`
        patch kernel              truncated normal, std 1 / sqrt(inputs)
        class token, head         truncated normal, std 0.02
        biases of patch and head  0;  norms as torch makes them, weight 1
        """
        self.embed.positions.init_weights()
        trunc_normal_(self.embed.weight, std=self.embed.weight[0].numel() ** -0.5, generator=generator)
        small = [self.head.weight] + ([self.prefix, self.prefix_positions] if PLACES[self.config.class_token] else [])
        for parameter in small:
            trunc_normal_(parameter, std=0.02, generator=generator)
        nn.init.zeros_(self.head.bias)
        for block in self.blocks:
            block.mixer.init_weights(self.config.depth, generator)

    def use_kernels(self, *, attention: str, scan: str) -> str:
        """Choose an implementation of `kernels/selective_scan` by name; the other kernels of a model are not used."""
        for block in self.blocks:
            block.mixer.impl = scan
        return f"scan {scan}"

    def embeddings(self, batch: Batch, patch: Size | None = None) -> Tensor:
        """(m, d): what the head sees of each clip, see `Classifier.forward`."""
        config, patch = self.config, patch or self.config.patch
        # Patches and positions
        x, lengths = self.embed(batch.mel, batch.lengths, batch.stretch, patch)
        if config.order == "frequency":
            x = x[_on(frequency_major(lengths, self.embed.count(config.mel_bins, 0, patch)), x)]
        if self.training and config.token_dropout:
            x, lengths = drop_tokens(x, lengths, config.token_dropout, batch.draws)
        # Class token
        places = class_places(lengths, PLACES[config.class_token])
        if len(places):
            x, lengths = insert_tokens(x, self.prefix + self.prefix_positions, places, lengths)
        # Blocks
        x = x.to(self.norm.weight.dtype)  # Float32 under autocast: sums over many blocks lose too much in bfloat16.
        for block in self.blocks:
            x = block(x, lengths)
        x = self.norm(x)
        # Pool
        if not len(places):
            return segment_mean(x, lengths)
        first = np.cumsum([0, *lengths[:-1]])
        return x[_on((first + places).T, x)].mean(1)

    def macs(self, frames: int, patch: Size | None = None) -> int:
        """Multiply-accumulates of one clip's forward pass: matrices, convolutions, scans, patch projection.

        A scan costs three for each channel and state of a token: decay, push, read.
        """
        config, patch = self.config, patch or self.config.patch
        patches = self.tokens(frames, patch)
        seen = kept_tokens(patches, config.token_dropout) if self.training else patches
        n, d = seen + len(PLACES[config.class_token]), config.width
        e, rank, ways = 2 * d, -(-d // 16), 2 if config.directions == "bi-bi" else 1
        scans = 1 if config.directions == "fo-fo" else 2
        way = 4 * e + e * (rank + 2 * config.states) + rank * e
        token = 2 * d * e + ways * way + scans * 3 * e * config.states + e * d
        return config.depth * n * token + patches * patch[0] * patch[1] * d + d * config.num_classes


def frequency_major(lengths: tuple[int, ...], bands: int) -> np.ndarray:
    """(n,) order that turns time-major tokens of clips with `lengths` tokens into frequency-major ones."""
    first = np.cumsum([0, *lengths[:-1]])
    orders = {length: np.arange(length).reshape(-1, bands).T.ravel() for length in set(lengths)}
    return np.concatenate([start + orders[length] for start, length in zip(first, lengths, strict=True)])


def class_places(lengths: tuple[int, ...], shares: tuple[float, ...]) -> np.ndarray:
    """(tokens, m) places of the class tokens in clips that had `lengths` tokens before; `mid` is half, rounded down."""
    return np.array([[int(share * n) + k for n in lengths] for k, share in enumerate(shares)], dtype=np.int64)


def insert_tokens(
    x: Tensor, tokens: Tensor, places: np.ndarray, lengths: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Put the same tokens (k, d) into every clip, the k-th at `places[k]`, counted with the tokens before it."""
    longer = tuple(length + len(tokens) for length in lengths)
    first = np.cumsum([0, *longer[:-1]])
    taken = (first + places).ravel()
    index = np.empty(sum(longer), np.int64)
    free = np.ones(len(index), bool)
    free[taken] = False
    index[free] = np.arange(len(x))
    index[taken] = len(x) + np.repeat(np.arange(len(tokens)), len(lengths))
    return torch.cat([x, tokens.to(x.dtype)])[_on(index, x)], longer


def _on(index: np.ndarray, x: Tensor) -> Tensor:
    return torch.from_numpy(index).to(x.device, non_blocking=True)
