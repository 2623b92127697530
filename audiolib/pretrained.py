"""A trained model as a folder: `model.safetensors`, and `config.json` with all that is needed to use the weights."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, read_sealed, sha256_file, write_sealed
from audiolib.models import Classifier, build, plain_config

FORMAT = 1
FILES = ("config.json", "model.safetensors")
BESIDE = ("rows.parquet", "preprocessor_config.json")  # What a model of ours, or of transformers, may have, too.
HUB = "hub:"


@dataclass(frozen=True)
class Card:
    """What a model was made for: its classes, its log-mel settings, and the shape that its training ended at.

    `frontend` has sample_rate, mel_bins, window_ms, hop_ms, mean and std; `patch`, `frames`, `compression` and
    `method` are those of the last training phase. `padded` models saw every clip at `frames` frames, others at its own
    length up to that. `fill` is what shorter clips were padded with, in normalised log-mel: models trained here know
    the mean, those of others what zeros become when the mean is taken away.
    """

    classes: list[str]
    multi_label: bool
    frontend: dict[str, float]
    patch: tuple[int, int]
    frames: int
    compression: float
    method: str
    padded: bool = True
    fill: float = 0.0

    @property
    def seconds(self) -> float:
        """The clip length that the model was trained at, the longest where it was trained at several."""
        return float(self.frames * self.frontend["hop_ms"] / 1000)

    def heard(self, frontend: dict[str, Any]) -> dict[str, Any]:
        """The log-mel settings of a features folder as the model knows them; what it does not know is as there."""
        return {key: self.frontend.get(key, value) for key, value in frontend.items()}


def save_pretrained(model: Classifier, card: Card, folder: Path) -> None:
    """Write a model folder; the config names the sha256 of the weights."""
    weights = folder / "model.safetensors"
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with atomic_path(weights) as temporary:
        save_file(state, temporary)
    config = {"format": FORMAT, "model": plain_config(model), "card": asdict(card), "sha256": sha256_file(weights)}
    write_sealed(folder / "config.json", config)


def load(folder: Path | str, device: str = "cpu", *, attention: str = "auto", scan: str = "auto") -> Classifier:
    """Load a model folder, ready to predict.

    Args:
        folder: its path, or `hub:user/name` for one on the Hugging Face hub, fetched once (or found in its cache).
        device: where to.
        attention: implementation of `kernels/segment_attention`; `auto` is the fastest that runs.
        scan: of `kernels/selective_scan`.

    Raises:
        AudiolibError: not a model folder, of a newer format, or weights that are not those saved with the config.
    """
    folder = located(folder)
    config = _config(folder)
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise AudiolibError(f"{weights} is missing")
    if sha256_file(weights) != config["sha256"]:
        raise AudiolibError(f"{weights} is damaged or belongs to another model: its sha256 is not that of config.json")
    model = build(config["model"])
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise AudiolibError(f"{weights} does not fit its config.json: {' '.join(str(error).split())}") from error
    model.use_kernels(attention=attention, scan=scan)
    return model.to(torch.device(device)).eval()


def load_card(folder: Path | str) -> Card:
    """What the model in a folder, or on the hub, was made for."""
    values: dict[str, Any] = _config(located(folder))["card"]
    return Card(**{**values, "patch": tuple(values["patch"])})


def located(folder: Path | str) -> Path:
    """The folder of a model; one on the hub is fetched, and nothing else ever is.

    Raises:
        AudiolibError: huggingface_hub is not installed, or cannot fetch it.
    """
    if not str(folder).startswith(HUB):
        return Path(folder)
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise AudiolibError(f"{folder} is on the Hugging Face hub: pip install huggingface_hub") from error
    try:
        return Path(snapshot_download(str(folder).removeprefix(HUB), allow_patterns=[*FILES, *BESIDE]))
    except (OSError, ValueError) as error:
        raise AudiolibError(f"cannot fetch {folder}: {' '.join(str(error).split())}") from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.exists():
        raise AudiolibError(f"{folder} is not a model folder: it has no config.json")
    config = read_sealed(path)
    if not isinstance(config.get("format"), int):
        raise AudiolibError(f"{path} is not a model config: it has no format number")
    if config["format"] > FORMAT:
        raise AudiolibError(f"{path} has format {config['format']}, this version reads up to {FORMAT}; update audiolib")
    return config
