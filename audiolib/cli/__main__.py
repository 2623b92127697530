"""Choose a subcommand: `audiolib COMMAND`, or `python -m audiolib.cli COMMAND`."""

import argparse
import importlib
import os
import sys

from audiolib import __version__
from audiolib.errors import run_main

# Subcommand: where it is, and what it does in a line.
COMMANDS = {
    "predict": ("listen", "name the classes of sound files, whole or in windows"),
    "embed": ("listen", "turn sound files into vectors, one JSON object a line"),
    "info": ("inspect", "tell what a trained model is and wants"),
    "doctor": ("inspect", "tell what this machine can do, and check the kernels on it"),
    "verify": ("inspect", "check the hashes of models, features and checkpoints"),
    "convert": (
        "convert",
        "turn weights of Hugging Face's AST or of the papers' authors into a model folder, or ours into Hugging Face's",
    ),
    "export": ("convert", "write a model as ONNX"),
    "share": ("convert", "make a folder for others: weights, results, and a model card made of them"),
    "demo": ("inspect", "open a page in the browser to try a model on sounds"),
    "compare": ("compare", "put recorded runs side by side: tables, significance, a report"),
    "pick": ("compare", "name the model, patch size and hop to use within limits of cost or accuracy"),
}


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line; only the chosen subcommand's file is read."""
    top = argparse.ArgumentParser(prog="audiolib", description="Flexible audio spectrogram classifiers.")
    top.add_argument("--version", action="version", version=f"audiolib {__version__}")
    each = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        own = each.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == command:
            run = getattr(importlib.import_module(f"audiolib.cli.{module}"), f"{name}_command")
            own.set_defaults(run=run(own))
    return top


def main() -> None:
    """Run the subcommand that the command line names; a broken pipe (`audiolib ... | head`) is no error."""
    command = next((word for word in sys.argv[1:] if word in COMMANDS), None)
    asked = parser(command).parse_args()

    def run() -> None:
        try:
            asked.run(asked)
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)

    run_main(run)


if __name__ == "__main__":
    main()
