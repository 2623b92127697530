"""One training by one worker and by two, at the same global batch: equal steps, and losses that differ by rounding."""

import csv
from pathlib import Path

from audiolib.launch import run
from audiolib.reliability.finding import Finding
from audiolib.reliability.material import small_job

# Gradients are summed in another order: rounding, which forty steps of AdamW enlarge.
TOLERANCE = 1e-5


def measure(features: Path, folder: Path) -> list[Finding]:
    """Every epoch's steps, counted cost and losses."""
    one, two = (_epochs(features, folder / f"world-{workers}", workers) for workers in (1, 2))
    worst = max(abs(float(a["train_loss"]) - float(b["train_loss"])) for a, b in zip(one, two, strict=True))
    same = all((a["step"], a["gmac_cum"]) == (b["step"], b["gmac_cum"]) for a, b in zip(one, two, strict=True))
    return [
        Finding(
            f"two workers take the steps of one, with losses within {TOLERANCE:g}",
            1,
            int(same and worst <= TOLERANCE),
            f"{one[-1]['step']} steps in {len(one)} epochs; the largest difference of an epoch's loss is {worst:.1e}",
        )
    ]


def _epochs(features: Path, folder: Path, workers: int) -> list[dict[str, str]]:
    run(small_job(features, folder, workers=workers))
    with (folder / "out" / "history.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
