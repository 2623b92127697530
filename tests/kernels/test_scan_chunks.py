"""The Triton scan cuts segments into chunks: what crosses their borders, one way and both ways."""

import pytest
import torch
from torch import Tensor

from audiolib.kernels.check import failures
from audiolib.kernels.selective_scan import naive, scan_both, triton, triton_both, triton_scan
from audiolib.kernels.selective_scan.cases import CASES, inputs

# Segments of several chunks, of none, of a token, of one chunk and of a token more.
CHUNK, LENGTHS = 16, (37, 0, 1, 16, 17)
E, J = 3, 2
ANYWHERE = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted where no GPU is")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """The interpreter takes a second for a few hundred tokens."""
    monkeypatch.setattr(triton_scan, "CHUNK", CHUNK)
    triton_scan._cut.cache_clear()
    yield
    triton_scan._cut.cache_clear()


def _given(device: str, dtype: torch.dtype = torch.float32) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Leaves, those over tokens slices of one wider tensor; states before segments; a gradient, a slice, too."""
    random = torch.Generator().manual_seed(0)
    n = sum(LENGTHS)
    wide = torch.randn(n, 3 * E + 2 * J, generator=random).to(device, dtype)
    parts = dict(zip(("u", "delta", "z", "B", "C"), wide.split([E, E, E, J, J], dim=1), strict=True))
    small = {"A": -torch.rand(E, J, generator=random), "back_A": -torch.rand(E, J, generator=random)}
    small |= {"D": torch.randn(E, generator=random), "delta_bias": torch.randn(E, generator=random) - 2}
    leaves = parts | {name: tensor.to(device) for name, tensor in small.items()}
    first = torch.randn(len(LENGTHS), E, J, generator=random).to(device)
    return leaves, first, torch.randn(n, E + 1, generator=random).to(device, dtype)[:, :E]


def _told(scan, leaves: dict[str, Tensor], grad: Tensor, **options) -> dict[str, Tensor]:
    """Results and gradients by name."""
    own = {name: tensor.detach().requires_grad_() for name, tensor in leaves.items()}
    found = scan(**own, lengths=LENGTHS, **options)
    out, last = found if isinstance(found, tuple) else (found, None)
    out.backward(grad)
    told = {"out": out.detach(), **{name: leaf.grad for name, leaf in own.items()}}
    return told if last is None else {**told, "last": last}


def _exact(leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in leaves.items()}


@pytest.mark.parametrize("device", ANYWHERE)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("softplus", [True, False])
def test_states_and_gradients_cross_from_chunk_to_chunk_and_not_from_segment_to_segment(device, reverse, softplus):
    leaves, first, grad = _given(device)
    del leaves["back_A"]
    if not softplus:
        leaves["delta"], leaves["delta_bias"] = leaves["delta"].abs() * 0.2, leaves["delta_bias"].abs() * 0.1
    options = {"reverse": reverse, "softplus": softplus, "return_last": True}
    found = _told(triton, leaves, grad, first=first, **options)
    wanted = _told(naive, _exact(leaves), grad.double(), first=first.double(), **options)
    for name, right in wanted.items():
        torch.testing.assert_close(found[name].double(), right, atol=1e-4, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("device", ANYWHERE)
def test_segments_of_one_chunk_begin_with_their_own_states(device):
    leaves, first, _ = _given(device)
    del leaves["back_A"]
    lengths = (5, 0, 16, 1)
    cut = {name: part[:22] if name in ("u", "delta", "z", "B", "C") else part for name, part in leaves.items()}
    found = triton(**cut, lengths=lengths, first=first[:4], return_last=True)
    wanted = naive(**cut, lengths=lengths, first=first[:4], return_last=True)
    for one, two in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


def _two(u, delta, A, back_A, B, C, D=None, z=None, delta_bias=None, **options):
    return scan_both("naive", u, delta, A, back_A, B, C, D, z, delta_bias, **options)


@pytest.mark.parametrize("device", ANYWHERE)
def test_both_ways_cross_too(device):
    leaves, _, grad = _given(device)
    found, wanted = _told(triton_both, leaves, grad), _told(_two, _exact(leaves), grad.double())
    for name, right in wanted.items():
        torch.testing.assert_close(found[name].double(), right, atol=1e-4, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("device", ANYWHERE)
def test_of_both_ways_the_sum_is_rounded_and_not_each(device):
    """In bfloat16: results are those of float32 rounded once, to all but a few ties."""
    leaves, _, grad = _given(device, torch.bfloat16)
    wide = {name: tensor.float() for name, tensor in leaves.items()}
    found, wanted = _told(triton_both, leaves, grad), _told(triton_both, wide, grad.float())
    for name in ("out", "u", "delta", "z"):
        assert (found[name] == wanted[name].bfloat16()).float().mean() > 0.99, name


@pytest.mark.gpu
@pytest.mark.parametrize("case", [name for name, (*_, options) in CASES.items() if not options.get("reverse")])
def test_on_a_gpu_both_ways_are_as_good_as_arithmetic_allows(case):
    tensors, options = inputs(case)
    given = {name: tensor.cuda() for name, tensor in {**tensors, "back_A": tensors["A"] * 0.7}.items()}
    rest = {"lengths": options["lengths"], "softplus": options["softplus"]}
    assert failures(triton_both, _two, given, **rest) == []
