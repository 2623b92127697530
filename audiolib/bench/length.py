"""Audio Mamba against AST of the same width and nearly as many weights, over the length of a clip."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from audiolib.batches import Batch, pack
from audiolib.bench.timing import Result, peak_memory, race
from audiolib.models import Classifier, create_model

TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
LONGEST_TRAINED = 8192


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Inference and a training step of one clip of 64 to 16,384 tokens (1.3 s to 5.5 minutes at a hop of 10 ms)."""
    found: list[Result] = []
    for tokens, mode, steps in _cases(device):
        for name, step in steps.items():
            peak = peak_memory(step, device)
            found.append(Result("length", name, f"{tokens} tokens", f"{mode}, memory", peak, peak, peak, "MiB"))
    for tokens, mode, steps in _cases(device):
        found += race("length", f"{tokens} tokens", mode, steps, max(3, min(rounds, 20_000 // tokens)), device)
    return found


def _cases(device: torch.device) -> Iterator[tuple[int, str, dict[str, Callable[[], None]]]]:
    """Tokens, mode, and what each model does."""
    for tokens in TOKENS:
        frames = 2 * tokens  # Eight patches of 16 x 16 for each 16 frames of 128 bands.
        models = {name: create_model(f"{name}_nano", 10, frames=frames).to(device) for name in ("ast", "aum")}
        if any(model.tokens(frames) != tokens for model in models.values()):
            raise AssertionError(f"{tokens} tokens are not what the models see")
        batch = pack([torch.randn(frames, 128)], torch.eye(10)[:1]).to(device)
        yield tokens, "inference", {name: partial(_infer, model, batch) for name, model in models.items()}
        if tokens <= LONGEST_TRAINED:
            yield tokens, "training step", {name: partial(_train, model, batch) for name, model in models.items()}


def _infer(model: Classifier, batch: Batch) -> None:
    with torch.inference_mode():
        model(batch)


def _train(model: Classifier, batch: Batch) -> None:
    torch.nn.functional.cross_entropy(model(batch), batch.target).backward()
    model.zero_grad(set_to_none=True)  # Nothing is left that would count for or against the next one's memory.
