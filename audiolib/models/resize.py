"""Resizing one axis of a patch kernel, exactly (FlexiAST; papers.md section 2.1)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from audiolib.errors import check_choice

METHODS = ("pseudo_inverse", "interpolate")
MODES = ("bilinear", "bicubic")


@dataclass(frozen=True)
class Resize:
    """How a kernel becomes another size; published models differ, so it belongs to a model's config (papers.md 2.1).

    `pseudo_inverse` is the published method (bilinear, no antialias); timm uses it bicubic with antialias, big_vision
    bilinear with antialias. `interpolate` is the plain resize; that of the papers' comparison is antialiased.

    Raises:
        AudiolibError: a name that is not among `METHODS`, or `MODES`.
    """

    method: str = "pseudo_inverse"
    mode: str = "bilinear"
    antialias: bool = False

    def __post_init__(self) -> None:
        check_choice("resize.method", self.method, METHODS)
        check_choice("resize.mode", self.mode, MODES)


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


def kernel_matrix_for(weight: Tensor, old: int, new: int, resize: Resize) -> Tensor:
    """`kernel_matrix` in the dtype and on the device of a weight; it is copied there once, not at every step."""
    if torch.compiler.is_compiling():  # A traced tensor must not become the one for a device.
        return kernel_matrix(old, new, resize).to(weight)
    return _kernel_matrix_on(weight.device, weight.dtype, old, new, resize)


@lru_cache(maxsize=1024)
def _kernel_matrix_on(device: torch.device, dtype: torch.dtype, old: int, new: int, resize: Resize) -> Tensor:
    with torch.inference_mode(False):
        return kernel_matrix(old, new, resize).to(device, dtype)
