"""Weights of one model into another of a different shape: kernel and positions are resized."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from audiolib.models.classifier import Classifier
from audiolib.models.positions import Places, Spacing, centre_matrix
from audiolib.models.resize import kernel_matrix, resize_matrix

Spacings = tuple[Spacing, Spacing]


@dataclass(frozen=True)
class Transfer:
    """What became of each tensor: `carried` as it was, `resized`, `fresh` (the model's own start), `unused`."""

    carried: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [f"{len(self.carried)} tensors carried"]
        parts += [f"{word} {', '.join(names)}" for word, names in vars(self).items() if names and word != "carried"]
        return "; ".join(parts)


def transfer(
    state: Mapping[str, Tensor],
    model: Classifier,
    spacing: Spacings | None,
    *,
    hop: float = 1.0,
    scores: float = 1.0,
) -> Transfer:
    """Fill `model` from weights under this library's names; what does not fit keeps the model's own start.

    The patch kernel becomes the model's stored size by its own resize (papers.md 2.1), the positions are read where the
    model's patches lie and take on its layout; a head for another number of classes and surplus blocks are left.

    Args:
        state: weights; see `audiolib.convert` for those of other libraries.
        model: a freshly made model, changed in place.
        spacing: of the state's positions (`PatchEmbed.spacing`); null for an image model, whose grid has no scale: it
            is cut from the middle along an axis where it is longer, else stretched, as AST does it.
        hop: frames of the state's positions that one frame of the model's lasts: a position is a time.
        scores: factor of the state's attention scores over the model's, where their scales differ; queries take it on.

    Raises:
        ValueError: not one tensor fits, so the state belongs to another kind or width of model.
    """
    state = _in_layout({name: _scored(name, tensor, scores) for name, tensor in state.items()}, model.config.layout)
    wanted, filled = model.state_dict(), {}
    told = Transfer(unused=[name for name in state if name not in wanted])
    for name, own in wanted.items():
        given = state.get(name)
        elsewhere = name.startswith(_POSITIONS) and (spacing != model.embed.spacing or hop != 1)
        if given is not None and given.shape == own.shape and not elsewhere:
            filled[name] = given
            told.carried.append(name)
            continue
        made = None if given is None else _resized(name, given, own, model, spacing, hop)
        if made is None:
            told.fresh.append(name)
        else:
            filled[name] = made.to(own)
            told.resized.append(f"{name} {_shape(given)} to {_shape(own)}")
    if not any(name.startswith("blocks.") for name in filled):
        raise ValueError("no encoder weight fits this model: other names, or another width")
    model.load_state_dict(filled, strict=False)
    return told


_POSITIONS = "embed.positions."


def _in_layout(state: Mapping[str, Tensor], layout: str) -> dict[str, Tensor]:
    """The positions in the model's layout: a grid is the sum of its axes, axes are the means of a grid (papers.md 5.2).

    The overall mean goes with the time alone; ElasticAST's code counts it twice.
    """
    state = dict(state)
    if layout == "grid" and f"{_POSITIONS}band" in state:
        band, time = (state.pop(_POSITIONS + axis) for axis in ("band", "time"))
        state[f"{_POSITIONS}grid"] = band[:, None] + time[None]
    elif layout == "axes" and f"{_POSITIONS}grid" in state:
        grid = state.pop(f"{_POSITIONS}grid")
        state[f"{_POSITIONS}band"] = grid.mean(1) - grid.mean((0, 1))
        state[f"{_POSITIONS}time"] = grid.mean(0)
    return state


def _shape(tensor: Tensor | None) -> str:
    return "x".join(map(str, tensor.shape)) if tensor is not None else ""


def _scored(name: str, tensor: Tensor, factor: float) -> Tensor:
    """A tensor with its queries times a factor: the first third of what makes queries, keys and values."""
    if factor == 1 or not (".attention.qkv." in name or name == "pool.query"):
        return tensor
    queries = len(tensor) if name == "pool.query" else len(tensor) // 3
    return torch.cat([tensor[:queries] * factor, tensor[queries:]])


def _resized(
    name: str, given: Tensor, own: Tensor, model: Classifier, spacing: Spacings | None, hop: float
) -> Tensor | None:
    if given.ndim != own.ndim:
        return None
    given = given.cpu()  # As the matrices are.
    if name == "embed.weight" and given.shape[0] == own.shape[0]:
        rows, columns = (kernel_matrix(given.shape[a], own.shape[a], model.config.resize) for a in (1, 2))
        return torch.einsum("po,dot,qt->dpq", rows, given.double(), columns)
    if name.startswith(_POSITIONS) and given.shape[-1] == own.shape[-1]:
        axes = {"grid": (0, 1), "band": (0,), "time": (1,)}[name.removeprefix(_POSITIONS)]
        for place, axis in enumerate(axes):
            matrix = _axis_matrix(given.shape[place], own.shape[place], axis, model, spacing, hop)
            given = torch.tensordot(matrix, given.double(), dims=([1], [place])).movedim(0, place)
        return given
    # A distillation token that the model has no place for is dropped; the class token comes first.
    if name.startswith("prefix") and given.shape[1:] == own.shape[1:] and len(given) > len(own):
        return given[: len(own)]
    return None


def _axis_matrix(old: int, new: int, axis: int, model: Classifier, spacing: Spacings | None, hop: float) -> Tensor:
    if spacing is None:
        if new <= old:
            first = (old - new) // 2
            return torch.eye(old, dtype=torch.float64)[first : first + new]
        return resize_matrix(old, new, "bilinear", False)
    config, embed = model.config, model.embed
    length = config.mel_bins if axis == 0 else config.frames
    starts = tuple(embed.step(config.patch, axis) * place for place in range(new))
    return centre_matrix(old, spacing[axis], Places(starts, config.patch[axis], length, hop if axis == 1 else 1.0))
