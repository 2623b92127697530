"""A sweep over patch size x length x hop against the plain way: for each cell, decode every file and classify it."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from audiolib.batches import pack
from audiolib.bench.timing import Result
from audiolib.corpora.clips import read_clips
from audiolib.evaluate import sweep
from audiolib.files import read_json
from audiolib.frontend import decode, log_mel
from audiolib.grid import Cell, Grid, Trained
from audiolib.inference import Listener
from audiolib.metrics import accuracy
from audiolib.models import create_model
from audiolib.pretrained import Card, save_pretrained
from audiolib.progress import track
from audiolib.reliability.material import make_features

PATCHES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
SECONDS = (0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.12, 1.28)
HOPS_MS = (10.0, 20.0, 30.0, 40.0)
BATCH = 32


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Seconds of 10 x 8 x 4 cells on 192 clips, once each, and whether the two agree."""
    del rounds  # Each takes minutes; their difference is many times what a round varies by.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = _material(folder)
        cells = [Cell((p, p), s, hop) for hop in HOPS_MS for s in SECONDS for p in PATCHES]
        grid = Grid("test", cells, SECONDS[-1])
        started = time.perf_counter()
        rows = sweep([Trained(model, "finetune", "m")], folder / "features", grid, {}, str(device), folder).rows
        ours = time.perf_counter() - started
        found = {(row["patch_t"], row["seconds"], row["hop_ms"]): row["value"] for row in rows
                 if row["metric"] == "accuracy"}  # fmt: skip
        started = time.perf_counter()
        for cell in track(cells, "the plain way", total=len(cells), unit="cell"):
            plain = _plain(model, folder / "download", cell, device)
            if abs(plain - found[cell.patch[1], cell.seconds, cell.hop_ms]) > 0.006:  # A clip of 192 at a tie.
                raise AssertionError(f"{cell}: {plain}, not {found[cell.patch[1], cell.seconds, cell.hop_ms]}")
        plainly = time.perf_counter() - started
    case, mode = f"{len(cells)} cells", "flexi_nano, 192 clips of 1.38 s"
    return [
        Result("sweep", "plain", case, mode, plainly, plainly, plainly, "s", 1.0),
        Result("sweep", "audiolib", case, mode, ours, ours, ours, "s", ours / plainly),
    ]


def _material(folder: Path) -> Path:
    """Clips, their features, and a model with random weights that tells them apart somehow."""
    features = make_features(folder, 96)
    frontend = {"sample_rate": 16000, "mel_bins": 128, "window_ms": 25.0, "hop_ms": 10.0}
    frontend |= read_json(features / "stats.json")
    model = create_model("flexi_nano", 12, frames=128)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    classes = sorted({name for labels in read_clips(folder / "download" / "clips.parquet")["label"] for name in labels})
    save_pretrained(model, Card(classes, False, frontend, (16, 16), 128, 1, "none"), folder / "model")
    return folder / "model"


def _plain(model: Path, download: Path, cell: Cell, device: torch.device) -> float:
    """Accuracy at one cell as an evaluation script has it: sound file, log-mel, padding, batch, model."""
    listener = Listener(model, patch=cell.patch, hop_ms=cell.hop_ms, device=str(device))
    view, frontend = listener.shape(cell.seconds)
    table = read_clips(download / "clips.parquet").filter(split="test").sort("id")
    logits, targets = [], []
    for start in range(0, len(table), BATCH):
        part = table[start : start + BATCH]
        # Rounded as the shards store it, so that the numbers are the same.
        mels = [log_mel(decode(download / "audio" / path, 16000), frontend).astype(np.float16) for path in part["path"]]
        shown = [torch.from_numpy(view.fit(listener.normalised(mel))) for mel in mels]
        with torch.inference_mode():
            batch = pack(shown, stretch=[view.stretch] * len(shown)).to(device)
            logits.append(listener.model(batch, cell.patch).cpu().numpy())
        targets += [listener.classes.index(labels[0]) for labels in part["label"]]
    return accuracy(np.concatenate(logits), np.eye(len(listener.classes))[targets])
