"""Flip one bit of one byte in a stored file, and see whether it is noticed before anything is computed from it."""

import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import torch

from audiolib.checkpoint import Checkpoints
from audiolib.config.corpus import DownloadSection, FeaturesSection
from audiolib.corpora.archives import Archive, obtain
from audiolib.dataset import read_split
from audiolib.errors import AudiolibError
from audiolib.features import extract
from audiolib.files import sha256_file
from audiolib.models import create_model
from audiolib.pretrained import Card, load, load_card, save_pretrained
from audiolib.progress import track
from audiolib.reliability.finding import Finding

FLIPS = 200


def measure(features: Path, folder: Path) -> list[Finding]:
    """200 flips over archives, clip lists, shards, indexes, checkpoints and weights."""
    kinds = _kinds(features, folder / "rot")
    draw = random.Random(0)
    counts = {kind: [0, 0, 0] for kind in kinds}  # tried, noticed, harmless
    for number in track(range(FLIPS), "flips", total=FLIPS, unit="flip"):
        kind = list(kinds)[number % len(kinds)]
        path, read = kinds[kind]
        whole = path.read_bytes()
        before = read()
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        counts[kind][0] += 1
        try:
            counts[kind][2] += read() == before  # As with a blank of JSON that became another blank.
        except AudiolibError as error:
            counts[kind][1] += path.name in str(error)
        path.write_bytes(whole)
    said = ", ".join(
        f"{kind} {tried}" + (f" ({same} harmless)" if same else "") for kind, (tried, _, same) in counts.items()
    )
    held = sum(noticed + same for _, noticed, same in counts.values())
    return [Finding("a flipped bit in a file is noticed and the file is named", FLIPS, held, said)]


def _kinds(features: Path, folder: Path) -> dict[str, tuple[Path, Callable[[], object]]]:
    """For each kind of file: one of them, and how it is read; equal results mean that nothing was changed."""
    folder.mkdir()
    shutil.copytree(features, folder / "features")
    shutil.copytree(features.parent / "download", folder / "download")
    with tarfile.open(folder / "corpus.tar.gz", "w:gz") as bundle:
        bundle.add(features, "features")
    archive = Archive("none", "corpus.tar.gz", sha256_file(folder / "corpus.tar.gz"))
    section = DownloadSection(mirror=str(folder), sha256=None, folder=None)
    weights = folder / "model"
    card = Card(["a", "b"], False, {"mean": -4.0, "std": 4.0}, (16, 16), 64, 1, "none")
    save_pretrained(create_model("flexi_nano", 2, frames=64, depth=1, width=24, heads=2), card, weights)
    store = Checkpoints(folder / "checkpoints", {"what": 1})
    store.save(1, {"w": torch.arange(64.0)}, {"step": 1})
    (described,) = store.folder.glob("step-*.json")
    tensors = described.with_suffix(".safetensors")

    def split() -> object:
        clips = read_split(folder / "features", "train", waveform=True)
        return [clips.log_mel(i).tobytes() for i in range(len(clips))], clips.ids, clips.mean, clips.target.tobytes()

    def checkpoint() -> object:
        found = store.newest()
        if found is None:  # It says so and goes back to the one before; here is none.
            raise AudiolibError(f"nothing left but {store.folder.name}: {tensors.name}, {described.name}")
        return found.tensors["w"].tolist(), found.state

    def made() -> object:
        shutil.rmtree(folder / "made", ignore_errors=True)
        extract(folder / "download", _SECTION, folder / "made", folder / "scratch")
        return sorted(sha256_file(path) for path in (folder / "made").iterdir())

    def model() -> object:
        return load_card(weights), [t.tolist() for t in load(weights).state_dict().values()]

    return {
        "archive": (folder / "corpus.tar.gz", lambda: obtain(archive, section, None, folder / "store").name),
        "clip list": (folder / "download" / "clips.parquet", made),
        "corpus description": (folder / "download" / "source.json", made),
        "shard": (folder / "features" / "part-train-00000.parquet", split),
        "index": (folder / "features" / "index.json", split),
        "statistics": (folder / "features" / "stats.json", split),
        "checkpoint": (tensors, checkpoint),
        "checkpoint description": (described, checkpoint),
        "weights": (weights / "model.safetensors", model),
        "model description": (weights / "config.json", model),
    }


_SECTION = FeaturesSection(
    sample_rate=16000,
    mel_bins=64,
    window_ms=25,
    hop_ms=20,
    waveform=False,
    normalisation="own",
    clips_per_shard=64,
    max_rejects=0,
)
