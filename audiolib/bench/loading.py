"""How many clips a second the loader makes on one core, at stored and at drawn hops, and how many training takes."""

from dataclasses import replace

import numpy as np
import torch

from audiolib.batches import Batch
from audiolib.bench.packing import lengths_like
from audiolib.bench.timing import Result, race
from audiolib.config.training import Augment, Packing, Phase
from audiolib.dataset import Clips, InMemory
from audiolib.frontend import Frontend, log_mel
from audiolib.loader import Epoch, batches, packed_steps
from audiolib.models import create_model
from audiolib.order import epoch_order
from audiolib.rng import rng
from audiolib.views import draw_views

CLIPS = 1000
FRONTEND = {"sample_rate": 16000, "mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0}
PLAIN = Augment(freq_mask=8, time_mask=8, mixup=0.0, roll=8, noise=0.0)
BUDGET = {
    "tokens": 1024,
    "packer": "best_fit",
    "window": 256,
    "longest_seconds": 30,
    "shortest_seconds": None,
    "pools": [1],
}
HOPS = {"stored hop": [10.0], "drawn hops of 10 to 40 ms": [float(hop) for hop in range(10, 41, 2)]}


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Loader and training, clips per second, on one thread."""
    del device  # The loader works on the host; what a GPU takes is in the packing benchmark.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _rates(rounds)
    finally:
        torch.set_num_threads(threads)


def clips_of(lengths: list[int]) -> Clips:
    """Noise of so many frames each: the work does not depend on what is heard."""
    random, settings, count = np.random.default_rng(0), Frontend(**FRONTEND), len(lengths)
    waves = [(random.standard_normal(400 + 160 * (frames - 1)) * 3000).astype(np.int16) for frames in lengths]
    mel = [log_mel(wave.astype(np.float32) / 32767, settings).astype(np.float16) for wave in waves]
    return Clips(
        frames=np.array([len(one) for one in mel]),
        labels=np.arange(count) % 10,
        label_ends=np.arange(count + 1),
        names=[f"clip{n}" for n in range(count)],
        keys=np.arange(count),
        classes=10,
        mean=-5.0,
        std=4.0,
        frontend=FRONTEND,
        held=InMemory(mel, waves),
        groups=np.array([0, count]),
    )


def _rates(rounds: int) -> list[Result]:
    clips, model = clips_of(lengths_like("fsdd", CLIPS)), create_model("elastic_nano", 10, frames=226)
    phase = Phase(compression=1, method="none", epochs=1, lr=1e-3)
    found: list[Result] = []
    for name, hops in HOPS.items():
        packing = Packing(**BUDGET, hops_ms=hops)
        order, views = epoch_order(clips, 0, 0), draw_views(packing, phase, clips.frames, 10.0, 0, 0)
        tokens, mixing = [model.trained_tokens(view.seen) for view in views], rng(0, "packs")
        epoch = Epoch(clips, PLAIN, 96, 0, 0, packed_steps(order.clips, views, tokens, packing, mixing), order)
        made = list(batches(epoch))
        if sum(map(len, made)) != CLIPS or not all(batch.mel.isfinite().all() for batch in made):
            raise AssertionError("the loader lost a clip")
        candidates = {
            "loader": lambda epoch=epoch: list(batches(epoch)),
            "training": lambda made=made: _train(model, made),
        }
        if hops != [10.0]:  # As in later epochs: log-mel at other hops is kept.
            again = replace(epoch, clips=replace(clips, held=replace(clips.held, spare=2**31, others={})))
            list(batches(again))
            if not all(torch.equal(one.mel, two.mel) for one, two in zip(made, batches(again), strict=True)):
                raise AssertionError("what was kept is not what was computed")
            candidates["loader, hops kept"] = lambda again=again: list(batches(again))
        for result in race("loading", name, "1 core, float32", candidates, rounds, torch.device("cpu")):
            rates = [1000 * CLIPS / taken for taken in (result.median, result.p80, result.p20)]
            found.append(Result("loading", result.impl, name, result.mode, *rates, "clips/s"))
    return found


def _train(model: torch.nn.Module, made: list[Batch]) -> None:
    for batch in made:
        torch.nn.functional.cross_entropy(model(batch), batch.target).backward()
        model.zero_grad(set_to_none=True)
