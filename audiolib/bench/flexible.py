"""What does a training step at a drawn patch size cost beyond one at the native size, for the same number of tokens?"""

import torch

from audiolib.batches import Batch, pack
from audiolib.bench.timing import Result, race
from audiolib.models import create_model
from audiolib.models.classifier import Classifier
from audiolib.models.transfer import transfer

FRAMES, CLIPS = 96, 32
SIZES = (8, 12, 20, 24, 32)


def measure(device: torch.device, rounds: int) -> list[Result]:
    """A model that stores 16 x 16 kernels and resizes them at every step, against one that stores the size itself."""
    sound = torch.randn(CLIPS * FRAMES, 128, generator=torch.Generator().manual_seed(0))
    batch = pack(list(sound.split(FRAMES)), torch.zeros(CLIPS, 10)).to(device)
    found: list[Result] = []
    for size in SIZES:
        flexible = create_model("flexi_nano", 10, frames=FRAMES).to(device)
        native = create_model("flexi_nano", 10, frames=FRAMES, patch=(size, size))
        transfer(flexible.state_dict(), native, flexible.embed.spacing)
        native.to(device)
        if flexible.tokens(FRAMES, (size, size)) != native.tokens(FRAMES):
            raise AssertionError(f"patch {size}: the two models see different numbers of tokens")
        kernel = flexible.embed.kernel((size, size))
        torch.testing.assert_close(kernel, native.embed.weight, atol=1e-4, rtol=1e-3)
        candidates = {
            "native": _step(native, batch, (size, size)),
            "resized from 16": _step(flexible, batch, (size, size)),
        }
        found += race("training step", f"patch {size}", f"float32, {CLIPS} clips", candidates, rounds, device)
    return found


def _step(model: Classifier, batch: Batch, patch: tuple[int, int]):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(batch, patch), batch.target).backward()
        optimizer.step()

    return run
