"""`audiolib convert`: models of others in, ours out to Hugging Face, as ONNX, or with a card for others."""

import argparse
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiolib.cli.listen import patch_size, positive
from audiolib.errors import AudiolibError

if TYPE_CHECKING:
    from torch import Tensor

    from audiolib.models.audio_mamba import MambaConfig
    from audiolib.models.spectrogram_transformer import TransformerConfig

Run = Callable[[argparse.Namespace], None]


def convert_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib convert SOURCE OUT [--labels FILE]`."""
    parser.add_argument(
        "source",
        type=Path,
        help="a Hugging Face AST as a folder or hub:user/name, a .pth file of a paper's authors, or a folder of ours",
    )
    parser.add_argument("out", type=Path, help="folder to write: ours, or Hugging Face's for one of ours")
    parser.add_argument(
        "--pickle",
        action="store_true",
        help="read a .pth file, which is a pickle: tensors alone are taken from it, and no code in it is run",
    )
    parser.add_argument("--labels", type=Path, help="class names, one a line, where the weights do not say")
    parser.add_argument("--stride", type=positive, default=10, help="step between patches of a .pth file (%(default)s)")
    parser.add_argument("--mean", type=float, default=-4.2677393, help="of the log-mel of its training (AudioSet's)")
    parser.add_argument("--std", type=_spread, default=4.5689974, help="of the log-mel of its training (AudioSet's)")
    parser.add_argument("--multi-label", action="store_true", help="a clip may have several classes, as in AudioSet")

    def run(asked: argparse.Namespace) -> None:
        from audiolib.files import new_folder
        from audiolib.pretrained import located

        new_folder(asked.out)
        asked.source = located(asked.source)
        if asked.source.is_dir() and "format" in _json(asked.source / "config.json"):
            from audiolib.convert import write_hugging_face

            write_hugging_face(asked.source, asked.out)
        else:
            _from_others(asked)
        print(f"{asked.source} -> {asked.out}")

    return run


def export_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib export MODEL OUT.onnx [--patch N] [--hop-ms MS]`."""
    parser.add_argument("model", metavar="DIR", help="a trained model's folder, or hub:user/name")
    parser.add_argument("out", type=_onnx, metavar="OUT.onnx", help="the file to write")
    parser.add_argument("--patch", type=patch_size, metavar="N|FxT", help="patch size to build in; default: its own")
    parser.add_argument("--hop-ms", type=float, metavar="MS", help="time resolution to build in; default: its own")

    def run(asked: argparse.Namespace) -> None:
        from audiolib.export import export_onnx
        from audiolib.inference import Listener

        listener = Listener(asked.model, patch=asked.patch, hop_ms=asked.hop_ms, device="cpu")
        view, frontend = listener.shape(listener.own_seconds)
        export_onnx(listener.model, listener.patch, asked.out, view.stretch)
        mean, deviation = listener.card.frontend["mean"], listener.card.frontend["std"]
        pooled = f", {view.pool} at a time by {view.pooling}" if view.pool > 1 else ""
        print(
            f"{asked.out}: log_mel (clips, frames, {frontend.mel_bins} bands), at least {listener.patch[1]} frames of "
            f"{frontend.hop_ms:g} ms{pooled}, normalised as (x {-mean:+.4f}) / {2 * deviation:.4f}, to logits (clips, "
            f"{len(listener.classes)})"
        )
        if listener.card.padded:
            print(
                f"it was trained on clips of {listener.own_seconds:g} s: complete shorter ones after normalising with "
                f"{listener.card.fill:g}; cut longer ones and average their probabilities, as audiolib predict does"
            )

    return run


def share_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib share MODEL OUT [--results DIR]`."""
    parser.add_argument("model", type=Path, metavar="DIR", help="a trained model's folder, or hub:user/name")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="its evaluation; default: evaluate beside the model"
    )

    def run(asked: argparse.Namespace) -> None:
        from audiolib.share import share

        share(asked.model, asked.results or asked.model.resolve().parent / "evaluate", asked.out)
        print(f"{asked.out}: {', '.join(sorted(path.name for path in asked.out.iterdir()))}")

    return run


def _onnx(text: str) -> Path:
    if not text.endswith(".onnx"):
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .onnx")
    return Path(text)


def _spread(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no positive number")


def _lines(path: Path) -> list[str]:
    try:
        found = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise AudiolibError(f"cannot read {path}: {error}") from error
    return found[:-1] if found[-1] == "" else found


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AudiolibError(f"cannot read {path}: {error}") from error
    return found


def _from_others(asked: argparse.Namespace) -> None:
    from audiolib.convert import zeros_padded
    from audiolib.models.audio_mamba import AudioMamba
    from audiolib.models.spectrogram_transformer import SpectrogramTransformer, TransformerConfig
    from audiolib.pretrained import Card, save_pretrained

    config, state, classes, extractor = _read(asked)
    model = SpectrogramTransformer(config) if isinstance(config, TransformerConfig) else AudioMamba(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AudiolibError(f"{asked.source} does not fit: {' '.join(str(error).split())}") from error
    for name, tensor in state.items():
        print(f"carried: {name} {'x'.join(map(str, tensor.shape))}")
    if asked.labels is not None:
        classes = _lines(asked.labels)
    if len(classes) != config.num_classes:
        raise AudiolibError(f"{len(classes)} class names for {config.num_classes} classes")
    frontend = {
        "sample_rate": extractor.get("sampling_rate", 16000),
        "mel_bins": config.mel_bins,
        "window_ms": 25.0,
        "hop_ms": 10.0,
        "mean": extractor.get("mean", asked.mean),
        "std": extractor.get("std", asked.std),
    }
    padded = not (isinstance(config, TransformerConfig) and config.pool == "attention")
    fill = zeros_padded(frontend) if padded else 0.0
    card = Card(classes, asked.multi_label, frontend, config.patch, config.frames, 1, "none", padded, fill)
    save_pretrained(model, card, asked.out)


def _read(
    asked: argparse.Namespace,
) -> tuple["TransformerConfig | MambaConfig", dict[str, "Tensor"], list[str], dict[str, Any]]:
    """Config, weights, class names and settings of the extractor."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if asked.source.is_file() and not asked.pickle:
        raise AudiolibError(
            f"{asked.source} is a file; a .pth file is a pickle: with --pickle its tensors are read, and nothing else"
        )
    from audiolib.convert import from_hugging_face_ast
    from audiolib.convert_published import from_published

    try:
        if asked.source.is_dir():
            values = _json(asked.source / "config.json")
            state = load_file(asked.source / "model.safetensors")
            names = values.get("id2label", {})
            classes = [names[key] for key in sorted(names, key=int)]
            settings = asked.source / "preprocessor_config.json"
            extractor = _json(settings) if settings.exists() else {}
            return *from_hugging_face_ast(state, values), classes, extractor
        state = torch.load(asked.source, map_location="cpu", weights_only=True)  # Tensors alone: no code is run.
    except (OSError, EOFError, SafetensorError, LookupError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if isinstance(error, LookupError):  # Its text is a missing name in a folder, and means nothing in a file.
            reason = f"it has no {reason}" if asked.source.is_dir() else "it is not such a file"
        raise AudiolibError(f"cannot read weights from {asked.source}: {reason}") from error
    except Exception as error:  # The unpickler's own class, which only pickle exports.
        if type(error).__name__ != "UnpicklingError":
            raise
        raise AudiolibError(f"{asked.source} holds more than tensors, which is not read") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise AudiolibError(f"{asked.source} holds no table of tensors by name")
    config, converted, left = from_published(state, asked.stride)
    own = config.stride or config.patch
    print(f"patches {config.patch[0]} x {config.patch[1]}, step {own[0]}, {config.frames} frames, as the weights tell")
    for name in left:
        print(f"left: {name}")
    print(f"{len(state) - len(left)} of {len(state)} tensors carried")
    return config, converted, [str(number) for number in range(config.num_classes)], {}
