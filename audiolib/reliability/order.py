"""Interrupt an epoch after any step and go on with another number of workers: is every clip trained on exactly once?"""

from itertools import chain, product
from pathlib import Path

from audiolib.config.training import Packing, Phase, Recipe
from audiolib.dataset import Clips, read_split
from audiolib.epochs import Planner
from audiolib.loader import batches
from audiolib.models import Classifier, create_model
from audiolib.progress import track
from audiolib.reliability.finding import Finding
from audiolib.reliability.material import small_job

WORLDS, PROCESSES = (1, 2, 3, 4, 8), (0, 1, 2, 4)
PHASE = Phase(compression=1, method="none", epochs=1, lr=1e-3)
PACKING = Packing(
    tokens=192, packer="best_fit", window=64, longest_seconds=30, shortest_seconds=0.2, hops_ms=[10, 24], pools=[1]
)


def measure(features: Path, folder: Path) -> list[Finding]:
    """Every number of workers x loader processes x place of the interruption, for equal steps and for packs."""
    equal = small_job(features, folder).recipe.model_copy(update={"batch_size": 8})
    packed = equal.model_copy(
        update={"batch_size": None, "packing": PACKING, "patch_sizes": [16], "valid_patch_sizes": [16]}
    )
    clips = read_split(features, "train", waveform=True)
    net = create_model("elastic_nano", 12, frames=256, width=24, depth=1, heads=2)
    return [_held("equal steps", equal, clips, net), _held("packs", packed, clips, net)]


def _held(kind: str, recipe: Recipe, clips: Clips, net: Classifier) -> Finding:
    planner = Planner(recipe, clips, 0.64, 1)
    whole = _steps(planner, net, 1, 0, 0, None)
    last = len(whole)
    if sum(map(len, whole)) != len(clips) or len(set(chain(*whole))) != len(clips) or last < 9:
        raise AssertionError(f"an epoch of {kind} in one process is not every clip once in 9 steps or more")
    tries = list(product(WORLDS, PROCESSES, (0, 1, 7, last - 1, last)))
    held = 0
    for number, (world, processes, stop) in enumerate(track(tries, kind, total=len(tries), unit="trial")):
        other = WORLDS[number % len(WORLDS)]  # The workers after the interruption: as many, fewer, or more.
        before = _steps(planner, net, world, processes, 0, stop)
        after = _steps(planner, net, other, processes, stop, None)
        held += before + after == whole
    return Finding(
        f"an interrupted epoch of {kind} is every clip once, in the same steps, whatever the number of workers",
        len(tries),
        held,
        f"workers {WORLDS}, another number of them afterwards, loader processes {PROCESSES}, interrupted after step 0, "
        f"1, 7, {last - 1} and {last} of {last}",
    )


def _steps(
    planner: Planner, net: Classifier, world: int, processes: int, start: int, stop: int | None
) -> list[list[int]]:
    """The clips of every step, by their draws, sorted: of all workers together."""
    shares: list[list[list[int]]] = []
    for rank in range(world):
        made = batches(planner.epoch(PHASE, 0, net, rank, world), start, processes)
        count = (len(planner.epoch(PHASE, 0, net).steps) if stop is None else stop) - start
        own = (next(made) for _ in range(count))
        shares.append([list(batch.draws) if batch.weight else [] for batch in own])
    return [sorted(chain(*step)) for step in zip(*shares, strict=True)]
