"""A sweep over patch size x length x hop on FSDD against the plain way: in each cell decode and classify all files."""

import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from audiolib.batches import pack
from audiolib.bench.timing import Result
from audiolib.config.corpus import FeaturesSection
from audiolib.config.strict import read_section
from audiolib.corpora.clips import read_clips, write_clips
from audiolib.evaluate import sweep
from audiolib.features import extract
from audiolib.files import read_sealed, sha256_file, write_sealed
from audiolib.frontend import decode, log_mel
from audiolib.grid import Cell, Grid, Trained
from audiolib.inference import Listener
from audiolib.metrics import accuracy
from audiolib.models import create_model
from audiolib.pretrained import Card, save_pretrained
from audiolib.progress import track
from audiolib.shards import ShardFolder
from audiolib.study import ROOT, features_of

PATCHES = (8, 10, 12, 16, 20, 24, 30, 32, 40, 48)
SECONDS = (0.16, 0.32, 0.48, 0.64, 0.8, 0.96, 1.12, 1.28)
HOPS_MS = (10.0, 20.0, 30.0, 40.0)
BATCH = 32


def measure(device: torch.device, rounds: int) -> list[Result]:
    """Seconds of 10 x 8 x 4 cells on 100 clips, once each, of a padded and an unpadded model, checked to agree."""
    del rounds  # Each takes minutes; their difference is many times what a round varies by.
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        features = _clips(folder)
        return [result for name in ("flexi_nano", "elastic_nano") for result in _race(name, folder, features, device)]


def _race(name: str, folder: Path, features: Path, device: torch.device) -> list[Result]:
    """Both ways for one model."""
    model = _model(name, features, folder / name)
    cells = [Cell((p, p), s, hop) for hop in HOPS_MS for s in SECONDS for p in PATCHES]
    started = time.perf_counter()
    rows = sweep([Trained(model, "finetune", "m")], features, Grid("test", cells, SECONDS[-1]), {}, str(device), folder)
    ours = time.perf_counter() - started
    found = {(row["patch_t"], row["seconds"], row["hop_ms"]): row for row in rows.rows if row["metric"] == "accuracy"}
    started = time.perf_counter()
    for cell in track(cells, f"{name}, the plain way", total=len(cells), unit="cell"):
        plain, told = _plain(model, folder, cell, device), found[cell.patch[1], cell.seconds, cell.hop_ms]
        if abs(plain - told["value"]) > 1.5 / told["n"]:  # One clip at a tie.
            raise AssertionError(f"{name}, {cell}: {plain}, not {told['value']}")
    plainly = time.perf_counter() - started
    case, mode = f"{len(cells)} cells", f"{name}, {told['n']} clips of FSDD"
    return [
        Result("sweep", "plain", case, mode, plainly, plainly, plainly, "s", 1.0),
        Result("sweep", "audiolib", case, mode, ours, ours, ours, "s", ours / plainly),
    ]


def _clips(folder: Path) -> Path:
    """Every third test clip of FSDD, and some of the others, with their features."""
    whole = features_of("fsdd").parent
    listed = read_clips(whole / "clips.parquet").sort("id")
    shares = {"train": 10, "valid": 10, "test": 3}
    thinned = [listed.filter(split=split).gather_every(share) for split, share in shares.items()]
    write_clips(folder / "clips.parquet", pl.concat(thinned))
    (folder / "audio").symlink_to(whole / "audio")
    source = {**read_sealed(whole / "source.json"), "list": sha256_file(folder / "clips.parquet")}
    write_sealed(folder / "source.json", source)
    extract(folder, read_section(ROOT, "features", FeaturesSection), folder / "features", folder / "scratch")
    return folder / "features"


def _model(name: str, features: Path, out: Path) -> Path:
    """Random weights that tell the classes apart somehow."""
    shards = ShardFolder(features)
    model = create_model(name, len(shards.classes), frames=128)
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    frontend = {**shards.frontend, "mean": shards.stats["mean"], "std": shards.stats["std"]}
    card = Card(shards.classes, False, frontend, (16, 16), 128, 1, "none", padded=name == "flexi_nano")
    save_pretrained(model, card, out)
    return out


def _plain(model: Path, corpus: Path, cell: Cell, device: torch.device) -> float:
    """Accuracy at one cell as an evaluation script has it: sound file, log-mel, padding, batch, model."""
    listener = Listener(model, patch=cell.patch, hop_ms=cell.hop_ms, device=str(device))
    view, frontend = listener.shape(cell.seconds)
    table = read_clips(corpus / "clips.parquet").filter(split="test").sort("id")
    logits, targets = [], []
    for start in range(0, len(table), BATCH):
        part = table[start : start + BATCH]
        # Rounded as the shards store it, so that the numbers are the same.
        mels = [log_mel(decode(corpus / "audio" / path, 16000), frontend).astype(np.float16) for path in part["path"]]
        shown = [torch.from_numpy(view.fit(listener.normalised(mel))) for mel in mels]
        with torch.inference_mode():
            batch = pack(shown, stretch=[view.stretch] * len(shown)).to(device)
            logits.append(listener.model(batch, cell.patch).cpu().numpy())
        targets += [listener.classes.index(labels[0]) for labels in part["label"]]
    return accuracy(np.concatenate(logits), np.eye(len(listener.classes))[targets])
