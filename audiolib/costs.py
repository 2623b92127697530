"""What a model costs at a shape: tokens, multiply-accumulates and memory of one clip."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from audiolib.batches import pack
from audiolib.models import Classifier

Size = tuple[int, int]


def mean_cost(model: Classifier, frames: Sequence[int], size: Size) -> tuple[float, float]:
    """Tokens, and 10^9 multiply-accumulates: means over clips.

    Args:
        model: which.
        frames: that it sees of each clip.
        size: of its patches.
    """
    shown = Counter(frames)
    tokens = sum(count * model.tokens(seen, size) for seen, count in shown.items()) / len(frames)
    return tokens, sum(count * model.macs(seen, size) for seen, count in shown.items()) / len(frames) / 1e9


class ClipMemory:
    """MiB of tensors that classifying one clip takes at its peak, beside the weights; each shape is measured once.

    Args:
        device: where the models are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[Classifier, int, Size], float] = {}

    def mib(self, model: Classifier, frames: int, size: Size) -> float:
        """Of a clip of `frames` frames as the model sees them, in patches of `size`."""
        shape = model, frames, size
        if shape not in self.known:
            batch = pack([torch.zeros(frames, model.config.mel_bins)]).to(self.device)
            with torch.inference_mode():
                model(batch, size)  # What is made once for a shape, such as resized kernels, is no part of it.
                self.known[shape] = peak_memory(lambda: model(batch, size), self.device)
        return self.known[shape]


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB of tensors by which a run raises what its device's allocator holds.

    It is exact, and so the same in every run that follows another. Memory that a library takes past torch's allocator
    does not count.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # Else it reports on a machine without a GPU that there is none.
    from torch.autograd.profiler import profile

    with profile(profile_memory=True) as profiled, _operators_unseen():
        kept = run()
    events = [event for event in profiled.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    del kept  # The result belongs to the peak.
    return most / 2**20


@contextmanager
def _operators_unseen() -> Iterator[None]:
    """Let a profiler note memory alone: operators are three of four things that it would write down."""
    torch.autograd._enable_record_function(False)
    try:
        yield
    finally:
        torch.autograd._enable_record_function(True)
