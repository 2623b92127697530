"""The selective scan against the best loop in plain PyTorch, and our mixer against that of transformers."""

from collections.abc import Callable

import torch
from torch import Tensor

from audiolib.bench.timing import Result, peak_memory, race
from audiolib.kernels.selective_scan import IMPLEMENTATIONS, choose, naive
from audiolib.models.mamba import Mixer

CLIPS, TOKENS, INNER, STATES = 2, 512, 384, 16
CASE = f"{CLIPS} x {TOKENS} tokens, {INNER} channels, {STATES} states"


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Forward and backward, memory over the tokens, and the rate of exponentials."""
    impl = choose(device, torch.float32)
    fast = IMPLEMENTATIONS[impl]
    found = []
    for tokens in (1024, 4096):
        larger = _inputs(tokens, device)
        peak = peak_memory(lambda larger=larger, tokens=tokens: _grads(fast, larger, (tokens,)), device)
        found.append(Result("scan", impl, f"peak memory, {tokens} tokens", "forward+backward", peak, peak, peak, "MiB"))
    inputs, lengths = _inputs(CLIPS * TOKENS, device), (TOKENS,) * CLIPS
    for one, two in zip(_grads(fast, inputs, lengths), _grads(naive, inputs, lengths), strict=True):
        torch.testing.assert_close(one, two, atol=2e-2, rtol=1e-3)
    candidates = {
        "loop over unbind": lambda: _grads(_batched_loop, inputs, lengths),
        impl: lambda: _grads(fast, inputs, lengths),
    }
    found += race("scan", CASE, "float32, forward+backward", candidates, rounds, device)
    return [*found, *_exponentials(fast, impl, inputs, lengths, rounds, device), *_mixers(rounds, device)]


def _inputs(tokens: int, device: torch.device) -> dict[str, Tensor]:
    random = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    return {
        "u": draw(tokens, INNER),
        "delta": draw(tokens, INNER),
        "A": -torch.arange(1.0, STATES + 1).repeat(INNER, 1).to(device),
        "B": draw(tokens, STATES),
        "C": draw(tokens, STATES),
        "D": draw(INNER),
        "z": draw(tokens, INNER),
        "delta_bias": draw(INNER) - 4,
    }


def _grads(scan: Callable[..., Tensor], inputs: dict[str, Tensor], lengths: tuple[int, ...]) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    scan(**leaves, lengths=lengths).sum().backward()
    return [leaf.grad for leaf in leaves.values()]


def _batched_loop(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor,
    delta_bias: Tensor,
    lengths: tuple[int, ...],
) -> Tensor:
    """All clips at once, for equal lengths: what one would write without a kernel."""
    step = torch.nn.functional.softplus(delta + delta_bias)
    parts = (tensor.unflatten(0, (len(lengths), -1)).unbind(1) for tensor in (step, u, B, C))
    state = A.new_zeros(len(lengths), *A.shape)
    out = []
    for dt, now, b, c in zip(*parts, strict=True):
        state = torch.exp(dt[..., None] * A) * state + (dt * now)[..., None] * b[:, None]
        out.append((state @ c[..., None])[..., 0])
    y = torch.stack(out, 1).flatten(0, 1)
    return (y + D * u) * torch.nn.functional.silu(z)


def _exponentials(
    fast: Callable[..., Tensor],
    impl: str,
    inputs: dict[str, Tensor],
    lengths: tuple[int, ...],
    rounds: int,
    device: torch.device,
) -> list[Result]:
    """Exponentials of a forward pass a second, beside those of torch.exp on an array that stays in the cache."""
    count = CLIPS * TOKENS * INNER * STATES
    small = -torch.rand(16384, device=device) * 10
    into = torch.empty_like(small)

    def plain() -> None:
        for _ in range(count // len(small)):
            torch.exp(small, out=into)

    with torch.inference_mode():
        timed = race(
            "exponentials",
            CASE,
            "",
            {"torch.exp": plain, impl: lambda: fast(**inputs, lengths=lengths)},
            rounds,
            device,
        )
    share = 100 / timed[1].ratio
    rates = []
    for result in timed:
        rate = [count / taken / 1e6 for taken in (result.median, result.p80, result.p20)]
        rates.append(Result("scan", result.impl, "exponentials", "forward", *rate, "10^9/s"))
    return [*rates, Result("scan", impl, "exponentials, of torch.exp", "forward", share, share, share, "%")]


def _mixers(rounds: int, device: torch.device) -> list[Result]:
    try:
        from transformers import MambaConfig
        from transformers.models.mamba.modeling_mamba import MambaMixer
    except ImportError:  # Nothing to compare with on a machine that has torch alone.
        return []
    width = INNER // 2
    ours = Mixer(width, STATES, "fo-fo")
    ours.init_weights(1, torch.Generator().manual_seed(0))  # Draws on a CPU.
    ours.to(device)
    theirs = MambaMixer(MambaConfig(hidden_size=width, state_size=STATES, time_step_rank=width // 16), 0).to(device)
    x = torch.randn(CLIPS, TOKENS, width, device=device)
    candidates = {
        "transformers": lambda: theirs(x).sum().backward(),
        "ours": lambda: ours(x.flatten(0, 1), (TOKENS,) * CLIPS).sum().backward(),
    }
    case = f"{CLIPS} x {TOKENS} tokens, width {width}"
    return race("mixer", case, "float32, forward+backward", candidates, min(rounds, 3), device)
