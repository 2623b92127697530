"""Patches of any size from one stored kernel and one stored position grid (FlexiAST; papers.md section 2)."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad

Size = tuple[int, int]  # (mel bands, frames)
Starts = tuple[int, ...]  # first frame, or band, of each patch


@dataclass(frozen=True)
class Resize:
    """How a kernel becomes another size; published models differ, so it belongs to a model's config (papers.md 2.1).

    `pseudo_inverse` is the published method (bilinear, no antialias); timm uses it bicubic with antialias, big_vision
    bilinear with antialias. `interpolate` is the plain resize that the papers compare with.
    """

    method: str = "pseudo_inverse"
    mode: str = "bilinear"
    antialias: bool = False


@lru_cache(maxsize=1024)
def resize_matrix(old: int, new: int, mode: str, antialias: bool) -> Tensor:
    """The (new, old) float64 matrix of resizing one axis by interpolation."""
    # A cached tensor made under inference_mode could never be used for training again.
    with torch.inference_mode(False):
        # Along the last axis: on an image one pixel wide, torch's antialiased resize of the height gives wrong numbers.
        unit = torch.eye(old, dtype=torch.float64).reshape(old, 1, 1, old)
        resized = interpolate(unit, size=(1, new), mode=mode, antialias=antialias, align_corners=False)
        return resized.reshape(old, new).T.contiguous()


@lru_cache(maxsize=1024)
def kernel_matrix(old: int, new: int, resize: Resize) -> Tensor:
    """The (new, old) float64 matrix that turns a kernel's axis from `old` to `new` cells.

    For `pseudo_inverse` it is (B^T)^+ with B the matrix of resizing a signal: then <B x, w'> is as near to <x, w> as
    can be, and equal when enlarging. The two-dimensional B of the papers is the Kronecker product of one such matrix
    for each axis, and so is its pseudo-inverse.
    """
    matrix = resize_matrix(old, new, resize.mode, resize.antialias)
    with torch.inference_mode(False):
        return torch.linalg.pinv(matrix.T) if resize.method == "pseudo_inverse" else matrix


@lru_cache(maxsize=4096)
def centre_matrix(old: int, cell: int, starts: tuple[int, ...], hop: float, size: int, length: int) -> Tensor:
    """The (new, old) float64 matrix that reads a position grid at the true centres of other patches.

    Args:
        old: cells of the stored grid.
        cell: width of a stored cell, in frames (or bands) of the stored grid.
        starts: first frame of each patch of the clip.
        hop: frames of the stored grid that a frame of the clip lasts.
        size: frames of a patch.
        length: frames of the clip, without padding; a clip longer than the grid is squeezed onto it.

    Each row is a triangle around the patch's centre, as wide as the patch where that is wider than a cell: the same
    weights as an antialiased bilinear resize, but unmoved by padding at the border.
    """
    shrink = hop * min(1.0, old * cell / (length * hop))
    with torch.inference_mode(False):
        centres = (torch.tensor(starts, dtype=torch.float64) + size / 2) * shrink / cell - 0.5
        centres = centres.clamp(0, old - 1)
        reach = max(1.0, size * shrink / cell)
        weights = (1 - (torch.arange(old)[None, :] - centres[:, None]).abs() / reach).clamp(min=0)
        return weights / weights.sum(1, keepdim=True)


def sine_grid(bands: int, frames: int, width: int) -> Tensor:
    """(bands, frames, width) sine and cosine positions: half of the channels tell the band, half the time."""

    def axis(count: int, channels: int) -> Tensor:
        rates = 1000.0 ** -torch.linspace(0, 1, channels // 2)
        angles = torch.arange(count)[:, None] * rates[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    half = width // 2
    rows = axis(bands, half)[:, None, :].expand(bands, frames, half)
    columns = axis(frames, half)[None, :, :].expand(bands, frames, half)
    return torch.cat([rows, columns], dim=2)


class PatchEmbed(nn.Module):
    """Spectrogram to tokens, at any patch size, with learned positions.

    Args:
        width: d.
        mel_bins: f.
        frames: length in frames that the position grid covers.
        patch: size of the stored kernel.
        stride: step between patches of the stored size; null = no overlap. It scales with the patch.
        positions: `stretch` resizes the whole grid to the clip's patches (papers.md 2.1); `centre` reads it at each
            patch's true place in seconds and bands.
        border: what happens to a last patch that the clip does not fill. `pad` completes it with the mean, `crop` drops
            it as the papers do, `overlap` moves all patches a little together until the last one is full.
        resize: how the kernel is resized.
    """

    def __init__(
        self,
        width: int,
        mel_bins: int,
        frames: int,
        patch: Size = (16, 16),
        stride: Size | None = None,
        positions: str = "stretch",
        border: str = "pad",
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.mel_bins, self.frames, self.patch, self.stride = mel_bins, frames, patch, stride
        self.position_mode, self.border, self.resize = positions, border, resize or Resize()
        self.weight = nn.Parameter(torch.empty(width, *patch))
        self.bias = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.empty(self.count(mel_bins, 0, patch), self.count(frames, 1, patch), width))

    def step(self, patch: Size, axis: int) -> int:
        """Frames (or bands) from one patch to the next."""
        if self.stride is None:
            return patch[axis]
        return max(1, round(self.stride[axis] * patch[axis] / self.patch[axis]))

    def count(self, length: int, axis: int, patch: Size) -> int:
        """Patches along one axis for `length` frames (or bands); never none."""
        spare = (length - patch[axis]) / self.step(patch, axis)
        return max(0, math.floor(spare) if self.border == "crop" else math.ceil(spare)) + 1

    def starts(self, length: int, axis: int, patch: Size) -> tuple[int, ...]:
        """First frame (or band) of each patch."""
        count, step = self.count(length, axis, patch), float(self.step(patch, axis))
        if self.border == "overlap" and count > 1:
            step = (length - patch[axis]) / (count - 1)
        return tuple(round(i * step) for i in range(count))

    def kernel(self, patch: Size) -> Tensor:
        """The stored kernel at another size, inside the graph: (d, p_f, p_t)."""
        weight = self.weight
        for axis in (0, 1):
            if patch[axis] != self.patch[axis]:
                matrix = kernel_matrix(self.patch[axis], patch[axis], self.resize).to(weight)
                weight = torch.einsum("po,dot->dpt" if axis == 0 else "po,dfo->dfp", matrix, weight)
        return weight

    def forward(
        self, mel: Tensor, lengths: tuple[int, ...], stretch: tuple[float, ...], patch: Size
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Cut clips into patches and embed them.

        Args:
            mel: (s, f) clips end to end.
            lengths: frames of each clip.
            stretch: hop of each clip relative to the position grid's.
            patch: size to cut, in the frames of `mel`.

        Returns:
            (n, d) tokens, time-major inside a clip, and the tokens of each clip.
        """
        rows = self.starts(self.mel_bins, 0, patch)
        columns = [self.starts(length, 1, patch) for length in lengths]
        cells = self._cut(mel, lengths, rows, columns, patch)  # (n, p_t * p_f)
        kernel = self.kernel(patch).transpose(1, 2).reshape(len(self.bias), -1)
        tokens = nn.functional.linear(cells, kernel, self.bias)
        counts = tuple(len(rows) * len(starts) for starts in columns)
        return tokens + self._places(lengths, stretch, rows, columns, patch), counts

    def _cut(self, mel: Tensor, lengths: tuple[int, ...], rows: Starts, columns: list[Starts], patch: Size) -> Tensor:
        """Every patch of every clip, flattened; clips of one length are cut in one go."""
        mel = _fit(mel, 1, rows[-1] + patch[0])
        if len(set(lengths)) == 1:
            return self._cut_equal(mel.unflatten(0, (len(lengths), -1)), rows, columns[0], patch)
        clips = zip(mel.split(lengths), columns, strict=True)
        return torch.cat([self._cut_equal(clip[None], rows, starts, patch) for clip, starts in clips])

    def _cut_equal(self, mel: Tensor, rows: Starts, columns: Starts, patch: Size) -> Tensor:
        mel = _fit(mel, 1, columns[-1] + patch[1])
        cells = _windows(_windows(mel, 1, columns, patch[1]), 2, rows, patch[0])
        return cells.reshape(-1, patch[1] * patch[0])  # (m, n_t, n_f, p_t, p_f) flattened

    def _places(
        self, lengths: tuple[int, ...], stretch: tuple[float, ...], rows: Starts, columns: list[Starts], patch: Size
    ) -> Tensor:
        """(n, d) positions of all tokens; clips of one length and hop share theirs."""
        grid = torch.einsum("bo,otd->btd", self._axis(0, rows, self.mel_bins, 1.0, patch), self.positions)
        found: dict[tuple[int, float], Tensor] = {}
        for length, hop, starts in zip(lengths, stretch, columns, strict=True):
            if (length, hop) not in found:
                matrix = self._axis(1, starts, length, hop, patch)
                found[length, hop] = torch.einsum("no,bod->nbd", matrix, grid).flatten(0, 1)
        if len(found) == 1:
            return next(iter(found.values())).repeat(len(lengths), 1)
        return torch.cat([found[key] for key in zip(lengths, stretch, strict=True)])

    def _axis(self, axis: int, starts: Starts, length: int, hop: float, patch: Size) -> Tensor:
        old = self.positions.shape[axis]
        if self.position_mode == "stretch":
            matrix = resize_matrix(old, len(starts), "bilinear", True)
        else:
            # Where patches overlap a stored cell is one stored step wide.
            matrix = centre_matrix(old, self.step(self.patch, axis), starts, hop, patch[axis], length)
        return matrix.to(self.positions)


def _fit(mel: Tensor, axis: int, size: int) -> Tensor:
    """Pad (or crop) one axis at its end."""
    spare = size - mel.shape[axis]
    return pad(mel, (0, 0) * (mel.ndim - 1 - axis) + (0, spare)) if spare else mel


def _windows(mel: Tensor, axis: int, starts: Starts, size: int) -> Tensor:
    """Cut one axis into windows; the axis becomes the number of the window, a last axis the place in it."""
    step = starts[1] - starts[0] if len(starts) > 1 else 1
    if starts == tuple(range(0, len(starts) * step, step)):
        return mel.unfold(axis, size, step)
    windows = [mel.narrow(axis, start, size) for start in starts]
    return torch.stack(windows, axis).movedim(axis + 1, -1)
