"""One rule for every fast kernel: no worse than arithmetic allows (tests and benchmarks use the same one).

The reference is the operator's naive version in float64. A fast version passes if its largest error is at most twice
(gradients: three times, unless the operator's cases say otherwise) that of the naive version run in the same dtype,
plus four units in the last place of the largest number of that output or gradient. Where a gradient is zero because
its parts cancel, they are taken to be as large as the product of the largest inputs.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from audiolib.errors import AudiolibError

Operator = Callable[..., Tensor]
FORWARD_FACTOR = 2.0
GRADIENT_FACTOR = 3.0


def outputs_and_gradients(operator: Operator, tensors: Mapping[str, Tensor], **options: object) -> dict[str, Tensor]:
    """Run forward and backward once; the result under `out`, each gradient under its input's name."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in tensors.items()}
    out = operator(**leaves, **options)
    weight = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape).to(out)
    (out * weight).sum().backward()
    return {"out": out.detach(), **{name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}}


def failures(
    fast: Operator,
    naive: Operator,
    tensors: Mapping[str, Tensor],
    *,
    gradient_factor: float = GRADIENT_FACTOR,
    **options: object,
) -> list[str]:
    """What `fast` gets wrong on one case, a line each; empty when it passes."""
    found = outputs_and_gradients(fast, tensors, **options)  # First: what cannot run here need not wait for the others.
    exact = outputs_and_gradients(naive, {name: t.double() for name, t in tensors.items()}, **options)
    plain = outputs_and_gradients(naive, tensors, **options)
    problems = []
    parts = math.prod(max(1.0, float(tensor.abs().max())) for tensor in tensors.values())
    for name, wanted in exact.items():
        if name not in found:
            problems.append(f"{name}: no gradient")
            continue
        factor, largest = (FORWARD_FACTOR if name == "out" else gradient_factor), float(wanted.abs().max())
        if name != "out" and largest == 0.0:
            largest = parts
        unit = 4 * torch.finfo(found[name].dtype).eps * largest
        allowed = factor * float((plain[name].double() - wanted).abs().max()) + unit
        error = float((found[name].double() - wanted).abs().max())
        if not error <= allowed:
            problems.append(f"{name}: error {error:.3g}, allowed {allowed:.3g}")
    return problems


def tried(fast: Operator, naive: Operator, tensors: Mapping[str, Tensor], **options: object) -> str:
    """`right`, `wrong: ...`, or `not here: ...` with the reason, for an implementation on this machine."""
    try:
        problems = failures(fast, naive, tensors, **options)
    except (AudiolibError, RuntimeError, ImportError, ValueError, NotImplementedError) as error:
        return f"not here: {' '.join(str(error).split())[:200]}"
    return f"wrong: {'; '.join(problems)}" if problems else "right"
