"""A model as one graph for other runtimes: clips of any equal length in, logits out; patch size chosen at export.

The same computation as the model's own, written for one length at a time with operations that a graph with a free time
axis can hold: no lists of lengths, no loop over tokens, a scan by doubling instead. Tests hold both together.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, silu, softplus

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path
from audiolib.models import Classifier
from audiolib.models.audio_mamba import PLACES, AudioMamba
from audiolib.models.mamba import Mixer, Way
from audiolib.models.parts import AttentionPool, Block
from audiolib.models.patch import PatchEmbed
from audiolib.models.positions import GridPositions, Places, Size
from audiolib.models.spectrogram_transformer import SpectrogramTransformer

# Doublings of the scan: up to 2**20 tokens, six hours at patch 16.
DOUBLINGS = 20
Reach = tuple[Tensor, Tensor]


class TimePositions(nn.Module):
    """How stored positions are read along a time axis whose length is known only when the graph runs."""

    def __init__(self, embed: PatchEmbed, patch: Size, stored: int, hop: float) -> None:
        super().__init__()
        axis = embed.positions.columns
        self.mode, self.spacing, self.size, self.stored, self.hop = axis.mode, axis.spacing, patch[1], stored, hop
        if axis.mode == "index":
            self.hop = 1.0

    def forward(self, starts: Tensor, length: Tensor) -> Tensor:
        """(n, stored) weights for patches with these first frames in clips of `length` frames; see `positions.py`."""
        places = torch.arange(self.stored, dtype=torch.float64)
        if self.mode == "stretch":
            scale = self.stored / torch.ones_like(starts).sum()
            centres = (torch.arange(starts.shape[0], dtype=torch.float64) + 0.5) * scale - 0.5
            reach = scale.clamp(min=1.0)
        else:
            heard, step, size = torch.minimum(length, starts[-1] + self.size), self.spacing.step, self.spacing.size
            shrink = (((self.stored - 1) * step + size) / heard).clamp(max=self.hop)
            centres = ((starts + self.size / 2) * shrink / step - size / (2 * step)).clamp(0, self.stored - 1)
            reach = (self.size * shrink / size).clamp(min=1.0)
        weights = (1 - (places[None, :] - centres[:, None]).abs() / reach).clamp(min=0)
        return weights / weights.sum(1, keepdim=True)


class GraphEmbed(nn.Module):
    """`PatchEmbed` at one patch size for equal clips: (m, t, f) to (m, time, bands, d)."""

    def __init__(self, embed: PatchEmbed, patch: Size, hop: float) -> None:
        super().__init__()
        rows = embed.starts(embed.mel_bins, 0, patch)
        self.border, self.patch, self.step = embed.border, patch, embed.step(patch, 1)
        self.spare = rows[-1] + patch[0] - embed.mel_bins
        bands = torch.tensor(rows)[:, None] + torch.arange(patch[0])
        self.register_buffer("bands", bands.flatten())
        with torch.no_grad():
            self.register_buffer("kernel", embed.kernel(patch).transpose(1, 2).flatten(1).clone())
            self.register_buffer("bias", embed.bias.clone())
            where = [Places(rows, patch[0], embed.mel_bins)]
            positions = embed.positions
            if isinstance(positions, GridPositions):
                matrix = positions.rows.matrix(len(positions.grid), where, positions.grid)
                grid = torch.einsum("bo,otd->tbd", matrix, positions.grid)
            else:
                band = positions.rows.matrix(len(positions.band), where, positions.band) @ positions.band
                grid = positions.time[:, None] + band[None]  # Weights of a time sum to 1: bands may be added before.
            self.register_buffer("grid", grid.clone())
        self.positions = TimePositions(embed, patch, len(grid), hop)

    def forward(self, mel: Tensor) -> Tensor:
        clips, length = mel.shape[0], mel.shape[1]
        size, step = self.patch[1], self.step
        whole = length - size if self.border == "crop" else length - size + step - 1
        count = whole // step + 1
        steps = torch.arange(count, dtype=torch.float64)
        frames = torch.ones_like(mel[0, :, 0], dtype=torch.float64).sum()  # The length, as a number in the graph.
        if self.border == "overlap":
            starts = torch.round(steps * ((frames - size) / (steps.max()).clamp(min=1.0)))
        else:
            starts = steps * step
        index = starts.long()[:, None] + torch.arange(size)
        longer = pad(mel, (0, self.spare, 0, size))
        strips = longer[:, index.flatten()][:, :, self.bands]
        strips = strips.reshape(clips, count, size, -1, self.patch[0]).permute(0, 1, 3, 2, 4)
        tokens = linear(strips.flatten(3), self.kernel, self.bias)
        weights = self.positions(starts, frames).to(mel.dtype)
        return tokens + torch.einsum("no,obd->nbd", weights, self.grid)


class GraphTransformer(nn.Module):
    """`SpectrogramTransformer` for equal clips: (m, t, f) to (m, c)."""

    def __init__(self, model: SpectrogramTransformer, patch: Size, hop: float) -> None:
        super().__init__()
        self.embed, self.model = GraphEmbed(model.embed, patch, hop), model

    def forward(self, mel: Tensor) -> Tensor:
        model, config = self.model, self.model.config
        x = self.embed(mel).flatten(1, 2)
        if config.prefix_tokens:
            prefix = (model.prefix + model.prefix_positions).expand(mel.shape[0], -1, -1)
            x = torch.cat([prefix, x], 1)
        for block in model.blocks:
            x = _block(block, x)
        x = model.norm(x)
        if config.pool == "prefix":
            pooled = x[:, : config.prefix_tokens].mean(1)
        else:
            pooled = _attention_pool(model.pool, x) if config.pool == "attention" else x.mean(1)
        return model.head(model.head_norm(pooled))


def _block(block: Block, x: Tensor) -> Tensor:
    attention = block.attention
    parts = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.heads, -1)).permute(2, 0, 3, 1, 4)
    attended = scaled_dot_product_attention(parts[0], parts[1], parts[2], scale=attention.scale)
    x = x + attention.project(attended.transpose(1, 2).flatten(2))
    return x + block.mlp(block.norm2(x))


def _attention_pool(pool: AttentionPool, x: Tensor) -> Tensor:
    parts = pool.kv(x).unflatten(-1, (2, pool.heads, -1)).permute(2, 0, 3, 1, 4)
    query = pool.query.reshape(pool.heads, 1, -1).expand(x.shape[0], -1, -1, -1)
    attended = scaled_dot_product_attention(query, parts[0], parts[1], scale=pool.scale)
    return pool.project(attended.transpose(1, 2).flatten(1))


class GraphMamba(nn.Module):
    """`AudioMamba` for equal clips: (m, t, f) to (m, c)."""

    def __init__(self, model: AudioMamba, patch: Size, hop: float) -> None:
        super().__init__()
        self.embed, self.model = GraphEmbed(model.embed, patch, hop), model

    def forward(self, mel: Tensor) -> Tensor:
        model, config = self.model, self.model.config
        tokens = self.embed(mel)
        x = (tokens.transpose(1, 2) if config.order == "frequency" else tokens).flatten(1, 2)
        count, shares = x.shape[1], PLACES[config.class_token]
        places = [int(share) * count + (count // 2 if share == 0.5 else 0) for share in shares]
        if places:
            class_tokens = (model.prefix + model.prefix_positions)[:, None].expand(-1, mel.shape[0], -1)
            parts, last = [], 0
            for place, token in zip(places, class_tokens, strict=True):
                parts += [x[:, last:place], token[:, None]]
                last = place
            x = torch.cat([*parts, x[:, last:]], 1)
        reaches = reaches_of(x.shape[1])
        for block in model.blocks:
            x = x + _mixer(block.mixer, block.norm(x), reaches)
        x = model.norm(x)
        if not places:
            return model.head(x.mean(1))
        read = [x[:, place + number] for number, place in enumerate(places)]
        return model.head(torch.stack(read, 1).mean(1))


def _mixer(mixer: Mixer, x: Tensor, reaches: list[Reach]) -> Tensor:
    """Its scans are one: a scan backwards is one over turned tokens, beside the other as more clips would be."""
    inner, gate = mixer.in_proj(x).chunk(2, dim=-1)
    u = _convolved(mixer.way, inner)
    scans = [(mixer.way, u, mixer.A_log)]
    if mixer.directions == "fo-bi":
        scans.append((mixer.way, u.flip(1), mixer.back_A_log))
    elif mixer.directions == "bi-bi":
        scans.append((mixer.back, _convolved(mixer.back, inner.flip(1)), mixer.back_A_log))
    decays, pushes, reads = zip(*(_steps(*scan) for scan in scans), strict=True)
    states = doubled(torch.cat(decays), torch.cat(pushes), reaches).chunk(len(scans))
    both = [
        (state * c[:, :, None]).sum(-1) + way.D * u for state, c, (way, u, _) in zip(states, reads, scans, strict=True)
    ]
    y = both[0] if len(both) == 1 else both[0] + both[1].flip(1)
    return mixer.out_proj((y / 2 if mixer.directions == "bi-bi" else y) * silu(gate))


def _convolved(way: Way, inner: Tensor) -> Tensor:
    window = way.conv_weight.shape[1]
    padded = pad(inner.transpose(1, 2), (window - 1, 0))
    weight, groups = way.conv_weight[:, None], inner.shape[2]
    return silu(nn.functional.conv1d(padded, weight, way.conv_bias, groups=groups).transpose(1, 2))


def _steps(way: Way, u: Tensor, a_log: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decay and push of every token's states, (m, n, e, j) each, and how they are read, (m, n, j)."""
    delta, b, c = way.steps(u)
    step = softplus(delta + way.dt_proj.bias)
    return torch.exp(step[..., None] * -a_log.exp()), (step * u)[..., None] * b[:, :, None], c


def doubled(decay: Tensor, push: Tensor, reaches: list[Reach]) -> Tensor:
    """state_t = decay_t state_(t-1) + push_t along axis 1, in `DOUBLINGS` steps (Hillis and Steele, 1986).

    After k steps a place holds the sum over the last 2^k tokens, and their decays' product: both are stable, for decays
    are at most 1.
    """
    for before, there in reaches:
        push = push + decay * torch.where(there, push[:, before], 0.0)
        decay = decay * torch.where(there, decay[:, before], 1.0)
    return push


def reaches_of(count: int) -> list[Reach]:
    """For each doubling the token that every one of `count` tokens looks back at, and whether there is one."""
    places = torch.arange(count)
    found = ((places - 2**power, places >= 2**power) for power in range(DOUBLINGS))
    return [(before.clamp(min=0), there[:, None, None]) for before, there in found]


def graph(model: Classifier, patch: Size | None = None, hop: float = 1.0) -> nn.Module:
    """A model as a module of (m, t, f) normalised log-mel to (m, c) logits; clips are at least a patch long.

    Args:
        model: on the CPU.
        patch: patch size to build in; null = the model's own.
        hop: frames of the stored positions that a frame lasts (`Batch.stretch`).
    """
    patch = patch or model.config.patch
    model = model.eval()
    if isinstance(model, SpectrogramTransformer):
        return GraphTransformer(model, patch, hop).eval()
    if isinstance(model, AudioMamba):
        return GraphMamba(model, patch, hop).eval()
    raise AudiolibError(f"{type(model).__name__} cannot be exported")


def export_onnx(model: Classifier, patch: Size | None, out: Path, hop: float = 1.0) -> None:
    """Write a model as ONNX with free numbers of clips and frames.

    Args:
        model: on the CPU.
        patch: patch size to build in; null = the model's own.
        out: the file.
        hop: as in `graph`.

    Raises:
        AudiolibError: onnx or onnxscript is not installed, or `out` is a folder.
    """
    if out.is_dir():
        raise AudiolibError(f"{out} is a folder; name a file to write")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise AudiolibError(
            "exporting needs onnx and onnxscript: pip install -e '.[export]' in audiolib's folder"
        ) from error
    size = (patch or model.config.patch)[1]
    example = torch.zeros(2, 3 * size + 5, model.config.mel_bins)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    # Simplifying the thousands of nodes of a scan takes minutes; runtimes do it themselves when they load it.
    small = not isinstance(model, AudioMamba)
    with torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            graph(model, patch, hop), (example,), dynamo=True, input_names=["log_mel"], output_names=["logits"],
            dynamic_shapes=(free,), verbose=False, optimize=small,
        )  # fmt: skip
    with atomic_path(out) as temporary:
        program.save(temporary)
