"""torch.compile takes each model whole: no break in its graph, and the same numbers, forward and backward."""

import pytest
import torch

from audiolib.batches import pack
from audiolib.kernels.causal_conv.cpp import cpp as conv
from audiolib.kernels.selective_scan.cases import inputs
from audiolib.kernels.selective_scan.cpp import cpp as scan
from tests.test_export import small, sounds


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("name", ["ast_nano", "flexi_nano", "elastic_nano", "aum_nano"])
def test_a_compiled_model_is_one_graph_with_the_same_numbers(name):
    torch._dynamo.reset()
    model = small(name, depth=1)
    clips = [sounds(96)[0], sounds(60)[0] if name in ("elastic_nano", "aum_nano") else sounds(96)[1]]
    found = {}
    for way in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        logits = way(pack(clips), (12, 16))
        model.zero_grad()
        logits.square().sum().backward()
        found[way] = [logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
    plain, compiled = found.values()
    assert len(plain) > 10
    for one, other in zip(plain, compiled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["ragged", "no gate, skip or bias"])
def test_the_scan_is_an_operator_that_torch_can_trust(case):
    """Shapes without data, gradients, no aliases: what `torch.library.opcheck` asks."""
    tensors, options = inputs(case)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias")
    parts = [None if tensors.get(name) is None else tensors[name].float().detach() for name in names]
    parts = [part if part is None else part.clone().requires_grad_() for part in parts]
    scan(**{k: v.float() for k, v in tensors.items()}, **options)
    args = (*parts, None, True, list(options["lengths"]), False, True)
    torch.library.opcheck(torch.ops.audiolib.selective_scan.default, args)


def test_the_convolution_is_an_operator_that_torch_can_trust():
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*size, generator=random) for size in ((9, 5), (5, 4), (5,)))
    parts = [part.requires_grad_() for part in (x, weight, bias)]
    conv(*parts, (6, 3))
    torch.library.opcheck(torch.ops.audiolib.causal_conv.default, (*parts, [6, 3], True))
