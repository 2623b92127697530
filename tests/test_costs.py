"""Costs: memory of known sizes, and how that of a model grows."""

import pytest
import torch

from audiolib.costs import ClipMemory, peak_memory
from audiolib.models import create_model

CPU = torch.device("cpu")


def test_the_peak_counts_what_lives_at_the_same_time():
    def run():
        first = torch.empty(2**18)  # 1 MiB of float32.
        second = torch.empty(2**19)
        del first
        third = torch.empty(2**17)
        return second, third

    assert peak_memory(run, CPU) == pytest.approx(3.0, abs=0.01)
    assert peak_memory(lambda: torch.empty(2**18), CPU) == pytest.approx(1.0, abs=0.01)


def test_attention_takes_more_than_linear_memory_of_tokens_and_a_scan_takes_linear():
    # Above some length all else is small.
    frames, double = 2048, 4096
    scan = create_model("aum_nano", num_classes=4, frames=128).eval()
    scan.use_kernels(attention="auto", scan="auto")
    taken = [ClipMemory(CPU).mib(scan, length, (16, 16)) for length in (frames, double)]
    assert taken[1] / taken[0] == pytest.approx(2, rel=0.1)
    plain = create_model("ast_nano", num_classes=4, frames=128).eval()
    plain.use_kernels(attention="naive", scan="auto")
    taken = [ClipMemory(CPU).mib(plain, length, (16, 16)) for length in (frames, double)]
    assert taken[1] / taken[0] > 3


def test_memory_is_the_same_in_every_run_and_grows_as_a_patch_shrinks():
    model = create_model("flexi_tiny", num_classes=4, frames=128).eval()
    first, again, small = (ClipMemory(CPU).mib(model, 128, size) for size in ((16, 16), (16, 16), (8, 8)))
    assert first == again < small
