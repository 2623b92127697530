"""Packed training against padded batches and against packing with a dense mask, on the clip lengths of FSDD."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from audiolib.batches import Batch, pack
from audiolib.bench.timing import Result, peak_memory, race
from audiolib.kernels.segment_attention import choose
from audiolib.models import create_model
from audiolib.models.classifier import Classifier
from audiolib.packing import best_fit, fill, next_fit
from audiolib.precision import has_bf16

# Frames of FSDD's 3,000 clips at a hop of 10 ms: the shortest, each hundredth of the way, the longest.
FSDD = [
    *(12, 17, 19, 21, 22, 23, 23, 24, 25, 25, 26, 26, 27, 27, 28, 28, 29, 29, 30, 30, 30, 31, 31, 32, 32, 32, 33),
    *(33, 33, 33, 34, 34, 34, 35, 35, 35, 36, 36, 36, 37, 37, 37, 38, 38, 38, 39, 39, 39, 39, 40, 40, 40, 41, 41),
    *(41, 41, 42, 42, 43, 43, 43, 43, 44, 44, 45, 45, 46, 46, 46, 47, 47, 47, 48, 48, 49, 49, 49, 50, 50, 51, 51),
    *(52, 52, 53, 54, 54, 55, 56, 57, 58, 58, 60, 60, 62, 62, 64, 66, 71, 78, 90, 226),
]
BUDGET = 2048
# Models and numbers of packs that they train on at once. A GPU takes longer to start the small one than to compute it.
TRAINED = {"cpu": (("elastic_tiny", 1),), "cuda": (("elastic_tiny", 1), ("elastic_base", 4))}
Step = Callable[[], None]


def lengths_like(name: str, count: int) -> list[int]:
    """Frames of clips as in FSDD, or as in VoxCeleb1 (4 to 145 s, mean 8.2 s; its tail taken as exponential)."""
    random = np.random.default_rng(0)
    if name == "fsdd":
        return np.interp(random.uniform(0, 100, count), np.arange(101), FSDD).round().astype(int).tolist()
    return (100 * np.minimum(4 + random.exponential(4.2, count), 145)).round().astype(int).tolist()


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Efficiency of the packers; then clips per second and peak memory of training."""
    found = _packers()
    for name, packs in TRAINED[device.type]:
        found += _training(name, packs, device, rounds)
    return found


def _packers() -> list[Result]:
    found = []
    for name in ("fsdd", "voxceleb"):
        sizes = [8 * -(-frames // 16) for frames in lengths_like(name, 3000)]
        for packer, packs in (
            ("next_fit", next_fit(sizes, BUDGET)),
            ("best_fit, window 256", best_fit(sizes, BUDGET, 256)),
        ):
            if sorted(place for held in packs for place in held) != list(range(len(sizes))):
                raise AssertionError(f"{packer} lost a clip")
            share = 100 * fill(sizes, packs, BUDGET)
            found.append(Result("packing", packer, name, f"{BUDGET} tokens", share, share, share, "% filled"))
    return found


def _training(name: str, packs: int, device: torch.device, rounds: int) -> list[Result]:
    clips, padded, packed = _batches(packs, device)
    model = create_model(name, 10, frames=max(packed.lengths), token_dropout=0.0).to(device)
    tokens = [sum(model.tokens(n) for n in batch.lengths) for batch in (padded, packed)]
    told = f"{len(clips)} clips, {tokens[1]} real and {tokens[0]} padded tokens"
    modes = {torch.float32: f"float32, {told}"}
    if has_bf16(device):
        modes[torch.bfloat16] = f"bfloat16, {told}"
    steps = {
        dtype: {
            "padded": _step(model, padded, dtype, choose(device, dtype, equal=True)),
            "packed": _step(model, packed, dtype, choose(device, dtype, equal=False)),
        }
        for dtype in modes
    }
    if packs == 1:  # A mask over several would be of their product.
        for dtype, candidates in steps.items():
            candidates["packed, dense mask"] = _step(model, packed, dtype, "naive")
    if device.type == "cuda":  # What else could do it there.
        for dtype, candidates in steps.items():
            others = {"grouped", "flex"} - {choose(device, dtype, equal=False)}
            candidates |= {f"packed, {impl}": _step(model, packed, dtype, impl) for impl in sorted(others)}
    found: list[Result] = []
    for dtype, mode in modes.items():
        # On a CPU before anything ran in this process: memory that was freed would be taken again unseen.
        for way, run in steps[dtype].items():
            peak = peak_memory(run, device)
            found.append(Result("training", way, "peak memory", mode, peak, peak, peak, "MiB"))
    _check(model, packed, clips, device)
    for dtype, mode in modes.items():
        timed = race("training", f"{name}, fsdd", mode, steps[dtype], rounds, device)
        found += [*timed, *(_rate(result, len(clips)) for result in timed)]
        share = 100 * tokens[1] / tokens[0] / timed[1].ratio
        found.append(Result("training", "packed", "of the ideal ratio", mode, share, share, share, "%"))
        if device.type == "cuda":
            found.append(_matmul_share(model, packed, timed[1], dtype, mode))
    return found


def _batches(packs: int, device: torch.device) -> tuple[list[Tensor], Batch, Batch]:
    """Noise of FSDD's lengths for so many packs: its clips, padded to the longest, and packed as the loader does it."""
    lengths = lengths_like("fsdd", 1000)
    chosen = next_fit([8 * -(-frames // 16) for frames in lengths], packs * BUDGET)[0]
    random = torch.Generator().manual_seed(0)
    clips = [torch.randn(frames, 128, generator=random) for frames in sorted(lengths[place] for place in chosen)]
    target = torch.eye(10)[torch.arange(len(clips)) % 10]
    padded = pack([torch.nn.functional.pad(clip, (0, 0, 0, len(clips[-1]) - len(clip))) for clip in clips], target)
    return clips, padded.to(device), pack(clips, target).to(device)


def _rate(result: Result, clips: int) -> Result:
    per_second = [1000 * clips / taken for taken in (result.median, result.p80, result.p20)]
    return Result("training", result.impl, result.case, result.mode, *per_second, "clips/s")


def _check(model: Classifier, packed: Batch, clips: list[Tensor], device: torch.device) -> None:
    """A pack must say what its clips say alone, whichever attention runs."""
    with torch.no_grad():
        alone = torch.cat([model(pack([clip]).to(device)) for clip in clips])
        for impl in ("auto", "naive"):
            model.use_kernels(attention=impl, scan="auto")
            torch.testing.assert_close(model(packed), alone, atol=1e-3, rtol=1e-3)


def _step(model: Classifier, batch: Batch, dtype: torch.dtype, impl: str) -> Step:
    def run() -> None:
        model.use_kernels(attention=impl, scan="auto")
        with torch.autocast(batch.mel.device.type, dtype, enabled=dtype != torch.float32):
            logits = model(batch)
        torch.nn.functional.cross_entropy(logits.float(), batch.target).backward()
        model.zero_grad(set_to_none=True)  # Nothing is left that would count for or against the next one's memory.

    return run


def _matmul_share(model: Classifier, packed: Batch, timed: Result, dtype: torch.dtype, mode: str) -> Result:
    """The step's multiply-accumulates a second (backward counted twice) over those of a large matrix product."""
    side = 8192
    square = torch.randn(side, side, device=packed.mel.device, dtype=dtype)
    product = race("matmul", "", "", {"": lambda: square @ square}, 20, packed.mel.device)[0]
    peak = side**3 / product.median
    share = 100 * 3 * sum(model.macs(n) for n in packed.lengths) / timed.median / peak
    return Result("training", "packed", "of the matmul peak", mode, share, share, share, "%")
