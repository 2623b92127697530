"""The selective scan on a GPU: ours against the CUDA kernel of the Mamba authors, one way and both ways.

Through Triton's interpreter it runs on a CPU too, in a small size, which shows that it works and nothing else.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from audiolib.bench.timing import Result, race
from audiolib.errors import KernelUnavailable
from audiolib.kernels.selective_scan import mamba_ssm, naive, scan_both, triton

Scan = Callable[..., Tensor]
SIZES = {"cuda": ((32, 512, 384), (32, 2048, 768), (1, 16384, 768)), "cpu": ((2, 5, 40),)}
STATES = 16


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Forward and backward of each, the bandwidth that ours reaches, and that of a plain copy."""
    found: list[Result] = []
    authors = _authors(device)
    for clips, tokens, channels in SIZES[device.type]:
        inputs, lengths = _inputs(clips * tokens, channels, device), (tokens,) * clips
        case = f"{clips} x {tokens} tokens, {channels} channels, {STATES} states"
        back = {"back_A": inputs["A"] * 0.9}
        one: dict[str, Scan] = {**authors, "triton": triton}
        both: dict[str, Scan] = {f"{name}, two launches": partial(_two, scan) for name, scan in one.items()}
        both["triton"] = partial(scan_both, "triton")
        for mode, scans, tensors in (("one way", one, inputs), ("both ways", both, inputs | back)):
            _check(scans, tensors, tokens)
            candidates = {name: partial(_run, scan, tensors, lengths) for name, scan in scans.items()}
            timed = race("scan_gpu", case, f"{mode}, forward+backward", candidates, rounds, device)
            found += timed
            found.append(_bandwidth(timed[-1], inputs, 1 if mode == "one way" else 2))
    return [*found, _copy(device, rounds)]


def _authors(device: torch.device) -> dict[str, Scan]:
    """The authors' kernel if this machine has it."""
    if device.type != "cuda":
        return {}
    one = _inputs(4, 32, device)
    try:
        mamba_ssm(**one, lengths=(4,))
    except KernelUnavailable as error:
        print(f"without the authors' kernel: {error}", flush=True)
        return {}
    return {"mamba_ssm": mamba_ssm}


def _inputs(tokens: int, channels: int, device: torch.device) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    rows = {"u": draw(tokens, channels), "delta": draw(tokens, channels), "z": draw(tokens, channels)}
    weights = {"D": draw(channels), "delta_bias": draw(channels) - 4}
    a = -torch.arange(1.0, STATES + 1).repeat(channels, 1).to(device)
    return {**rows, "A": a, "B": draw(tokens, STATES), "C": draw(tokens, STATES), **weights}


def _two(scan: Scan, u: Tensor, delta: Tensor, A: Tensor, back_A: Tensor, *rest: Tensor, **options: object) -> Tensor:
    return scan(u, delta, A, *rest, **options) + scan(u, delta, back_A, *rest, reverse=True, **options)


def _run(scan: Scan, tensors: dict[str, Tensor], lengths: tuple[int, ...]) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in tensors.items()}
    order = [name for name in ("u", "delta", "A", "back_A", "B", "C", "D", "z", "delta_bias") if name in leaves]
    out = scan(*(leaves[name] for name in order), lengths=lengths)
    out.sum().backward()
    return [out.detach(), *(leaves[name].grad for name in order)]


def _check(scans: dict[str, Scan], tensors: dict[str, Tensor], tokens: int) -> None:
    """Results and gradients on the first tokens against the naive scan, to a thousandth of the largest value."""
    few = min(tokens, 128)
    cut = {name: tensor[:few] if name in ("u", "delta", "z", "B", "C") else tensor for name, tensor in tensors.items()}
    plain = partial(_two, naive) if "back_A" in tensors else naive
    wanted = _run(plain, {name: tensor.double() for name, tensor in cut.items()}, (few,))
    for name, scan in scans.items():
        for mine, right in zip(_run(scan, cut, (few,)), wanted, strict=True):
            error = float((mine.double() - right).abs().max() / right.abs().max())
            if not error < 1e-3:
                raise AssertionError(f"{name} is wrong by {error:.1e} of the largest value")


def _bandwidth(timed: Result, inputs: dict[str, Tensor], ways: int) -> Result:
    """Over the least to be moved: u, delta, z, B, C and the result forward; these and all gradients back."""
    wide, narrow = inputs["u"].nbytes, inputs["B"].nbytes
    least = ways * (4 * wide + 2 * narrow) + ways * (7 * wide + 4 * narrow)
    rates = [least / taken / 1e6 for taken in (timed.median, timed.p80, timed.p20)]
    return Result(timed.op, timed.impl, timed.case, f"{timed.mode}, bandwidth", *rates, "GB/s")


def _copy(device: torch.device, rounds: int) -> Result:
    source = torch.zeros(2**28 if device.type == "cuda" else 2**20, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    timed = race("scan_gpu", "", "", {"copy": lambda: into.copy_(source)}, rounds, device)[0]
    rates = [2 * source.nbytes / taken / 1e6 for taken in (timed.median, timed.p80, timed.p20)]
    return Result("scan_gpu", "copy", f"{source.nbytes >> 20} MiB", "bandwidth", *rates, "GB/s")
