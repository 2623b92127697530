"""Build the scan kernel of the Mamba authors for this machine's GPU, to race against it; nothing else needs it.

    python -m audiolib.bench.authors_kernel mamba_ssm-2.3.2.post1.tar.gz build/mamba
    PYTHONPATH=build/mamba python -m audiolib.bench scan_gpu

Their setup compiles it for eight generations of GPUs, and their package imports much that the kernel does not use: here
it is compiled for one (two and a half minutes on 16 cores), with the function that calls it and what that imports.
"""

import argparse
import shutil
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch

from audiolib.errors import AudiolibError, run_main
from audiolib.files import disk_errors

# As in their setup.py, without the list of GPUs.
FLAGS = [
    *("-O3", "-std=c++17", "-U__CUDA_NO_HALF_OPERATORS__", "-U__CUDA_NO_HALF_CONVERSIONS__"),
    *("-U__CUDA_NO_BFLOAT16_OPERATORS__", "-U__CUDA_NO_BFLOAT16_CONVERSIONS__", "-U__CUDA_NO_BFLOAT162_OPERATORS__"),
    *("-U__CUDA_NO_BFLOAT162_CONVERSIONS__", "--expt-relaxed-constexpr", "--expt-extended-lambda", "--use_fast_math"),
]
MODULES = ("ops/selective_scan_interface.py", "ops/triton/layer_norm.py", "utils/torch.py", "utils/determinism.py")


def build(archive: Path, folder: Path) -> None:
    """Leave `mamba_ssm` and `selective_scan_cuda` in a folder, to be named in PYTHONPATH.

    Raises:
        AudiolibError: the archive is not that of mamba-ssm; or there is no GPU; or what compiles for it is missing or
            fails.
    """
    from torch.utils.cpp_extension import CUDA_HOME, load

    with tempfile.TemporaryDirectory() as temporary, disk_errors(folder):
        source = _unpacked(archive, Path(temporary))
        if not torch.cuda.is_available() or CUDA_HOME is None:
            raise AudiolibError("the authors' kernel needs a GPU and nvcc, the compiler of the CUDA toolkit")
        if find_spec("einops") is None:
            raise AudiolibError("the authors' function needs einops; run `pip install einops ninja`")
        sources = source / "csrc" / "selective_scan"
        made = Path(temporary) / "made"
        made.mkdir()
        try:
            load(
                "selective_scan_cuda",
                [str(path) for path in sorted(sources.iterdir()) if path.suffix in (".cpp", ".cu")],
                extra_cflags=["-O3", "-std=c++17"],
                extra_cuda_cflags=FLAGS,
                extra_include_paths=[str(sources)],
                build_directory=str(made),
                verbose=True,
            )
        except RuntimeError as error:  # No ninja, a compiler that does not go with torch, or one that fails.
            raise AudiolibError(f"the authors' kernel cannot be built here: {str(error).splitlines()[0]}") from error
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(made / "selective_scan_cuda.so", folder)
        for module in MODULES:
            target = folder / "mamba_ssm" / module
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / "mamba_ssm" / module, target)
            (target.parent / "__init__.py").touch()
        (folder / "mamba_ssm" / "__init__.py").touch()


def _unpacked(archive: Path, folder: Path) -> Path:
    """The folder of the archive's source."""
    try:
        with tarfile.open(archive) as held:
            held.extractall(folder, filter="data")
    except (OSError, tarfile.TarError) as error:
        raise AudiolibError(
            f"{archive} cannot be unpacked: {error}; pypi.org/project/mamba-ssm/#files has it"
        ) from error
    found = [path.parent.parent for path in folder.glob("*/mamba_ssm/ops")]
    if not found or any(not (found[0] / "mamba_ssm" / module).exists() for module in MODULES):
        raise AudiolibError(f"{archive} is no source archive of mamba-ssm 2.3")
    return found[0]


def main() -> None:
    """`python -m audiolib.bench.authors_kernel ARCHIVE FOLDER`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "archive", type=Path, help="source archive of mamba-ssm, from pypi.org/project/mamba-ssm/#files"
    )
    parser.add_argument("folder", type=Path, help="where the modules go")
    asked = parser.parse_args()
    build(asked.archive, asked.folder)


if __name__ == "__main__":
    run_main(main)
