"""What a finished training leaves: the model folder with the best weights, the last ones beside them, the history."""

import csv
import io
from pathlib import Path
from typing import Any

from torch import Tensor

from audiolib.epochs import Planner
from audiolib.files import write_json, write_text
from audiolib.job import Job, Progress
from audiolib.models import Classifier
from audiolib.phases import phase_patch
from audiolib.pretrained import Card, save_pretrained
from audiolib.shards import ShardFolder

HISTORY = (
    *("stage", "phase", "epoch", "step", "compression", "method", "lr", "efficiency"),
    *("train_loss", "valid_score", "gmac_cum", "seconds"),
)


def write_result(
    job: Job,
    model: Classifier,
    best: dict[str, Tensor],
    planner: Planner,
    shards: ShardFolder,
    progress: Progress,
) -> None:
    """Write `job.out`.

    Args:
        job: what was trained.
        model: with its last weights; left with the best ones.
        best: the weights that did best in validation; empty = the last ones.
        planner: of the training split.
        shards: what it was trained on.
        progress: where it ended.
    """
    phases = job.recipe.phases
    last = phases[-1] if phases else None
    card = Card(
        classes=shards.classes,
        multi_label=shards.multi_label,
        frontend={**shards.frontend, "mean": planner.clips.mean, "std": planner.clips.std},
        patch=phase_patch(model.config.patch, last) if last else model.config.patch,
        frames=planner.frames,
        padded=job.recipe.packing is None,
        compression=last.compression if last else 1,
        method=last.method if last else "none",
    )
    save_pretrained(model, card, job.out / "last")
    model.load_state_dict(best or model.state_dict())
    save_pretrained(model, card, job.out)
    write_history(job.out / "history.csv", progress.history)
    spent = {"gmac": progress.gmac, "tokens": progress.tokens, "steps": progress.step}
    write_json(job.out / "training.json", {"valid_score": progress.best if phases else None, **spent})


def write_history(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per epoch."""
    text = io.StringIO()
    if rows:
        # Rows that come back from a checkpoint have their keys in another order.
        writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_text(path, text.getvalue())
