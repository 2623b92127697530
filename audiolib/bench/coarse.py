"""How much of what a coarse phase saves by the count is saved by the clock: training steps, loader and all."""

from collections.abc import Callable

import numpy as np
import torch

from audiolib.bench.loading import clips_of
from audiolib.bench.timing import Result, race
from audiolib.config.training import Augment, Phase
from audiolib.dataset import Clips
from audiolib.loader import Epoch, EqualSteps, batches
from audiolib.models import Classifier, create_model
from audiolib.order import epoch_order
from audiolib.phases import phase_patch
from audiolib.precision import has_bf16
from audiolib.views import phase_view

FRAMES, CLIPS, STEPS = 96, 32, 4
PLAIN = Augment(freq_mask=8, time_mask=8, mixup=0.0, roll=8, noise=0.0)
COARSE = [(2, "avg_pool"), (2, "max_pool"), (2, "frame_shift"), (2, "patchify"), (4, "avg_pool"), (1.5, "frame_shift")]


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Steps at full resolution against steps of each coarse kind, and the share of the counted saving that shows."""
    clips = clips_of([FRAMES] * CLIPS * STEPS)
    full = Phase(compression=1, method="none", epochs=1, lr=1e-4)
    coarse = [Phase(compression=factor, method=method, epochs=1, lr=1e-4) for factor, method in COARSE]
    found: list[Result] = []
    for precision in ("float32", "bfloat16") if has_bf16(device) else ("float32",):
        mode = f"{precision}, {CLIPS} clips of 0.96 s, loader included"
        model = create_model("ast_nano", 10, frames=FRAMES).to(device)
        candidates = {
            _name(phase): _steps(model, clips, phase, device, precision == "bfloat16") for phase in (full, *coarse)
        }
        timed = race("coarse", "training steps", mode, candidates, rounds, device)
        found += timed
        for phase, result in zip(coarse, timed[1:], strict=True):
            counted = 1 - _macs(model, phase) / _macs(model, full)
            share = 100 * (1 - result.ratio) / counted
            found.append(Result("coarse", _name(phase), "of the counted saving", mode, share, share, share, "%"))
    return found


def _name(phase: Phase) -> str:
    return "full resolution" if phase.method == "none" else f"{phase.method} {phase.compression:g}"


def _macs(model: Classifier, phase: Phase) -> int:
    return model.macs(phase_view(FRAMES, phase).seen, phase_patch((16, 16), phase))


def _steps(model: Classifier, clips: Clips, phase: Phase, device: torch.device, bf16: bool) -> Callable[[], None]:
    order, optimizer = epoch_order(clips, 0, 0), torch.optim.AdamW(model.parameters(), lr=1e-6)
    steps = EqualSteps(order.clips, phase_view(FRAMES, phase), CLIPS)
    epoch, patch = Epoch(clips, PLAIN, FRAMES, 0, 0, steps, order), phase_patch((16, 16), phase)
    seen = [batch.lengths for batch in batches(epoch)]
    if seen != [(phase_view(FRAMES, phase).seen,) * CLIPS] * STEPS:
        raise AssertionError(f"{_name(phase)}: the batches are not those of the count: {np.unique(seen)} frames")

    def run() -> None:
        for batch in batches(epoch):
            here = batch.to(device)
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = torch.nn.functional.cross_entropy(model(here, patch).float(), here.target)
            loss.backward()
            optimizer.step()

    return run
