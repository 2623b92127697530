"""What a model costs at a shape: tokens, multiply-accumulates and memory of one clip."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from audiolib.batches import pack
from audiolib.dataset import Clips
from audiolib.models import Classifier
from audiolib.views import View

Size = tuple[int, int]


def mean_cost(model: Classifier, clips: Clips, view: View, size: Size) -> tuple[float, float]:
    """Tokens, and 10^9 multiply-accumulates: means over the clips, each as long as it is shown."""
    shown = Counter(seen_frames(clips, view))
    tokens = sum(count * model.tokens(seen, size) for seen, count in shown.items()) / len(clips)
    return tokens, sum(count * model.macs(seen, size) for seen, count in shown.items()) / len(clips) / 1e9


def seen_frames(clips: Clips, view: View) -> list[int]:
    """Frames that a model sees of each clip."""
    frames = [view.frames if view.padded else min(view.frames, own) for own in clips.frames.tolist()]
    seen = {n: replace(view, frames=n).seen for n in set(frames)}
    return [seen[n] for n in frames]


class ClipMemory:
    """MiB of tensors that classifying one clip takes at its peak, beside the weights; each shape is measured once.

    Args:
        device: where the models are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[tuple[Classifier, int, Size], float] = {}
        self.warm: set[tuple[Classifier, Size]] = set()

    def mib(self, model: Classifier, frames: int, size: Size) -> float:
        """Of a clip of `frames` frames as the model sees them, in patches of `size`."""
        shape = model, frames, size
        if shape not in self.known:
            batch = pack([torch.zeros(frames, model.config.mel_bins)]).to(self.device)
            with torch.inference_mode():
                if (model, size) not in self.warm:  # Resized kernels are made, and workspaces taken, once.
                    model(batch, size)
                    self.warm.add((model, size))
                self.known[shape] = peak_memory(lambda: model(batch, size), self.device)
        return self.known[shape]


def peak_memory(run: Callable[[], object], device: torch.device) -> float:
    """MiB of tensors by which a run raises what its device's allocator holds; exact, so the same in every run.

    Memory that a library takes past torch's allocator does not count.
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
