"""Kernels are built: C++ once, and again where what is kept cannot be loaded; Triton for a GPU that is not there."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch

from audiolib.bench import authors_kernel
from audiolib.errors import AudiolibError, KernelUnavailable
from audiolib.kernels import compile as build
from audiolib.kernels.selective_scan import cpp
from audiolib.kernels.selective_scan.cases import inputs


def test_without_a_compiler_the_error_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    source = tmp_path / "nothing.cpp"
    source.write_text("int nothing() { return 0; }")
    with pytest.raises(KernelUnavailable, match=r"needs a C\+\+ compiler"):
        build.library(source)
    build.library.cache_clear()
    tensors, options = inputs("two tokens")
    with pytest.raises(KernelUnavailable, match=r"needs a C\+\+ compiler.* set train\.scan=naive"):
        cpp(**tensors, **options)


def test_code_that_does_not_compile_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = tmp_path / "broken.cpp"
    source.write_text("int broken( {")
    with pytest.raises(KernelUnavailable, match=r"cannot compile broken\.cpp: .*error") as caught:
        build.library(source)
    assert "\n" not in str(caught.value) and not list((tmp_path / "audiolib").glob("*.so"))


def test_a_compiler_may_be_two_words(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", f"env {shutil.which('g++')}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "two.cpp").write_text('extern "C" int two() { return 2; }')
    assert build.library.__wrapped__(tmp_path / "two.cpp").two() == 2


def test_a_compiler_that_is_not_there_or_no_place_for_its_work_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "two.cpp").write_text('extern "C" int two() { return 2; }')
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/none")
    with pytest.raises(KernelUnavailable, match="cannot build /proc/none"):
        build.library.__wrapped__(tmp_path / "two.cpp")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", "g++ '")
    with pytest.raises(KernelUnavailable, match="CXX is no command"):
        build.library.__wrapped__(tmp_path / "two.cpp")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(KernelUnavailable, match="no-such-compiler cannot build"):
        build.library.__wrapped__(tmp_path / "two.cpp")


def test_a_library_that_cannot_be_loaded_is_one_line_and_built_anew(tmp_path, monkeypatch, capsys):
    """Cut short by a full disk or a power cut, or another system's that shares the folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, folder = tmp_path / "tiny.cpp", tmp_path / "cache" / "audiolib"
    source.write_text('extern "C" int seven() { return 7; }')
    folder.mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(build, "_build", lambda compiling, linking, target: target.write_bytes(b""))
        with pytest.raises(KernelUnavailable, match=r"tiny-.*\.so cannot be loaded .* set XDG_CACHE_HOME"):
            build.library(source)
    (kept,) = folder.iterdir()
    assert kept.stat().st_size == 0
    assert build.library(source).seven() == 7 and kept.stat().st_size > 0
    assert capsys.readouterr().err.count("compiling tiny.cpp") == 2


def test_the_triton_programs_compile_for_a_gpu_that_is_not_there():
    script = Path(__file__).with_name("compile_programs.py")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [int(line.split()[1]) > 0 for line in done.stdout.splitlines()] == [True] * 32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there it would build")
def test_of_the_authors_kernel_the_archive_is_looked_at_before_a_gpu_is_needed(tmp_path):
    archive, source = tmp_path / "mamba_ssm.tar.gz", tmp_path / "mamba_ssm-2.3"
    with pytest.raises(AudiolibError, match=r"cannot be unpacked: .*; pypi\.org/project/mamba-ssm"):
        authors_kernel.build(archive, tmp_path / "out")
    for module in authors_kernel.MODULES:
        with tarfile.open(archive, "w:gz") as held:
            held.add(source if source.exists() else Path(__file__), "mamba_ssm-2.3")
        with pytest.raises(AudiolibError, match="is no source archive of mamba-ssm"):
            authors_kernel.build(archive, tmp_path / "out")
        file = source / "mamba_ssm" / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with tarfile.open(archive, "w:gz") as held:
        held.add(source, "mamba_ssm-2.3")
    with pytest.raises(AudiolibError, match="needs a GPU and nvcc"):
        authors_kernel.build(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()
