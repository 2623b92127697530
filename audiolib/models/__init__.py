"""The table of models: `create_model("flexi_tiny", num_classes=10)`, named <family>_<size>."""

from dataclasses import asdict, fields
from fnmatch import fnmatch
from typing import Any

import torch

from audiolib.errors import AudiolibError
from audiolib.models.audio_mamba import AudioMamba, MambaConfig
from audiolib.models.classifier import Classifier
from audiolib.models.positions import as_size
from audiolib.models.resize import Resize
from audiolib.models.spectrogram_transformer import SpectrogramTransformer, TransformerConfig

# What a saved model is, and its config.
KINDS: dict[str, tuple[type[Classifier], type]] = {
    "transformer": (SpectrogramTransformer, TransformerConfig),
    "mamba": (AudioMamba, MambaConfig),
}
SIZES: dict[str, dict[str, dict[str, int]]] = {
    "transformer": {
        "nano": {"width": 192, "depth": 6, "heads": 3},
        "tiny": {"width": 192, "depth": 12, "heads": 3},
        "small": {"width": 384, "depth": 12, "heads": 6},
        "base": {"width": 768, "depth": 12, "heads": 12},
    },
    # A block of Mamba has half the weights of one of a transformer.
    "mamba": {
        "nano": {"width": 192, "depth": 12},
        "tiny": {"width": 192, "depth": 24},
        "small": {"width": 384, "depth": 24},
        "base": {"width": 768, "depth": 24},
    },
}
# The kind of a family, and what it changes in the defaults of the config.
FAMILIES: dict[str, dict[str, Any]] = {
    "ast": {"kind": "transformer", "positions": "stretch"},
    "flexi": {"kind": "transformer", "positions": "centre"},
    "elastic": {
        "kind": "transformer",
        "layout": "axes",
        "positions": "centre",
        "prefix_tokens": 0,
        "pool": "attention",
        "token_dropout": 0.1,
    },
    "aum": {"kind": "mamba", "positions": "centre"},
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows, for example `list_models("flexi*")`."""
    names = [f"{family}_{size}" for family, own in FAMILIES.items() for size in SIZES[own["kind"]]]
    return [name for name in names if fnmatch(name, pattern)]


def create_model(name: str, num_classes: int, seed: int = 0, **overrides: Any) -> Classifier:
    """Make a freshly initialised model.

    Args:
        name: one of `list_models()`.
        num_classes: c.
        seed: decides the initial weights.
        overrides: fields of the model's config that differ from the defaults, for example `frames=128`.

    Raises:
        AudiolibError: unknown name or field.
    """
    if name not in list_models():
        raise AudiolibError(f"unknown model {name!r}; choose one of: {', '.join(list_models())}")
    family, size = name.split("_")
    own = FAMILIES[family]
    model = build({"num_classes": num_classes, **SIZES[own["kind"]][size], **own, **overrides})
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def build(config: dict[str, Any]) -> Classifier:
    """Make a model from plain values, as they stand in a config.json; its weights are not initialised."""
    values = dict(config)
    kind = values.pop("kind", "transformer")
    if kind not in KINDS:
        raise AudiolibError(f"unknown kind of model {kind!r}; choose among: {', '.join(KINDS)}")
    make, shape = KINDS[kind]
    _check_names("model setting", values, shape)
    for key in ("patch", "stride"):
        if (size := values.get(key)) is not None:
            values[key] = as_size(key, size)
    if isinstance(values.get("resize"), dict):
        _check_names("setting of resize", values["resize"], Resize)
        values["resize"] = Resize(**values["resize"])
    return make(shape(**values))


def _check_names(what: str, values: dict[str, Any], shape: type) -> None:
    known = {f.name for f in fields(shape)}
    if unknown := sorted(set(values) - known):
        raise AudiolibError(f"unknown {what} {unknown[0]!r}; choose among: {', '.join(sorted(known))}")


def plain_config(model: Classifier) -> dict[str, Any]:
    """The config of a model as plain values that `build` takes."""
    kind = next(name for name, (made, _) in KINDS.items() if type(model) is made)
    return {"kind": kind, **asdict(model.config)}
