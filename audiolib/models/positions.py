"""Where a token lies in time and frequency: learned positions, read at any patch size, clip length and hop."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from audiolib.errors import AudiolibError
from audiolib.models.resize import resize_matrix

Size = tuple[int, int]  # (mel bands, frames)


def as_size(name: str, value: Any) -> Size:
    """A size as (mel bands, frames); a number is a square.

    Raises:
        AudiolibError: it is neither a whole number from 1 on nor two of them.
    """
    pair = (value, value) if isinstance(value, int) else tuple(value) if isinstance(value, list | tuple) else ()
    if len(pair) != 2 or not all(isinstance(cells, int) and cells >= 1 for cells in pair):
        raise AudiolibError(f"{name} is a whole number from 1 on, or (mel bands, frames), not {value!r}")
    return pair


@dataclass(frozen=True)
class Places:
    """Where the patches of one clip lie along one axis.

    Attributes:
        starts: first frame (or band) of each patch.
        size: frames of a patch.
        length: frames of the clip, without padding.
        hop: frames of the stored positions that one frame of the clip lasts.
    """

    starts: tuple[int, ...]
    size: int
    length: int
    hop: float = 1.0


@dataclass(frozen=True)
class Spacing:
    """Which patches the stored positions of an axis were learned for: the n-th begins at n steps.

    Attributes:
        size: frames (or bands) of a stored patch.
        step: from one to the next; less than `size` where they overlap.
    """

    size: int
    step: int


@lru_cache(maxsize=512)
def centre_matrix(old: int, spacing: Spacing, places: Places) -> Tensor:
    """The (new, old) float64 matrix that reads stored positions at the true centres of other patches.

    Args:
        old: stored positions.
        spacing: of these.
        places: the patches; those of a clip longer than the stored positions are squeezed onto them.

    Each row is a triangle around the patch's centre, as wide as the patch where that is wider than a stored one: the
    same weights as an antialiased bilinear resize, but unmoved by padding at the border.
    """
    heard = min(places.length, places.starts[-1] + places.size)  # What is cropped has no position.
    extent = (old - 1) * spacing.step + spacing.size
    shrink = places.hop * min(1.0, extent / (heard * places.hop))
    with torch.inference_mode(False):
        middles = (torch.tensor(places.starts, dtype=torch.float64) + places.size / 2) * shrink
        centres = (middles / spacing.step - spacing.size / (2 * spacing.step)).clamp(0, old - 1)
        reach = max(1.0, places.size * shrink / spacing.size)
        weights = (1 - (torch.arange(old)[None, :] - centres[:, None]).abs() / reach).clamp(min=0)
        return weights / weights.sum(1, keepdim=True)


MODES = ("stretch", "centre", "index")


class Axis:
    """How positions along one axis are read.

    Args:
        mode: `stretch` resizes all stored positions to the clip's patches (papers.md 2.1); `centre` reads them at each
            patch's true place in seconds or bands; `index` as if every frame were one of the stored hop, so that the
            n-th patch has the n-th position at any hop, as published ElasticAST weights learned it (papers.md 5.1).
        spacing: of the stored positions.
    """

    def __init__(self, mode: str, spacing: Spacing) -> None:
        self.mode, self.spacing = mode, spacing

    def matrix(self, stored: int, clips: list[Places], like: Tensor) -> Tensor:
        """(n, stored) matrix for the patches of several clips, one after another; device and dtype of `like`."""
        if self.mode == "stretch":
            found = [resize_matrix(stored, len(places.starts), "bilinear", True) for places in clips]
        else:
            same = self.mode == "index"
            found = [centre_matrix(stored, self.spacing, replace(p, hop=1.0) if same else p) for p in clips]
        return torch.cat(found).to(like.device, like.dtype, non_blocking=True)  # A GPU need not come to rest for it.


def sines(count: int, channels: int) -> Tensor:
    """(count, channels) sines and cosines of rates from one radian a cell to a thousandth: neighbours are alike."""
    rates = 1000.0 ** -torch.linspace(0, 1, channels // 2)
    angles = torch.arange(count)[:, None] * rates[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class GridPositions(nn.Module):
    """One learned vector for each cell of a (bands, frames) grid, as in ViT and AST.

    Args:
        cells: of the grid.
        width: d.
        rows: how bands are read; `columns` how time is.
    """

    def __init__(self, cells: Size, width: int, rows: Axis, columns: Axis) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.grid = nn.Parameter(torch.empty(*cells, width))

    def init_weights(self) -> None:
        """Half of the channels tell the band, half the time; so that the grid can be read between its cells."""
        bands, frames, width = self.grid.shape
        band = sines(bands, width // 2)[:, None].expand(bands, frames, -1)
        time = sines(frames, width // 2)[None].expand(bands, frames, -1)
        self.grid.data.copy_(0.5 * torch.cat([band, time], dim=2))

    def forward(self, rows: Places, columns: list[Places]) -> Tensor:
        """(n, d) positions of the patches of all clips, time-major inside a clip."""
        grid = torch.einsum("bo,otd->btd", self.rows.matrix(len(self.grid), [rows], self.grid), self.grid)
        matrix = self.columns.matrix(self.grid.shape[1], columns, self.grid)
        return torch.einsum("no,bod->nbd", matrix, grid).flatten(0, 1)


class AxisPositions(nn.Module):
    """A learned vector for each band and one for each step in time, added (ElasticAST; papers.md 5.1).

    Args:
        cells: stored bands and steps.
        width: d.
        rows: how bands are read; `columns` how time is.
    """

    def __init__(self, cells: Size, width: int, rows: Axis, columns: Axis) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.band, self.time = nn.Parameter(torch.empty(cells[0], width)), nn.Parameter(torch.empty(cells[1], width))

    def init_weights(self) -> None:
        """The sum is what a fresh `GridPositions` holds."""
        for parameter, first in ((self.band, True), (self.time, False)):
            told = 0.5 * sines(len(parameter), parameter.shape[1] // 2)
            parts = [told, torch.zeros_like(told)] if first else [torch.zeros_like(told), told]
            parameter.data.copy_(torch.cat(parts, dim=1))

    def forward(self, rows: Places, columns: list[Places]) -> Tensor:
        """(n, d) positions of the patches of all clips, time-major inside a clip."""
        band = self.rows.matrix(len(self.band), [rows], self.band) @ self.band
        time = self.columns.matrix(len(self.time), columns, self.time) @ self.time
        return (time[:, None] + band[None]).flatten(0, 1)


LAYOUTS = {"grid": GridPositions, "axes": AxisPositions}
