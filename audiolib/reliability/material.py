"""A small corpus and a small training that has everything in it, for all trials."""

from pathlib import Path

from audiolib.config.corpus import DownloadSection, FeaturesSection, SyntheticSource
from audiolib.config.training import Recipe, TrainSection
from audiolib.corpora.prepare import prepare
from audiolib.features import extract
from audiolib.job import Job


def make_features(folder: Path, clips_per_class: int = 12) -> Path:
    """Log-mel of made-up clips of twelve classes in `folder/features`, their sound in `folder/download`."""
    source = SyntheticSource(corpus="synthetic", clips_per_class=clips_per_class, seed=1)
    prepare(source, DownloadSection(mirror=None, sha256=None, folder=None), folder / "download", folder / "store")
    section = FeaturesSection(
        sample_rate=16000,
        mel_bins=128,
        window_ms=25,
        hop_ms=10,
        waveform=True,
        normalisation="own",
        clips_per_shard=32,
        max_rejects=0,
    )
    extract(folder / "download", section, folder / "features", folder / "scratch")
    return folder / "features"


def small_job(features: Path, folder: Path, workers: int | tuple[int, int] = 1, epochs: int = 4) -> Job:
    """Two phases, drawn patch sizes, mixup, steps in two parts, averaged weights; 2 + `epochs` epochs of 6 steps."""
    phases = [
        {"compression": 2, "method": "avg_pool", "epochs": 2, "lr": 1e-3},
        {"compression": 1, "method": "none", "epochs": epochs, "lr": 1e-3},
    ]
    recipe = Recipe(
        phases=phases,
        patch_sizes=[16, 24, 32],
        valid_patch_sizes=[16, 32],
        batch_size=16,
        optimizer="adamw",
        weight_decay=0.05,
        betas=[0.9, 0.98],
        schedule="cosine",
        warmup_fraction=0.1,
        label_smoothing=0.1,
        averaging={"ema": 0.9},
        augment={"freq_mask": 8, "time_mask": 8, "mixup": 0.5, "roll": 4, "noise": 0.05},
    )
    settings = TrainSection(
        num_workers=workers,
        max_failures=40,
        accumulate=2,
        compile=False,
        deterministic=True,
        device="cpu",
        precision="float32",
        attention="auto",
        scan="auto",
        loader_processes=None,
        memory_mib=1,
        checkpoint_seconds=0.01,
        keep_checkpoints=2,
        start=None,
    )
    return Job(
        stage="finetune",
        recipe=recipe,
        settings=settings,
        architecture={"name": "flexi_nano", "width": 24, "depth": 1, "heads": 2, "patch": (16, 16)},
        features=features,
        seconds=0.64,
        seed=1,
        start=None,
        out=folder / "out",
        scratch=folder / "scratch",
    )
