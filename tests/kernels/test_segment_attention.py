"""Every implementation of segment attention against the naive one in float64, on the shared cases."""

import pytest
import torch

from audiolib.errors import KernelUnavailable
from audiolib.kernels.check import failures
from audiolib.kernels.segment_attention import IMPLEMENTATIONS, choose, flex, grouped, naive
from audiolib.kernels.segment_attention.cases import CASES, GRADIENT_FACTOR, inputs

ANYWHERE = ["naive", "grouped", "flex"]
GPU = torch.device("cuda")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_forward_and_gradients_are_as_good_as_arithmetic_allows(case, scale):
    tensors, options = inputs(case)
    assert failures(grouped, naive, tensors, **options, scale=scale) == []


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_as_good_as_arithmetic_allows(case):
    tensors, options = inputs(case, torch.bfloat16)
    assert failures(grouped, naive, tensors, **options) == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [None, 1.0])
def test_the_block_mask_of_flex_is_right(case, scale):
    """On the CPU, where flex has no backward; the test below has its gradients on a GPU."""
    tensors, options = inputs(case)
    with torch.no_grad():
        wanted = naive(**tensors, **options, scale=scale)
        torch.testing.assert_close(flex(**tensors, **options, scale=scale), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scale", [None, 1.0])
@pytest.mark.parametrize(
    "impl, dtype",
    [
        ("grouped", torch.float32),
        ("grouped", torch.bfloat16),
        ("varlen", torch.bfloat16),
        ("varlen", torch.float16),
        ("flex", torch.float32),
        ("flex", torch.bfloat16),
    ],
)
def test_on_a_gpu_forward_and_gradients_are_as_good_as_arithmetic_allows(impl, dtype, case, scale):
    tensors, options = inputs(case, dtype)
    tensors = {name: tensor.to(GPU) for name, tensor in tensors.items()}
    options |= {"gradient_factor": GRADIENT_FACTOR, "scale": scale}
    assert failures(IMPLEMENTATIONS[impl], naive, tensors, **options) == []


def test_the_choice_for_the_cpu_for_float32_and_for_equal_lengths():
    for dtype in (torch.float32, torch.bfloat16):
        assert choose(torch.device("cpu"), dtype, equal=False) == choose(GPU, dtype, equal=True) == "grouped"
    assert choose(GPU, torch.float32, equal=False) == "grouped"


@pytest.mark.parametrize("tokens, kept", [(1025, True), (1026, False)])
def test_long_clips_in_bfloat16_keep_no_scores(tokens, kept):
    """The scores of one head of a clip of 1,026 tokens are a million; whatever is saved is told by its size."""
    q, k, v = (torch.randn(tokens, 1, 8).bfloat16().requires_grad_() for _ in range(3))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        grouped(q, k, v, (tokens,))
    assert (max(sizes) >= tokens**2) is kept


def test_a_fused_backward_loses_what_its_formula_does():
    """Why attention has a gradient factor of its own: softmax by the logarithm of its sum, at unscaled scores."""
    tensors, options = inputs("one clip")

    def by_logarithm(query, key, value, lengths, scale):
        scores = scale * torch.einsum("ihk,jhk->hij", query, key)
        shares = (scores - scores.logsumexp(-1, keepdim=True)).exp()
        return torch.einsum("hij,jhk->ihk", shares, value)

    options |= {"scale": 1.0}
    assert failures(by_logarithm, naive, tensors, gradient_factor=1.0, **options)
    assert failures(by_logarithm, naive, tensors, gradient_factor=GRADIENT_FACTOR / 3, **options) == []


def test_naive_on_values_computed_by_hand():
    query = torch.tensor([[[1.0]], [[0.0]], [[5.0]]], dtype=torch.float64)
    key = torch.tensor([[[0.0]], [[2.0]], [[7.0]]], dtype=torch.float64)
    value = torch.tensor([[[1.0]], [[3.0]], [[9.0]]], dtype=torch.float64)
    out = naive(query, key, value, lengths=(2, 1))
    share = torch.exp(torch.tensor(2.0, dtype=torch.float64))
    expected = torch.stack(
        [(1 + 3 * share) / (1 + share), torch.tensor(2.0, dtype=torch.float64), torch.tensor(9.0, dtype=torch.float64)]
    )
    torch.testing.assert_close(out.flatten(), expected)


@pytest.mark.parametrize("impl", ANYWHERE)
def test_no_token_sees_another_segment(impl):
    tensors, options = inputs("ragged")
    before = IMPLEMENTATIONS[impl](**tensors, **options)
    tensors["value"] = tensors["value"].clone()
    tensors["value"][18:58] += 100.0  # The third segment.
    after = IMPLEMENTATIONS[impl](**tensors, **options)
    assert torch.equal(before[:18], after[:18]) and torch.equal(before[58:], after[58:])


def test_the_check_catches_a_wrong_kernel():
    tensors, options = inputs("equal")

    def leaky(query, key, value, lengths, scale=None):
        return naive(query, key, value, lengths, scale) * 1.001

    assert len(failures(leaky, naive, tensors, **options)) == 4


def test_flex_trains_on_a_gpu_alone():
    q, k, v = (torch.randn(4, 1, 16, requires_grad=True) for _ in range(3))
    with pytest.raises(KernelUnavailable, match=r"train\.attention=flex trains on a GPU alone; use auto"):
        flex(q, k, v, (4,))


def test_varlen_says_what_it_cannot():
    query = torch.zeros(4, 1, 8)
    with pytest.raises(KernelUnavailable, match=r"train\.attention=varlen needs a GPU and bfloat16; use auto"):
        IMPLEMENTATIONS["varlen"](query, query, query, lengths=(4,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("units, problems", [(2, 0), (50, 1)])
def test_a_gradient_that_is_zero_may_be_off_by_rounding_alone(dtype, units, problems):
    """That of the query of a single token: its parts cancel, in a fused kernel but for their rounding."""
    tensors, options = inputs("one token", dtype)

    def fused(query, key, value, lengths):
        return naive(query, key, value, lengths) + units * torch.finfo(dtype).eps * (query - query.detach())

    assert len(failures(fused, naive, tensors, **options)) == problems
