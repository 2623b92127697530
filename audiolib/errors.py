"""The one error type for mistakes a user can mend, and how a program reports it."""

import argparse
import sys
from collections.abc import Callable, Iterable

# Packages that not every installation has, by the extra that brings them.
_EXTRAS = {
    "pipeline": ("dvc", "mlflow", "matplotlib", "jinja2", "plotly", "ray", "scipy"),
    "export": ("onnx", "onnxscript"),
    "demo": ("gradio",),
}


class AudiolibError(Exception):
    """One line that says what is wrong, where, and what to do; a name in it may hold a line break of its own."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))


class KernelUnavailable(AudiolibError):
    """An implementation that was asked for cannot run on this machine."""


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a setting that is none of the choices: left alone it would be taken for the last of them."""
    if value not in (known := tuple(choices)):
        raise AudiolibError(f"{name} is {value!r}; choose among: {', '.join(known)}")


def run_main(main: Callable[[], None], alone: str | None = None) -> None:
    """Run a program; a user's mistake becomes one line on stderr and exit status 1, never a traceback.

    Args:
        main: the program.
        alone: what one without arguments does: with `--help` that is printed, with other words nothing is done.
    """
    if alone is not None:
        argparse.ArgumentParser(description=alone.strip()).parse_args()
    try:
        main()
    except AudiolibError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = next((name for name, packages in _EXTRAS.items() if error.name in packages), None)
        if extra is None:
            raise
        print(f"error: this needs {error.name}: pip install -e '.[{extra}]' in audiolib's folder", file=sys.stderr)
        sys.exit(1)
    except PermissionError as error:
        print(f"error: {error.filename}: {error.strerror}; change its permissions", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)
