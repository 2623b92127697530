"""Builds a C++ file into a shared library on first use and keeps it: plain functions, called through ctypes."""

import ctypes
import hashlib
import os
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
        KernelUnavailable: no C++ compiler, or one that fails.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
    if compiler is None:
        raise KernelUnavailable(f"{source.stem} needs a C++ compiler (g++ or clang++) on first use")
    command = [compiler, *_arguments(source)]
    texts = [path.read_text(encoding="utf-8") for path in (source, _HEADERS / "vector_math.h")]
    told = "\0".join([*texts, torch.__version__, *command])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "audiolib"
    target = folder / f"{source.stem}-{hashlib.sha256(told.encode()).hexdigest()[:16]}.so"
    if not target.exists():
        print(f"compiling {source.name} with {compiler}, once (about 10 s)", file=sys.stderr, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # Moved when whole: two processes may build at once.
            built = Path(scratch) / target.name
            done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True, check=False)
            if done.returncode:
                reason = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr[-300:])
                raise KernelUnavailable(f"{compiler} cannot compile {source.name}: {reason.strip()}")
            built.replace(target)
    return ctypes.CDLL(str(target))


def _arguments(source: Path) -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    torch_folder = Path(torch.__file__).parent
    vector = [f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}", *_FLAGS.get(capability, [])]
    includes = [
        f"-I{_HEADERS}",
        f"-I{torch_folder / 'include'}",
        f"-I{torch_folder / 'include/torch/csrc/api/include'}",
    ]
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    libraries = [f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10"]
    return ["-std=c++20", "-O3", "-fPIC", "-shared", abi, *vector, *includes, str(source), *libraries]
