"""Causal convolution: torch's on each clip alone, every implementation by one rule."""

import pytest
import torch
from torch.nn.functional import conv1d, pad, silu

from audiolib.errors import KernelUnavailable
from audiolib.kernels.causal_conv import IMPLEMENTATIONS, cpp, naive, triton
from audiolib.kernels.causal_conv.cases import CASES, drawn, inputs
from audiolib.kernels.check import failures

# Triton's interpreter runs on the CPU; what it is compiled to, on a GPU alone.
GPU = torch.device("cuda")


@pytest.mark.parametrize("impl", [cpp, triton])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_forward_and_gradients_are_as_good_as_arithmetic_allows(case, reverse, impl):
    if impl is triton and torch.cuda.is_available():
        pytest.skip("compiled for a GPU here; the next test has it")
    tensors, options = inputs(case)
    assert failures(impl, naive, tensors, **options, reverse=reverse) == []


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_forward_and_gradients_are_as_good_as_arithmetic_allows(case, reverse, dtype):
    tensors, options = inputs(case, dtype)
    on_gpu = {name: tensor.to(GPU) for name, tensor in tensors.items()}
    assert failures(triton, naive, on_gpu, **options, reverse=reverse) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="the interpreter reads what is not there on a GPU")
def test_addresses_have_64_bits():
    tensors, lengths = drawn((20, 20)), (20, 20)
    far = 2**31 // 39 + 1
    x = torch.empty(39 * far + 37, dtype=torch.bfloat16).as_strided((40, 37), (far, 1))
    x.copy_(tensors["x"])
    near = triton(**{**tensors, "x": x.contiguous()}, lengths=lengths)
    assert torch.equal(triton(**{**tensors, "x": x}, lengths=lengths), near)


@pytest.mark.parametrize("reverse", [False, True])
def test_bfloat16_is_widened_and_rounded_once(reverse):
    """37 channels: the last vector is a part of one."""
    tensors, options = drawn((7, 1, 4)), {"lengths": (7, 1, 4), "reverse": reverse}
    half = {**tensors, "x": tensors["x"].bfloat16()}
    grad = torch.randn(half["x"].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = []
    for given in (half, {**half, "x": half["x"].float()}):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        out = cpp(**leaves, **options)
        out.backward(grad.to(out.dtype))
        found.append([out, *(leaf.grad for leaf in leaves.values())])
    for own, wide in zip(*found, strict=True):
        assert torch.equal(own, wide.to(own.dtype))


@pytest.mark.parametrize("impl", ["naive", "cpp"])
@pytest.mark.parametrize("reverse", [False, True])
def test_it_is_torchs_convolution_and_silu_on_each_clip(impl, reverse):
    tensors, lengths = drawn((7, 1, 4)), (7, 1, 4)
    found = IMPLEMENTATIONS[impl](**tensors, lengths=lengths, reverse=reverse)
    for clip, own in zip(tensors["x"].split(lengths), found.split(lengths), strict=True):
        series = clip.flip(0) if reverse else clip
        wanted = silu(conv1d(pad(series.T[None], (3, 0)), tensors["weight"][:, None], tensors["bias"], groups=37)[0].T)
        torch.testing.assert_close(own, wanted.flip(0) if reverse else wanted)


def test_a_pack_is_its_clips_bit_for_bit():
    tensors, lengths = drawn(CASES["ragged"]), CASES["ragged"]
    rest = {name: tensors[name] for name in ("weight", "bias")}
    together = cpp(**tensors, lengths=lengths).split(lengths)
    for clip, own in zip(tensors["x"].split(lengths), together, strict=True):
        assert torch.equal(cpp(clip, **rest, lengths=(len(clip),)), own)


@pytest.mark.parametrize("impl", [cpp, triton])
def test_half_of_a_wider_projection_in_bfloat16(impl):
    if impl is triton and torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")
    wide = torch.randn(20, 2 * 37, generator=torch.Generator().manual_seed(0)).bfloat16()
    rest = {name: tensor for name, tensor in drawn((20,)).items() if name != "x"}
    half = wide.chunk(2, dim=1)[1]
    found = impl(half, **rest, lengths=(20,))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), naive(half.float(), **rest, lengths=(20,)), atol=0.02, rtol=0.01)


def test_the_default_dtype_of_torch_changes_nothing():
    torch.set_default_dtype(torch.float64)
    try:
        assert failures(cpp, naive, drawn((20, 5)), lengths=(20, 5)) == []
    finally:
        torch.set_default_dtype(torch.float32)


def test_another_window_is_one_line():
    tensors = drawn((5,))
    with pytest.raises(KernelUnavailable, match="has a window of 4, not 3"):
        cpp(tensors["x"], tensors["weight"][:, :3], tensors["bias"], (5,))
