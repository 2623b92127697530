"""The table of models: `create_model("flexi_tiny", num_classes=10)`, named <family>_<size>."""

from dataclasses import asdict, fields
from fnmatch import fnmatch
from typing import Any

import torch

from audiolib.errors import AudiolibError
from audiolib.models.resize import Resize
from audiolib.models.spectrogram_transformer import SpectrogramTransformer, TransformerConfig

SIZES: dict[str, dict[str, int]] = {
    "nano": {"width": 192, "depth": 6, "heads": 3},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
}
# What a family changes in the defaults of its config.
FAMILIES: dict[str, dict[str, Any]] = {
    "ast": {"positions": "stretch"},
    "flexi": {"positions": "centre"},
    "elastic": {
        "layout": "axes",
        "positions": "centre",
        "prefix_tokens": 0,
        "pool": "attention",
        "token_dropout": 0.1,
    },
}


def list_models(pattern: str = "*") -> list[str]:
    """Names that `create_model` knows, for example `list_models("flexi*")`."""
    names = [f"{family}_{size}" for family in FAMILIES for size in SIZES]
    return [name for name in names if fnmatch(name, pattern)]


def create_model(name: str, num_classes: int, seed: int = 0, **overrides: Any) -> SpectrogramTransformer:
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
    model = build({"num_classes": num_classes, **SIZES[size], **FAMILIES[family], **overrides})
    model.init_weights(torch.Generator().manual_seed(seed))
    return model


def build(config: dict[str, Any]) -> SpectrogramTransformer:
    """Make a model from plain values, as they stand in a config.json; its weights are not initialised."""
    known = {f.name for f in fields(TransformerConfig)}
    unknown = sorted(set(config) - known)
    if unknown:
        raise AudiolibError(f"unknown model setting {unknown[0]!r}; choose among: {', '.join(sorted(known))}")
    values = dict(config)
    for key in ("patch", "stride"):
        if values.get(key) is not None:
            values[key] = tuple(values[key])
    if isinstance(values.get("resize"), dict):
        values["resize"] = Resize(**values["resize"])
    return SpectrogramTransformer(TransformerConfig(**values))


def plain_config(model: SpectrogramTransformer) -> dict[str, Any]:
    """The config of a model as plain values that `build` takes."""
    return asdict(model.config)
