"""Builds a C++ file into a shared library on first use and keeps it: plain functions, called through ctypes."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from audiolib.errors import KernelUnavailable

_HEADERS = Path(__file__).parent
_FLAGS = {
    "AVX512": ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"],
    "AVX2": ["-mavx2", "-mfma", "-mf16c"],
}


@lru_cache(maxsize=8)
def library(source: Path) -> ctypes.CDLL:
    """The compiled library of a C++ file that uses torch's headers.

    It is built for the vector instructions that torch itself uses here, once, into `$XDG_CACHE_HOME/audiolib`.

    Raises:
        KernelUnavailable: no C++ compiler, one that fails, or no place for what it makes.
    """
    compiler = _compiler()
    if not compiler:
        raise KernelUnavailable(f"{source.stem} needs a C++ compiler (g++ or clang++) on first use")
    compiling, linking = _commands(compiler, source)
    texts = [path.read_text(encoding="utf-8") for path in (source, _HEADERS / "vector_math.h")]
    told = "\0".join([*texts, torch.__version__, *compiling, *linking])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiolib"
    target = folder / f"{source.stem}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if target.exists():
        try:
            return ctypes.CDLL(str(target))
        except OSError:
            target.unlink(missing_ok=True)  # Cut short, or of another system that shares this folder: built anew.
    print(f"compiling {source.name} with {compiler[0]}, once (about 10 s)", file=sys.stderr, flush=True)
    try:
        _build(compiling, linking, target)
    except OSError as error:
        raise KernelUnavailable(f"{compiler[0]} cannot build {target}: {error}") from error
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise KernelUnavailable(f"{target} cannot be loaded ({error}); set XDG_CACHE_HOME to another folder") from error


def _compiler() -> list[str]:
    """The words of CXX, which may be `ccache g++`, else the first compiler that is found; none if there is none."""
    try:
        if named := shlex.split(os.environ.get("CXX", "")):
            return named
    except ValueError as error:
        raise KernelUnavailable(f"CXX is no command: {error}") from error
    return [found for name in ("g++", "c++", "clang++") if (found := shutil.which(name))][:1]


def _build(compiling: list[str], linking: list[str], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Moved when whole: two processes may build at once.
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        built, step = Path(scratch) / target.name, Path(scratch) / "object.o"
        for command in ([*compiling, "-o", str(step)], [*linking, str(step), "-o", str(built), *_libraries()]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-300:])
                raise KernelUnavailable(f"{command[0]} cannot compile {Path(compiling[-1]).name}: {reason.strip()}")
        built.replace(target)


def _commands(compiler: list[str], source: Path) -> tuple[list[str], list[str]]:
    """How to compile and how to link.

    In one step a compiler would add its own OpenMP library beside torch's, with threads of its own: what torch has
    loaded is used, which `torch.set_num_threads` rules.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    torch_folder = Path(torch.__file__).parent
    vector = [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *_FLAGS.get(capability, [])]
    includes = [
        f"-I{_HEADERS}",
        f"-I{torch_folder / 'include'}",
        f"-I{torch_folder / 'include/torch/csrc/api/include'}",
    ]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    # The runtime of clang's OpenMP has other names than torch's, which is GNU's on Linux.
    threads = ["-fopenmp"] if sys.platform == "linux" and "clang" not in " ".join(compiler) else []
    compiling = [*compiler, "-std=c++20", "-O3", "-fPIC", "-c", *threads, abi, *vector, *includes, str(source)]
    return compiling, [*compiler, "-shared"]


def _libraries() -> list[str]:
    return [f"-L{Path(torch.__file__).parent / 'lib'}", "-ltorch_cpu", "-lc10"]
