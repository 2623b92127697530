"""Patches of any size from one stored kernel (FlexiAST; papers.md section 2)."""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from audiolib.errors import check_choice
from audiolib.models.positions import LAYOUTS, MODES, Axis, Places, Size, Spacing
from audiolib.models.resize import Resize, kernel_matrix_for

Starts = tuple[int, ...]  # first frame, or band, of each patch


class PatchEmbed(nn.Module):
    """Spectrogram to tokens, at any patch size, with learned positions.

    Args:
        width: d.
        mel_bins: f.
        frames: length in frames that the stored positions cover.
        patch: size of the stored kernel.
        stride: step between patches of the stored size; null = no overlap. It scales with the patch.
        layout: `grid` learns a position for each cell of bands x time, `axes` one for each band and each time, added.
        positions: how they are read at other patches, see `positions.Axis`.
        border: what happens to a last patch that the clip does not fill. `pad` completes it with the mean, `crop` drops
            it as the papers do, `overlap` moves all patches a little together until the last one is full.
        resize: how the kernel is resized.

    Raises:
        AudiolibError: a name that is none of those above.
    """

    def __init__(
        self,
        width: int,
        mel_bins: int,
        frames: int,
        patch: Size = (16, 16),
        stride: Size | None = None,
        layout: str = "grid",
        positions: str = "stretch",
        border: str = "pad",
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        check_choice("layout", layout, LAYOUTS)
        check_choice("positions", positions, MODES)
        check_choice("border", border, ("pad", "crop", "overlap"))
        self.mel_bins, self.frames, self.patch, self.stride = mel_bins, frames, patch, stride
        self.border, self.resize = border, resize or Resize()
        self.weight = nn.Parameter(torch.empty(width, *patch))
        self.bias = nn.Parameter(torch.zeros(width))
        cells = (self.count(mel_bins, 0, patch), self.count(frames, 1, patch))
        rows, columns = (Axis(positions, spacing) for spacing in self.spacing)
        self.positions = LAYOUTS[layout](cells, width, rows, columns)

    @property
    def spacing(self) -> tuple[Spacing, Spacing]:
        """Of the stored positions, along bands and frames."""
        height, width = (Spacing(self.patch[axis], self.step(self.patch, axis)) for axis in (0, 1))
        return height, width

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
                matrix = kernel_matrix_for(weight, self.patch[axis], patch[axis], self.resize)
                weight = torch.einsum("po,dot->dpt" if axis == 0 else "po,dfo->dfp", matrix, weight)
        return weight

    def forward(
        self, mel: Tensor, lengths: tuple[int, ...], stretch: tuple[float, ...], patch: Size
    ) -> tuple[Tensor, tuple[int, ...]]:
        """Cut clips into patches and embed them.

        Args:
            mel: (s, f) clips end to end.
            lengths: frames of each clip.
            stretch: hop of each clip relative to the stored positions'.
            patch: size to cut, in the frames of `mel`.

        Returns:
            (n, d) tokens, time-major inside a clip, and the tokens of each clip.

        Raises:
            ValueError: log-mel of another number of bands.
        """
        if mel.shape[1] != self.mel_bins:
            raise ValueError(f"log-mel of {mel.shape[1]} bands for a model of {self.mel_bins}")
        rows = self.starts(self.mel_bins, 0, patch)
        columns = [self.starts(length, 1, patch) for length in lengths]
        kernel = self.kernel(patch).transpose(1, 2).reshape(len(self.bias), -1)
        tokens = nn.functional.linear(self.cut(mel, lengths, rows, columns, patch), kernel, self.bias)
        bands = Places(rows, patch[0], self.mel_bins)
        times = [Places(s, patch[1], n, hop) for s, n, hop in zip(columns, lengths, stretch, strict=True)]
        return tokens + self.positions(bands, times), tuple(len(rows) * len(starts) for starts in columns)

    def cut(self, mel: Tensor, lengths: tuple[int, ...], rows: Starts, columns: list[Starts], patch: Size) -> Tensor:
        """(n, p_t p_f) patches of all clips: time in one gather of frames, bands as windows of these."""
        frames = torch.from_numpy(frame_index(lengths, columns, patch[1])).to(mel.device, non_blocking=True)
        bands = rows[-1] + patch[0]
        strips = pad(mel, (0, bands - self.mel_bins, 0, 1))[frames]  # (time, p_t, bands); the last row is the padding
        return _windows(strips, rows, patch[0]).transpose(1, 2).flatten(2).flatten(0, 1)


def frame_index(lengths: tuple[int, ...], columns: list[Starts], size: int) -> np.ndarray:
    """(time, size) frames of a pack that each patch covers; the pack's frame count stands for padding."""
    ends = np.cumsum(lengths)
    counts = [len(starts) for starts in columns]
    first = np.concatenate([np.array(starts) for starts in columns]) + np.repeat(ends - lengths, counts)
    index = first[:, None] + np.arange(size)
    return np.where(index < np.repeat(ends, counts)[:, None], index, ends[-1])


def _windows(strips: Tensor, starts: Starts, size: int) -> Tensor:
    """Cut the last axis into windows: (..., bands) to (..., windows, size)."""
    step = starts[1] - starts[0] if len(starts) > 1 else 1
    if starts == tuple(range(0, len(starts) * step, step)):
        return strips.unfold(-1, size, step)
    return torch.stack([strips.narrow(-1, start, size) for start in starts], -2)
