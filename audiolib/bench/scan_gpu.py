"""The selective scan on a GPU: ours against the CUDA kernel of the Mamba authors, one way and both ways.

Each has its inputs in the layout that it wants. Through Triton's interpreter it runs on a CPU too, in a small size,
which shows that it works and nothing else.
"""

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor

from audiolib.bench.timing import Result, race
from audiolib.errors import KernelUnavailable
from audiolib.kernels.selective_scan import naive, scan_both, triton
from audiolib.kernels.selective_scan.mamba_package import Kernel, packaged

Scan = Callable[..., Tensor]
Tensors = dict[str, Tensor]
SIZES = {"cuda": ((32, 512, 384), (32, 2048, 768), (1, 16384, 768)), "cpu": ((2, 5, 40),)}
STATES = 16
CHECKED = 200  # Tokens: more than three chunks of ours.
ROWS = ("u", "delta", "z", "B", "C")  # What varies over tokens.
ORDER = ("u", "delta", "A", "back_A", "B", "C", "D", "z", "delta_bias")
# Of the largest value. Bfloat16 has 8 bits, and rounds inputs, results and gradients.
ALLOWED = {torch.float32: 1e-3, torch.bfloat16: 2e-2}


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Forward and backward of each, the bandwidth that ours reaches, and that of a plain copy."""
    found: list[Result] = []
    authors = _authors(device)
    for clips, tokens, channels in SIZES[device.type]:
        case = f"{clips} x {tokens} tokens, {channels} channels, {STATES} states"
        for dtype in ALLOWED if device.type == "cuda" else (torch.float32,):
            one = _inputs(clips * tokens, channels, device, dtype)
            for ways, inputs in ((1, one), (2, one | {"back_A": one["A"] * 0.9})):
                _check(authors, inputs, min(tokens, CHECKED), ALLOWED[dtype])
                mode = f"{'one way' if ways == 1 else 'both ways'}, {str(dtype).removeprefix('torch.')}"
                candidates = _candidates(authors, inputs, clips, tokens)
                timed = race("scan_gpu", case, f"{mode}, forward+backward", candidates, rounds, device)
                found += [*timed, _bandwidth(timed[-1], inputs)]
    return [*found, _copy(device, rounds)]


def _authors(device: torch.device) -> Kernel | None:
    """The authors' kernel if this machine has it."""
    if device.type != "cuda":
        return None
    try:
        return packaged()
    except KernelUnavailable as error:
        print(f"without the authors' kernel: {error}", flush=True)
        return None


def _inputs(tokens: int, channels: int, device: torch.device, dtype: torch.dtype) -> Tensors:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    rows = {"u": draw(tokens, channels), "delta": draw(tokens, channels), "z": draw(tokens, channels)}
    weights = {"D": draw(channels), "delta_bias": draw(channels) - 4}
    a = -torch.arange(1.0, STATES + 1).repeat(channels, 1).to(device)
    made = {**rows, "A": a, "B": draw(tokens, STATES), "C": draw(tokens, STATES), **weights}
    return {name: tensor.to(dtype) if name in ROWS else tensor for name, tensor in made.items()}


def _candidates(
    authors: Kernel | None, inputs: Tensors, clips: int, tokens: int
) -> dict[str, Callable[[], list[Tensor]]]:
    lengths, both = (tokens,) * clips, "back_A" in inputs
    found = {}
    if authors is not None:
        found["mamba_ssm, way after way" if both else "mamba_ssm"] = partial(
            _run, partial(_theirs, authors), _batches(inputs, clips)
        )
    if both:
        found["triton, way after way"] = partial(_run, partial(_two, lengths=lengths), inputs)
    found["triton"] = partial(_run, partial(partial(scan_both, "triton") if both else triton, lengths=lengths), inputs)
    return found


def _two(u: Tensor, delta: Tensor, A: Tensor, back_A: Tensor, *rest: Tensor, lengths: tuple[int, ...]) -> Tensor:
    return triton(u, delta, A, *rest, lengths=lengths) + triton(u, delta, back_A, *rest, lengths=lengths, reverse=True)


def _theirs(kernel: Kernel, *given: Tensor) -> Tensor:
    """The authors' kernel on batches (m, e, l); it scans forward alone: for the way back everything is flipped."""
    u, delta, a, *back, b, c, d, z, bias = given
    out = kernel(u, delta, a, b, c, d, z, bias, delta_softplus=True)
    if not back:
        return out
    turned = [tensor.flip(-1) for tensor in (u, delta, b, c, z)]
    return out + kernel(*turned[:2], back[0], *turned[2:4], d, turned[4], bias, delta_softplus=True).flip(-1)


def _batches(tensors: Tensors, clips: int) -> Tensors:
    """What varies over tokens from (n, x) to (clips, x, tokens)."""
    return {
        name: tensor.unflatten(0, (clips, -1)).transpose(1, 2).contiguous() if name in ROWS else tensor
        for name, tensor in tensors.items()
    }


def _run(scan: Scan, tensors: Tensors) -> list[Tensor]:
    leaves = {name: tensors[name].detach().requires_grad_() for name in ORDER if name in tensors}
    out = scan(*leaves.values())
    out.sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves.values())]


def _check(authors: Kernel | None, inputs: Tensors, few: int, allowed: float) -> None:
    """Results and gradients on the first tokens against the naive scan."""
    cut = {name: tensor[:few] if name in ROWS else tensor for name, tensor in inputs.items()}

    def plain(*given: Tensor) -> Tensor:
        return scan_both("naive", *given, lengths=(few,)) if "back_A" in cut else naive(*given, lengths=(few,))

    wanted = _run(plain, {name: tensor.double() for name, tensor in cut.items()})
    names = ["out", *(name for name in ORDER if name in cut)]
    for impl, run in _candidates(authors, cut, 1, few).items():
        for name, mine, right in zip(names, _whole(run()), wanted, strict=True):
            error = float((mine.double() - right).abs().max() / right.abs().max())
            if not error < allowed:
                raise AssertionError(f"{impl} is wrong by {error:.1e} of the largest value of {name}")


def _whole(found: list[Tensor]) -> Iterable[Tensor]:
    """Of a batch of one clip, as a pack."""
    return (tensor[0].T if tensor.ndim == 3 else tensor for tensor in found)


def _bandwidth(timed: Result, inputs: Tensors) -> Result:
    """Over the least to be moved: u, delta, z, B, C and the result forward; these and all gradients back. Of both ways
    that is no more."""
    wide, narrow = inputs["u"].nbytes, inputs["B"].nbytes
    least = 11 * wide + 6 * narrow
    rates = [least / taken / 1e6 for taken in (timed.median, timed.p80, timed.p20)]
    return Result(timed.op, timed.impl, timed.case, f"{timed.mode}, bandwidth", *rates, "GB/s")


def _copy(device: torch.device, rounds: int) -> Result:
    source = torch.zeros(2**30 if device.type == "cuda" else 2**20, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    timed = race("scan_gpu", "", "", {"copy": lambda: into.copy_(source)}, rounds, device)[0]
    rates = [2 * source.nbytes / taken / 1e6 for taken in (timed.median, timed.p80, timed.p20)]
    return Result("scan_gpu", "copy", f"{source.nbytes >> 20} MiB", "bandwidth", *rates, "GB/s")
