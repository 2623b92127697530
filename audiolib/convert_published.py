"""Weights as the authors of AST, FlexiAST, ElasticAST and Audio Mamba publish them, as models of this library.

Their files hold tensors alone: what no tensor tells (the step between AST's patches, where Audio Mamba's class token
stands) is asked for, or is what all published files have.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from audiolib.convert import TIMM_NAMES, State, renamed
from audiolib.errors import AudiolibError
from audiolib.models.audio_mamba import MambaConfig
from audiolib.models.positions import Size
from audiolib.models.spectrogram_transformer import TransformerConfig

Found = tuple[TransformerConfig | MambaConfig, State, list[str]]
BANDS = 128
# A name of each layout that no other has.
_ELASTIC, _MAMBA, _FLEXI = "pos_embed_freq", "layers.0.mixer.A_log", "pos_embed.pos_embed"


def from_published(state: Mapping[str, Tensor], stride: int) -> Found:
    """Config, weights under our names, and the names of tensors that were left out.

    Args:
        state: as published; names may begin with `module.`.
        stride: step between the patches of an AST; it is in no file (papers.md 1.4: 10 unless named). Those of the
            others do not overlap.

    Raises:
        AudiolibError: names or shapes of none of the four.
    """
    plain = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    try:
        if _ELASTIC in plain:
            return _elastic(plain)
        if _MAMBA in plain:
            return _mamba(plain)
        return _flexi(plain) if _FLEXI in plain else _ast(plain, stride)
    except KeyError as error:
        raise AudiolibError(
            f"these are not weights as the papers' authors publish them: there is no {error}"
        ) from error


def _ast(plain: State, stride: int) -> Found:
    """`module.v.*` is a timm DeiT, `module.mlp_head.*` the head."""
    found = {renamed(name.removeprefix("v."), TIMM_NAMES): tensor for name, tensor in plain.items()}
    kernel, places = found.pop("patch_embed.proj.weight"), found.pop("pos_embed")[0]
    size = kernel.shape[-1]
    grid = _grid(places[2:], (BANDS - size) // stride + 1, f"; is the stride really {stride}?")
    steps = grid.shape[1]
    # 1,024 frames where they give this many steps: what a stride leaves over at the end is in no file.
    frames = 1024 if (1024 - size) // stride + 1 == steps else (steps - 1) * stride + size
    made, state = _vit(found, kernel, places[:2], grid, frames)
    return replace(made, stride=None if stride == size else (stride, stride)), state, sorted(found)


def _flexi(plain: State) -> Found:
    """AST's names; the kernel and the positions beside `v` count, those in it are an unused copy."""
    unused = ("v.patch_embed.", "v.pos_embed")
    own = {name: tensor for name, tensor in plain.items() if not name.startswith(unused)}
    found = {renamed(name.removeprefix("v."), TIMM_NAMES): tensor for name, tensor in own.items()}
    kernel, places = found.pop("patch_embed.proj.weight"), found.pop(_FLEXI)[0]
    count = sum(f"v.{name}" in plain for name in ("cls_token", "dist_token"))
    grid = _grid(places[count:], BANDS // kernel.shape[-2])
    made, state = _vit(found, kernel, places[:count], grid, grid.shape[1] * kernel.shape[-1])
    return made, state, sorted([*(name for name in plain if name.startswith(unused)), *found])


def _vit(
    found: State, kernel: Tensor, prefix_positions: Tensor, grid: Tensor, frames: int
) -> tuple[TransformerConfig, State]:
    """A ViT with AST's head; what is read is taken out of `found`."""
    prefix = [found.pop(name)[0] for name in ("cls_token", "dist_token")[: len(prefix_positions)]]
    head = {
        f"{ours}.{kind}": found.pop(f"mlp_head.{number}.{kind}")
        for number, ours in ((0, "head_norm"), (1, "head"))
        for kind in ("weight", "bias")
    }
    kept = {name: found.pop(name) for name in list(found) if name.startswith(("blocks.", "norm.", "embed."))}
    made = TransformerConfig(
        num_classes=len(head["head.weight"]),
        width=len(kernel),
        depth=_depth(kept),
        heads=max(1, len(kernel) // 64),
        frames=frames,
        patch=_size(kernel),
        border="crop",
        prefix_tokens=len(prefix),
    )
    places = {"prefix": torch.cat(prefix), "prefix_positions": prefix_positions, "embed.positions.grid": grid}
    return made, kept | head | places | {"embed.weight": kernel.sum(1)}


def _elastic(plain: State) -> Found:
    """ElasticAST: attention without 1 / sqrt(64), as its weights were trained (papers.md 5.1)."""
    rules = [
        (r"^blocks\.modules_list\.", "blocks."),
        (r"^(blocks\.\d+)\.attn\.proj\.", r"\1.attention.project."),
        (r"^(blocks\.\d+)\.mlp\.fc1\.", r"\1.mlp.grow."),
        (r"^(blocks\.\d+)\.mlp\.fc2\.", r"\1.mlp.shrink."),
        (r"^attn_pool\.to_kv\.", "pool.kv."),
        (r"^attn_pool\.proj\.", "pool.project."),
        (r"^mlp_norm\.", "head_norm."),
        (r"^patch_embed\.0\.bias$", "embed.bias"),
        (r"^pos_embed_freq$", "embed.positions.band"),
        (r"^pos_embed_time$", "embed.positions.time"),
    ]
    found = {renamed(name, rules): tensor for name, tensor in plain.items()}
    width, area = (kernel := found.pop("patch_embed.0.weight")).shape
    size, bands = round(area**0.5), len(found["embed.positions.band"])
    if size * size != area or bands * size != BANDS:
        raise AudiolibError(f"patches of {area} values in {bands} bands are no ElasticAST of {BANDS} mel bands")
    for block in range(depth := _depth(found)):
        for kind in ("weight", "bias"):
            parts = [found.pop(f"blocks.{block}.attn.{name}.{kind}") for name in ("to_q", "to_kv")]
            found[f"blocks.{block}.attention.qkv.{kind}"] = torch.cat(parts)
    # The query of the pool is the same for all clips: its projection is done here, once.
    query = found.pop("attn_pool.to_q.weight") @ found.pop("attn_pool_queries") + found.pop("attn_pool.to_q.bias")
    made = TransformerConfig(
        num_classes=len(found["head.weight"]),
        width=width,
        depth=depth,
        heads=max(1, width // 64),
        frames=len(found["embed.positions.time"]) * size,
        patch=(size, size),
        border="crop",  # Clips of their own length, cut to whole patches.
        layout="axes",
        positions="index",
        prefix_tokens=0,
        pool="attention",
        attention_scale=1.0,
        head_norm_eps=1e-6,
    )
    return made, found | {"embed.weight": kernel.unflatten(1, (size, size)), "pool.query": query[None]}, []


def _mamba(plain: State) -> Found:
    """Audio Mamba: `A_b_log` is there for both directions, `conv1d_b` where each has a convolution of its own."""
    rules = [
        (r"^layers\.", "blocks."),
        (r"\.mixer\.A_b_log$", ".mixer.back_A_log"),
        (r"\.mixer\.D_b$", ".mixer.back.D"),
        (r"\.mixer\.(conv1d|x_proj|dt_proj)_b\.", r".mixer.back.\1."),
        (r"\.mixer\.(conv1d|x_proj|dt_proj)\.", r".mixer.way.\1."),
        (r"\.mixer\.D$", ".mixer.way.D"),
        (r"\.conv1d\.(weight|bias)$", r".conv_\1"),
        (r"^norm_f\.", "norm."),
        (r"^patch_embed\.proj\.bias$", "embed.bias"),
    ]
    found = {renamed(name, rules): tensor for name, tensor in plain.items()}
    found = {name: t.squeeze(1) if name.endswith("conv_weight") else t for name, t in found.items()}
    kernel, places = found.pop("patch_embed.proj.weight"), found.pop(_FLEXI)[0]
    double = "cls_token_head" in found
    names = ("cls_token_head", "cls_token_tail") if double else ("cls_token",)
    prefix = torch.cat([found.pop(name)[0] for name in names])
    grid = _grid(places[len(prefix) :], BANDS // kernel.shape[-2])
    left = [name for name in found if name.startswith("rope.")]
    found = {name: tensor for name, tensor in found.items() if name not in left}
    made = MambaConfig(
        num_classes=len(found["head.weight"]),
        width=len(kernel),
        depth=_depth(found),
        frames=grid.shape[1] * kernel.shape[-1],
        patch=_size(kernel),
        border="crop",
        directions="bi-bi" if "blocks.0.mixer.back.D" in found else _one_or_both(found),
        class_token="double" if double else "mid",
        states=found["blocks.0.mixer.A_log"].shape[1],
    )
    own = {"prefix": prefix, "prefix_positions": places[: len(prefix)], "embed.positions.grid": grid}
    return made, found | own | {"embed.weight": kernel.sum(1)}, left


def _one_or_both(found: State) -> str:
    return "fo-bi" if "blocks.0.mixer.back_A_log" in found else "fo-fo"


def _grid(places: Tensor, bands: int, hint: str = "") -> Tensor:
    """(bands, steps, d) of positions in a row, all steps of a band first."""
    if len(places) % bands:
        raise AudiolibError(f"{len(places)} positions are no grid of {bands} bands{hint}")
    return places.unflatten(0, (bands, -1))


def _size(kernel: Tensor) -> Size:
    return (kernel.shape[-2], kernel.shape[-1])


def _depth(state: State) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
