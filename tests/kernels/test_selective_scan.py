"""Every implementation of the selective scan against the naive one in float64, on the shared cases."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from audiolib.bench import scan_gpu
from audiolib.errors import KernelUnavailable
from audiolib.kernels import compile as build
from audiolib.kernels.check import failures
from audiolib.kernels.selective_scan import IMPLEMENTATIONS, cpp, mamba_ssm, naive, scan_both, triton, triton_both
from audiolib.kernels.selective_scan.cases import CASES, inputs

GPU = torch.device("cuda")
SOURCE = Path(build.__file__).parent / "selective_scan" / "scan.cpp"
# Triton's interpreter is slow: on a CPU it has the short cases. Where there is a GPU, Triton compiles.
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="interpreted where no GPU is")
HERE = ["naive", "cpp", pytest.param("triton", marks=interpreted)]
SHORT = [name for name, (lengths, *_) in CASES.items() if sum(lengths) <= 100]
ANYWHERE = [("cpp", case) for case in CASES] + [pytest.param("triton", case, marks=interpreted) for case in SHORT]


@pytest.mark.parametrize("impl, case", ANYWHERE)
def test_forward_and_gradients_are_as_good_as_arithmetic_allows(impl, case):
    tensors, options = inputs(case)
    assert failures(IMPLEMENTATIONS[impl], naive, tensors, **options) == []


def test_threads_share_the_channels_and_come_from_torch():
    tensors, options = inputs("ragged")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert failures(cpp, naive, tensors, **options) == []
    finally:
        torch.set_num_threads(before)
    needed = subprocess.run(["ldd", build.library(SOURCE)._name], capture_output=True, text=True)
    assert needed.stdout.count("libgomp") <= 1  # A second runtime would have threads of its own.
    if "clang" not in os.environ.get("CXX", shutil.which("g++") or "clang"):
        assert b"GOMP_parallel" in Path(build.library(SOURCE)._name).read_bytes()


@pytest.mark.gpu
@pytest.mark.parametrize("case", CASES)
def test_on_a_gpu_forward_and_gradients_are_as_good_as_arithmetic_allows(case):
    tensors, options = inputs(case)
    assert failures(triton, naive, {name: t.to(GPU) for name, t in tensors.items()}, **options) == []


@interpreted
@pytest.mark.parametrize("case", ["no gate, skip or bias", "as under autocast"])
def test_both_ways_in_one_pass_are_two_scans(case):
    tensors, options = inputs(case)
    back = {"back_A": tensors["A"] * 0.7}

    def two(u, delta, A, back_A, B, C, D=None, z=None, delta_bias=None, **rest):
        return scan_both("naive", u, delta, A, back_A, B, C, D, z, delta_bias, **rest)

    assert failures(triton_both, two, {**tensors, **back}, lengths=options["lengths"]) == []


@pytest.mark.parametrize("case, share", [("ragged", 0.01), ("tiny steps", 0.01), ("as under autocast", 0.1)])
def test_a_gradient_that_is_a_little_too_large_is_noticed(case, share):
    tensors, options = inputs(case)
    for name in tensors:

        def wrong(name=name, **given):
            own = given[name]
            return naive(**{**given, name: own + share * (own - own.detach())})

        told = failures(wrong, naive, tensors, **options)
        assert [line.split(":")[0] for line in told] == [name], (name, told)


@pytest.mark.parametrize("case", ["ragged", "ragged, reverse", "no gate, skip or bias", "huge steps"])
def test_bfloat16_is_widened_and_rounded_once(case):
    """The kernel's own reading and writing, of parts of a vector, too: bit for bit what conversion around it gives."""
    tensors, options = inputs(case)
    half = {name: tensor.bfloat16() if name in ("u", "delta", "z") else tensor for name, tensor in tensors.items()}
    wide = {name: tensor.float() for name, tensor in half.items()}
    grad = torch.randn(tensors["u"].shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = {}
    for kind, given in (("half", half), ("wide", wide)):
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in given.items()}
        out = cpp(**leaves, **options)
        out.backward(grad.to(out.dtype))
        found[kind] = {"out": out, **{name: leaf.grad for name, leaf in leaves.items()}}
    for name, own in found["half"].items():
        assert torch.equal(own, found["wide"][name].to(own.dtype)), name
        assert own.dtype == (half["u"] if name == "out" else half[name]).dtype


def test_the_default_dtype_of_torch_changes_nothing():
    tensors, options = inputs("ragged")
    torch.set_default_dtype(torch.float64)
    try:
        assert failures(cpp, naive, tensors, **options) == []
    finally:
        torch.set_default_dtype(torch.float32)


def test_naive_on_values_computed_by_hand():
    """Two tokens, one channel, one state, steps 1 and 2 without softplus; A = -1."""
    one = torch.ones(1, 1, dtype=torch.float64)
    u, delta = torch.tensor([[3.0], [5.0]]).double(), torch.tensor([[1.0], [2.0]]).double()
    b, c = torch.tensor([[2.0], [1.0]]).double(), torch.tensor([[1.0], [4.0]]).double()
    out, last = naive(u, delta, -one, b, c, softplus=False, lengths=(2,), return_last=True)
    state = 6.0, 6.0 * torch.exp(torch.tensor(-2.0).double()).item() + 10.0
    torch.testing.assert_close(out.flatten(), torch.tensor([state[0], 4 * state[1]]).double())
    torch.testing.assert_close(last.flatten(), torch.tensor([state[1]]).double())


@pytest.mark.parametrize("impl", ["naive", "cpp"])
@pytest.mark.parametrize("reverse", [False, True])
def test_a_pack_is_its_segments_alone(impl, reverse):
    tensors, options = inputs("ragged")
    scan = IMPLEMENTATIONS[impl]
    together = scan(**tensors, **{**options, "reverse": reverse})
    fixed = {name: tensors[name] for name in ("A", "D", "delta_bias")}
    split = {name: tensors[name].split(options["lengths"]) for name in ("u", "delta", "B", "C", "z")}
    for number, (own, length) in enumerate(zip(together.split(options["lengths"]), options["lengths"], strict=True)):
        part = {name: pieces[number] for name, pieces in split.items()}
        alone = scan(**part, **fixed, lengths=(length,), reverse=reverse)
        # torch's softplus and silu round by a vector's place in memory; the kernel's arithmetic does not.
        torch.testing.assert_close(own, alone, rtol=0, atol=0 if impl != "naive" else 1e-6)


@pytest.mark.parametrize("impl", HERE)
def test_reverse_is_the_scan_of_reversed_time(impl):
    tensors, _ = inputs("63")
    scan = IMPLEMENTATIONS[impl]
    turned = {name: t.flip(0) if len(t) == 63 else t for name, t in tensors.items()}
    backwards = scan(**tensors, lengths=(63,), reverse=True)
    torch.testing.assert_close(backwards, scan(**turned, lengths=(63,)).flip(0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("impl", HERE)
@pytest.mark.parametrize("cut", [1, 40, 62])
def test_a_scan_goes_on_from_the_state_it_left(impl, cut):
    tensors, _ = inputs("63")
    scan = IMPLEMENTATIONS[impl]
    whole, end = scan(**tensors, lengths=(63,), return_last=True)
    one, two = (
        {n: t[part] if len(t) == 63 else t for n, t in tensors.items()} for part in (slice(cut), slice(cut, 63))
    )
    head, state = scan(**one, lengths=(cut,), return_last=True)
    tail, last = scan(**two, lengths=(63 - cut,), first=state, return_last=True)
    torch.testing.assert_close(torch.cat([head, tail]), whole, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(last, end, atol=1e-6, rtol=1e-5)


def test_slices_of_a_wider_projection_are_read_where_they_are():
    tensors, options = inputs("ragged")
    wide = torch.cat([tensors["B"], tensors["C"], tensors["z"]], dim=1)
    b, c, z = wide.split([16, 16, 40], dim=1)
    assert not b.is_contiguous()
    assert torch.equal(cpp(**tensors, **options), cpp(**{**tensors, "B": b, "C": c, "z": z}, **options))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_number_of_threads_changes_no_gradient_but_the_order_of_sums(threads):
    tensors, options = inputs("513")
    leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        cpp(**leaves, **options).square().sum().backward()
    finally:
        torch.set_num_threads(before)
    again = {name: t.clone().requires_grad_() for name, t in tensors.items()}
    naive(**again, **options).square().sum().backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, again[name].grad, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("scan", [cpp, pytest.param(triton, marks=interpreted)])
def test_an_unknown_number_of_states_says_what_to_do(scan):
    tensors, options = inputs("63")
    narrow = {**tensors, "A": tensors["A"][:, :3], "B": tensors["B"][:, :3], "C": tensors["C"][:, :3]}
    with pytest.raises(KernelUnavailable, match=r"not 3; set train\.scan=naive"):
        scan(**narrow, **options)


@interpreted
def test_addresses_have_64_bits():
    """Rows of a wide projection so far apart that the last one lies 2^31 elements behind the first."""
    tensors, options = inputs("63")
    far = 2**31 // 62 + 1
    wide = torch.empty(62 * far + 24, dtype=torch.bfloat16)
    u = wide.as_strided((63, 24), (far, 1))
    u.copy_(tensors["u"])
    wanted = triton(**{**tensors, "u": u.contiguous()}, **options)
    assert torch.equal(triton(**{**tensors, "u": u}, **options), wanted)


def _authors_layout(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
    """What mamba-ssm's function computes, on batches (m, e, l), written down from its documentation."""
    step = delta if delta_bias is None else delta + delta_bias[:, None]
    step = torch.nn.functional.softplus(step) if delta_softplus else step
    state, out = torch.zeros(len(u), *A.shape, dtype=u.dtype), []
    for t in range(u.shape[2]):
        state = state * torch.exp(step[:, :, t, None] * A) + (step * u)[:, :, t, None] * B[:, None, :, t]
        out.append((state * C[:, None, :, t]).sum(-1))
    y = torch.stack(out, -1)
    y = y if D is None else y + D[:, None] * u
    return (y if z is None else y * torch.nn.functional.silu(z)), state


@pytest.mark.parametrize("reverse", [False, True])
def test_the_authors_kernel_gets_batches_of_equal_lengths_and_gives_a_pack(reverse):
    """The function of the package wants a GPU; one with its layout takes its place."""
    tensors, options = inputs("ragged")
    options = {**options, "lengths": (5, 17, 5, 1, 17, 171), "reverse": reverse}

    def packed(**tensors):
        return mamba_ssm(**tensors, kernel=_authors_layout)

    assert failures(packed, naive, tensors, **options) == []
    _, wanted = naive(**tensors, **options, return_last=True)
    _, last = mamba_ssm(**tensors, **options, return_last=True, kernel=_authors_layout)
    torch.testing.assert_close(last, wanted)


@interpreted
def test_the_gpu_benchmark_runs_through_the_interpreter():
    found = scan_gpu.measure(torch.device("cpu"), 1)
    assert [(r.impl, r.unit) for r in found if r.mode.startswith("both")] == [
        ("triton, way after way", "ms"),
        ("triton", "ms"),
        ("triton", "GB/s"),
    ]


def test_without_the_package_the_error_names_it():
    tensors, options = inputs("two tokens")
    with pytest.raises(KernelUnavailable, match="scan=mamba_ssm needs mamba-ssm"):
        mamba_ssm(**tensors, **options)
