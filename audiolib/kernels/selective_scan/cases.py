"""The packs on which every implementation is checked: ragged, short and long, without gate or skip, extreme steps."""

from typing import Any

import torch
from torch import Tensor

from audiolib.kernels import check

GRADIENT_FACTOR = check.GRADIENT_FACTOR

# name: (lengths of the segments, channels, states, options)
CASES: dict[str, tuple[tuple[int, ...], int, int, dict[str, Any]]] = {
    "one token": ((1,), 8, 4, {}),
    "two tokens": ((2,), 16, 16, {}),
    "63": ((63,), 24, 16, {}),
    "513": ((513,), 20, 16, {}),
    "reverse": ((65,), 17, 8, {"reverse": True}),
    "ragged": ((1, 17, 64, 3, 130, 1), 40, 16, {}),
    "ragged, reverse": ((1, 17, 64, 3, 130, 1), 40, 16, {"reverse": True}),
    "no gate, skip or bias": ((5, 70), 16, 16, {"absent": ("D", "z", "delta_bias")}),
    "plain steps": ((40, 30), 16, 4, {"softplus": False}),
    "tiny steps": ((100,), 16, 16, {"shift": -12.0}),
    "as under autocast": ((30, 41), 24, 16, {"half": ("delta", "B", "C", "z")}),
    "huge steps": ((100,), 16, 16, {"shift": 12.0}),
}


def inputs(name: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a case, and its other arguments."""
    lengths, e, j, options = CASES[name]
    random = torch.Generator().manual_seed(seed)
    n = sum(lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    tensors = {
        "u": draw(n, e),
        "delta": draw(n, e),
        "A": -draw(e, j).exp(),
        "B": draw(n, j),
        "C": draw(n, j),
        "D": draw(e),
        "z": draw(n, e),
        "delta_bias": draw(e) * 0.5 - 2 + options.get("shift", 0.0),
    }
    if not options.get("softplus", True):
        tensors["delta"], tensors["delta_bias"] = draw(n, e).abs() * 0.1, draw(e).abs() * 0.1
    for absent in options.get("absent", ()):
        del tensors[absent]
    kinds = dict.fromkeys(options.get("half", ()), torch.bfloat16)
    rest = {"lengths": lengths, "reverse": options.get("reverse", False), "softplus": options.get("softplus", True)}
    return {part: tensor.to(kinds.get(part, dtype)) for part, tensor in tensors.items()}, rest
