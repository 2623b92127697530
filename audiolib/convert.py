"""Weights under other libraries' names: timm's vision transformers and Hugging Face's AST in, Hugging Face's AST out.

Those that the papers' authors publish are read by `convert_published.py`. Only names and layout change here;
`models.transfer` then fits the weights into a model of another shape.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from audiolib.errors import AudiolibError
from audiolib.files import atomic_path, write_json
from audiolib.models.spectrogram_transformer import SpectrogramTransformer, TransformerConfig
from audiolib.pretrained import load, load_card
from audiolib.progress import say

State = dict[str, Tensor]

TIMM_NAMES = [
    (r"^blocks\.(\d+)\.attn\.qkv\.", r"blocks.\1.attention.qkv."),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attention.project."),
    (r"^blocks\.(\d+)\.mlp\.fc1\.", r"blocks.\1.mlp.grow."),
    (r"^blocks\.(\d+)\.mlp\.fc2\.", r"blocks.\1.mlp.shrink."),
    (r"^patch_embed\.proj\.bias$", r"embed.bias"),
]
# What timm's LayerScales multiply.
_AFTER_LAYER = {"ls1": "blocks.{}.attention.project", "ls2": "blocks.{}.mlp.shrink"}
# Hugging Face renamed its modules in transformers 5; both are read, the names of the published files are written.
_HUGGING_FACE = [
    (r"^audio_spectrogram_transformer\.", ""),
    (r"^encoder\.layer\.", "layers."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.(q|k|v)_proj\.", lambda m: f".attention.{ {'q': 'query', 'k': 'key', 'v': 'value'}[m[1]] }."),
    (r"^layers\.(\d+)\.attention\.(?:output\.dense|o_proj)\.", r"blocks.\1.attention.project."),
    (r"^layers\.(\d+)\.(?:intermediate\.dense|mlp\.fc1)\.", r"blocks.\1.mlp.grow."),
    (r"^layers\.(\d+)\.(?:output\.dense|mlp\.fc2)\.", r"blocks.\1.mlp.shrink."),
    (r"^layers\.(\d+)\.layernorm_before\.", r"blocks.\1.norm1."),
    (r"^layers\.(\d+)\.layernorm_after\.", r"blocks.\1.norm2."),
    (r"^layers\.(\d+)\.attention\.(query|key|value)\.", r"blocks.\1.attention.\2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.layernorm\.", "head_norm."),
    (r"^classifier\.dense\.", "head."),
    (r"^embeddings\.patch_embeddings\.projection\.bias$", "embed.bias"),
]


def is_timm_vit(state: Mapping[str, Tensor]) -> bool:
    """Whether the names are those of a timm vision transformer."""
    return "patch_embed.proj.weight" in state and "pos_embed" in state


def from_timm_vit(state: Mapping[str, Tensor]) -> State:
    """A timm ViT or DeiT under this library's names.

    The three colour channels of the patch kernel are summed, as AST's and FlexiAST's code do (papers.md 1.1), so that
    a grey image gives the same tokens. LayerScale is multiplied into the layer before it. The head belongs to image
    classes and is left out.

    Raises:
        AudiolibError: the weights compute what no model here does, or their positions are no square grid.
    """
    found = {renamed(name, TIMM_NAMES): tensor for name, tensor in state.items() if not name.startswith("head")}
    if other := sorted(name for name in found if re.search(r"^norm_pre\.|\.[qk]_norm\.|^reg_token", name)):
        raise AudiolibError(f"these ViT weights have {other[0]}, which no model here has; use a ViT without it")
    for name in [name for name in found if name.endswith(".gamma")]:
        layer, gamma = _AFTER_LAYER[name.split(".")[2]].format(name.split(".")[1]), found.pop(name)
        for kind in ("weight", "bias"):
            found[f"{layer}.{kind}"] = (gamma * found[f"{layer}.{kind}"].T).T
    kernel, places = found.pop("patch_embed.proj.weight"), found.pop("pos_embed")[0]
    prefix = [found.pop(name)[0] for name in ("cls_token", "dist_token") if name in found]
    cells, side = places[len(prefix) :], math.isqrt(len(places))
    if math.isqrt(len(cells)) ** 2 == len(cells):
        side = math.isqrt(len(cells))
    elif side**2 == len(places):  # The class token has no position of its own.
        cells, places = places, torch.zeros(len(prefix), places.shape[1])
    else:
        raise AudiolibError(
            f"these ViT weights have {len(places)} positions, which is no square grid; use a square one"
        )
    found |= {"embed.weight": kernel.sum(1), "embed.positions.grid": cells.reshape(side, side, -1)}
    if prefix:
        found |= {"prefix": torch.cat(prefix), "prefix_positions": places[: len(prefix)]}
    return found


def from_hugging_face_ast(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> tuple[TransformerConfig, State]:
    """transformers' AST as a model of this library: its config and its weights.

    Args:
        state: of ASTForAudioClassification.
        config: the values of its config.json.
    """
    found = {renamed(name, _HUGGING_FACE): tensor for name, tensor in state.items()}
    for block in range(config["num_hidden_layers"]):
        for kind in ("weight", "bias"):
            lead = f"blocks.{block}.attention"
            parts = [found.pop(f"{lead}.{part}.{kind}") for part in ("query", "key", "value")]
            found[f"{lead}.qkv.{kind}"] = torch.cat(parts)
    kernel = found.pop("embeddings.patch_embeddings.projection.weight")
    tokens = [found.pop(f"embeddings.{name}") for name in ("cls_token", "distillation_token")]
    places = found.pop("embeddings.position_embeddings")[0]
    size, stride = config["patch_size"], (config["frequency_stride"], config["time_stride"])
    made = TransformerConfig(
        num_classes=len(found["head.weight"]),
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        frames=config["max_length"],
        mel_bins=config["num_mel_bins"],
        patch=(size, size),
        stride=None if stride == (size, size) else stride,
        border="crop",
        prefix_tokens=2,
        norm_eps=config["layer_norm_eps"],
        head_norm_eps=config["layer_norm_eps"],
    )
    bands = (made.mel_bins - size) // stride[0] + 1
    return made, found | {
        "embed.weight": kernel.sum(1),
        "embed.positions.grid": places[2:].unflatten(0, (bands, -1)),
        "prefix": torch.cat([token[0] for token in tokens]),
        "prefix_positions": places[:2],
    }


def to_hugging_face_ast(model: SpectrogramTransformer, classes: list[str]) -> tuple[dict[str, Any], State]:
    """The values of a config.json and the state dict that ASTForAudioClassification loads.

    Raises:
        AudiolibError: transformers' AST cannot compute this model: it has two prefix tokens, square patches, a fixed
            length and no padded border.
    """
    config, weights = model.config, {name: tensor.detach() for name, tensor in model.state_dict().items()}
    stride = tuple(model.embed.step(config.patch, axis) for axis in (0, 1))
    whole = [(length - config.patch[a]) % stride[a] == 0 for a, length in enumerate((config.mel_bins, config.frames))]
    plain = config.prefix_tokens == 2 and config.layout == "grid" and config.attention_scale is None
    if not plain or config.patch[0] != config.patch[1] or not (config.border == "crop" or all(whole)):
        raise AudiolibError(
            "Hugging Face's AST has two prefix tokens, a position grid, square patches, and drops what does not fill "
            "one; train the model with architecture: {prefix_tokens: 2}, and with border: crop where patches do not "
            "fill the spectrogram"
        )
    values = {
        "architectures": ["ASTForAudioClassification"],
        "model_type": "audio-spectrogram-transformer",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": 4 * config.width,
        "hidden_act": "gelu",
        "layer_norm_eps": config.norm_eps,
        "patch_size": config.patch[0],
        "frequency_stride": stride[0],
        "time_stride": stride[1],
        "max_length": config.frames,
        "num_mel_bins": config.mel_bins,
        "qkv_bias": True,
        "id2label": {str(i): name for i, name in enumerate(classes)},
        "label2id": {name: i for i, name in enumerate(classes)},
    }
    lead = "audio_spectrogram_transformer"
    grid = weights["embed.positions.grid"].flatten(0, 1)
    found = {
        f"{lead}.embeddings.cls_token": weights["prefix"][:1][None],
        f"{lead}.embeddings.distillation_token": weights["prefix"][1:][None],
        f"{lead}.embeddings.position_embeddings": torch.cat([weights["prefix_positions"], grid])[None],
        f"{lead}.embeddings.patch_embeddings.projection.weight": weights["embed.weight"][:, None],
        f"{lead}.embeddings.patch_embeddings.projection.bias": weights["embed.bias"],
    }
    for kind in ("weight", "bias"):
        found[f"{lead}.layernorm.{kind}"] = weights[f"norm.{kind}"]
        found[f"classifier.layernorm.{kind}"] = weights[f"head_norm.{kind}"]
        found[f"classifier.dense.{kind}"] = weights[f"head.{kind}"]
        for block in range(config.depth):
            own, theirs = f"blocks.{block}", f"{lead}.encoder.layer.{block}"
            parts = weights[f"{own}.attention.qkv.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{theirs}.attention.attention.{name}.{kind}"] = part
            found[f"{theirs}.attention.output.dense.{kind}"] = weights[f"{own}.attention.project.{kind}"]
            found[f"{theirs}.intermediate.dense.{kind}"] = weights[f"{own}.mlp.grow.{kind}"]
            found[f"{theirs}.output.dense.{kind}"] = weights[f"{own}.mlp.shrink.{kind}"]
            found[f"{theirs}.layernorm_before.{kind}"] = weights[f"{own}.norm1.{kind}"]
            found[f"{theirs}.layernorm_after.{kind}"] = weights[f"{own}.norm2.{kind}"]
    return values, {name: tensor.contiguous().clone() for name, tensor in found.items()}


def write_hugging_face(source: Path, out: Path) -> None:
    """A model folder of ours as one that transformers reads: weights, config and feature extractor.

    Raises:
        AudiolibError: transformers' AST cannot compute this model.
    """
    model, card = load(source), load_card(source)
    if not isinstance(model, SpectrogramTransformer):
        raise AudiolibError(f"{source} is no transformer; Hugging Face's AST cannot hold it")
    settings = {"kind": "kaldi", "window_ms": 25.0, "hop_ms": 10.0}
    other = [name for name, value in settings.items() if card.frontend.get(name, value) != value]
    if other or card.compression != 1 or (card.patch, card.frames) != (model.config.patch, model.config.frames):
        raise AudiolibError(
            f"Hugging Face's feature extractor makes Kaldi log-mel of 25 ms every 10 ms, uncompressed; {source} was "
            "trained on something else"
        )
    values, state = to_hugging_face_ast(model, card.classes)
    if not math.isclose(card.fill, zeros_padded(card.frontend), abs_tol=1e-3):
        say(
            f"clips shorter than {card.seconds:g} s will differ: transformers pads them with "
            f"{zeros_padded(card.frontend):.3f}, this model was trained on padding of {card.fill:.3f}"
        )
    extractor = {
        "feature_extractor_type": "ASTFeatureExtractor",
        "do_normalize": True,
        "max_length": card.frames,
        "mean": card.frontend["mean"],
        "std": card.frontend["std"],
        "num_mel_bins": card.frontend["mel_bins"],
        "sampling_rate": card.frontend["sample_rate"],
    }
    with atomic_path(out / "model.safetensors") as temporary:
        save_file(state, temporary, {"format": "pt"})
    write_json(out / "preprocessor_config.json", extractor)
    write_json(out / "config.json", values)


def zeros_padded(frontend: Mapping[str, float]) -> float:
    """What frames of zeros become when log-mel is normalised: AST's code, and transformers', pad before that."""
    return -frontend["mean"] / (2 * frontend["std"])


def renamed(name: str, rules: list[Any]) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
