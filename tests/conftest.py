"""What several tests share: a small generated corpus, turned into features once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when a kernel's file is imported.
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.pop("AUDIOLIB_MIRROR", None)  # A test never reads the caller's archives.
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("MLFLOW_EXPERIMENT_NAME", None)
os.environ.pop("RAY_ADDRESS", None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def small_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download folder with 12 clips of each synthetic class."""
    from audiolib.config.corpus import DownloadSection, SyntheticSource
    from audiolib.corpora.prepare import prepare

    folder = tmp_path_factory.mktemp("small")
    source = SyntheticSource(corpus="synthetic", clips_per_class=12, seed=3)
    prepare(source, DownloadSection(mirror=None, sha256=None, folder=None), folder / "download", folder / "store")
    return folder / "download"


@pytest.fixture(scope="session")
def small_features(small_download: Path) -> Path:
    """The features of `small_download`, in shards of 40 clips."""
    from audiolib.features import extract

    folder = small_download.parent
    extract(small_download, features_section(), folder / "features", folder / "scratch")
    return folder / "features"


def features_section(**changes: object):
    """The features section of params.yaml with small shards."""
    from audiolib.config.corpus import FeaturesSection

    values = {
        "sample_rate": 16000,
        "mel_bins": 128,
        "window_ms": 25.0,
        "hop_ms": 10.0,
        "waveform": True,
        "normalisation": "own",
        "clips_per_shard": 40,
        "max_rejects": 0,
    }
    return FeaturesSection(**{**values, **changes})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are left out, and told, where there is none; the longest files come first."""
    longest = ("test_readme", "test_smoke", "test_launch", "test_deploy")
    items.sort(key=lambda item: item.path.stem not in longest)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Callable[[str], Path]:
    """Where huggingface_hub, offline, keeps its copy of `user/name`."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def place(name: str) -> Path:
        repo, commit = tmp_path / "cache" / f"models--{name.replace('/', '--')}", "0" * 40
        (repo / "refs").mkdir(parents=True)
        (repo / "refs" / "main").write_text(commit)
        return repo / "snapshots" / commit

    return place
