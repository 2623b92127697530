"""Training steps in bfloat16 against float32, of each kind of model: what `precision: auto` is worth here."""

from collections.abc import Callable

import torch

from audiolib.batches import Batch, pack
from audiolib.bench.packing import lengths_like
from audiolib.bench.timing import Result, race
from audiolib.models import Classifier, create_model
from audiolib.precision import has_bf16

FRAMES, CLIPS, CLASSES = 96, 32, 10
# Name of the model and its changes, and whether its clips come packed, of many lengths.
MODELS = {
    "AST/8": ("ast_nano", {"patch": 8}, False),
    "AST/16": ("ast_nano", {}, False),
    "AST/32": ("ast_nano", {"patch": 32}, False),
    "ElasticAST, packed": ("elastic_nano", {"token_dropout": 0.0}, True),
    "Audio Mamba": ("aum_nano", {}, False),
}


def measure(device: torch.device, rounds: int) -> list[Result]:
    """A step of each model in float32 and, where the device has it, in bfloat16."""
    dtypes = [torch.float32, torch.bfloat16] if has_bf16(device) else [torch.float32]
    found: list[Result] = []
    for case, (name, changes, packed) in MODELS.items():
        torch.manual_seed(0)
        batch = _batch(packed).to(device)
        model = create_model(name, CLASSES, frames=max(batch.lengths), **changes).to(device)
        steps = {str(dtype).removeprefix("torch."): _step(model, batch, dtype) for dtype in dtypes}
        losses = [run().item() for run in steps.values()]
        torch.testing.assert_close(losses[-1], losses[0], rtol=0.02, atol=0.0)
        found += race("precision", case, f"{CLIPS} clips, forward+backward", steps, rounds, device)
    return found


def _batch(packed: bool) -> Batch:
    """Noise, of one length or of FSDD's."""
    lengths = lengths_like("fsdd", CLIPS) if packed else [FRAMES] * CLIPS
    return pack([torch.randn(length, 128) for length in lengths], torch.eye(CLASSES)[torch.arange(CLIPS) % CLASSES])


def _step(model: Classifier, batch: Batch, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    def run() -> torch.Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(batch.mel.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), batch.target)
        loss.backward()
        return loss.detach()

    return run
