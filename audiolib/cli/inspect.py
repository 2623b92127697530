"""`audiolib info`, `audiolib doctor`, `audiolib verify`: what a model is, what this machine can do, what is whole."""

import argparse
import importlib
import importlib.metadata
import json
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from audiolib.errors import AudiolibError

if TYPE_CHECKING:
    import torch

Run = Callable[[argparse.Namespace], None]
PACKAGES = ("torch", "torchaudio", "numpy", "pyarrow", "polars", "soundfile", "soxr", "ray", "mlflow", "dvc", "triton")


def info_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib info DIR [--json]`."""
    parser.add_argument("model", type=Path, metavar="DIR", help="a trained model's folder")
    parser.add_argument("--json", action="store_true", help="as one JSON object")

    def run(asked: argparse.Namespace) -> None:
        from audiolib.grid import Cell, view_of
        from audiolib.models import plain_config
        from audiolib.pretrained import load, load_card

        model, card = load(asked.model), load_card(asked.model)
        told = {
            "kind": plain_config(model)["kind"],
            "parameters": sum(p.numel() for p in model.parameters()),
            "classes": card.classes,
            "several labels a clip": card.multi_label,
            "seconds": card.seconds,
            "takes any length": not card.padded,
            "patch": list(card.patch),
            "hop_ms": card.frontend["hop_ms"] * (1 if card.method == "patchify" else card.compression),
            "sample_rate": card.frontend["sample_rate"],
            "mel_bins": card.frontend["mel_bins"],
            "gmac of such a clip": model.macs(view_of(card, Cell(card.patch, card.seconds)).seen, card.patch) / 1e9,
            "config": {key: value for key, value in plain_config(model).items() if key != "kind"},
        }
        if asked.json:
            print(json.dumps(told))
            return
        for key, value in told.items():
            text = ", ".join(value) if key == "classes" else value
            print(f"{key}: {text}")

    return run


def doctor_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib doctor`: versions, devices, kernels and why others are not there, and whether they are right here."""
    del parser

    def run(asked: argparse.Namespace) -> None:
        del asked
        print(f"python {platform.python_version()} on {platform.system()} {platform.machine()}")
        for name in PACKAGES:
            try:
                print(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                print(f"{name} is not installed")
        import torch

        from audiolib.precision import cpu_has_bf16

        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none that torch can use"
        print(f"GPU: {gpu}; threads: {torch.get_num_threads()}; C++ compiler: {shutil.which('c++') or 'none'}")
        bf16 = "in hardware" if cpu_has_bf16() else "imitated, slower than float32"
        print(f"CPU: {torch.backends.cpu.get_cpu_capability()}; bfloat16: {bf16}")
        wrong = 0
        for operator in ("segment_attention", "selective_scan", "causal_conv"):
            wrong += _check(operator, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        if wrong:
            raise AudiolibError(f"{wrong} kernels give wrong numbers on this machine; choose others in params.yaml")

    return run


def _check(operator: str, device: "torch.device") -> int:
    """Try each implementation of an operator on a ragged pack, on this machine; how many are wrong."""
    from audiolib.kernels.check import tried

    module = importlib.import_module(f"audiolib.kernels.{operator}")
    cases = importlib.import_module(f"audiolib.kernels.{operator}.cases")
    tensors, options = cases.inputs("ragged")
    options |= {"gradient_factor": cases.GRADIENT_FACTOR}
    wrong = 0
    for name, implementation in module.IMPLEMENTATIONS.items():
        on_device = {part: tensor.to(device) for part, tensor in tensors.items()}
        told = tried(implementation, module.IMPLEMENTATIONS["naive"], on_device, **options)
        print(f"{operator} {name}: {told}")
        wrong += told.startswith("wrong")
    return wrong


def verify_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib verify FOLDER...`: hashes of shards, checkpoints and weights."""
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="model, features or checkpoint folders")

    def run(asked: argparse.Namespace) -> None:
        bad = 0
        for folder in asked.folders:
            try:
                print(f"{folder}: {_whole(folder)}")
            except AudiolibError as error:
                bad += 1
                print(f"error: {error}", file=sys.stderr)
        if bad:
            sys.exit(1)

    return run


def _whole(folder: Path) -> str:
    """What a folder is, once all its bytes were found to be those written."""
    if (folder / "index.json").exists():
        from audiolib.shards import ShardFolder

        shards = ShardFolder(folder)
        counts = {split: sum(1 for _ in shards.rows(split, shards.waveform)) for split in ("train", "valid", "test")}
        return "features, whole: " + ", ".join(f"{count} {split} clips" for split, count in counts.items())
    if (folder / "config.json").exists():
        from audiolib.pretrained import load

        return f"model, whole: {sum(p.numel() for p in load(folder).parameters())} parameters"
    steps = sorted(folder.glob("step-*.json"))
    if steps:
        from audiolib.files import read_sealed, sha256_file

        for path in steps:
            if read_sealed(path)["sha256"] != sha256_file(path.with_suffix(".safetensors")):
                raise AudiolibError(
                    f"{path.with_suffix('.safetensors')} is damaged: its sha256 is not the one recorded"
                )
        return f"checkpoints, whole: {', '.join(path.stem for path in steps)}"
    raise AudiolibError(f"{folder} is no model, features or checkpoint folder")


def demo_command(parser: argparse.ArgumentParser) -> Run:
    """`audiolib demo MODEL [--port N]`."""
    parser.add_argument("model", metavar="DIR", help="a trained model's folder, or hub:user/name")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="where it answers (%(default)s)")

    def run(asked: argparse.Namespace) -> None:
        from audiolib.demo import page

        blocks = page(asked.model)
        try:
            blocks.launch(server_name="127.0.0.1", server_port=asked.port, share=False, inbrowser=True)
        except OSError as error:
            raise AudiolibError(f"port {asked.port} is taken; choose another with --port") from error

    return run
