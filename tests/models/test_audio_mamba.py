"""Audio Mamba: the published shapes, the published mixer, and a pack that is its clips."""

import math

import pytest
import torch
from transformers import MambaConfig as TheirConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.kernels.selective_scan import naive
from audiolib.models import build, create_model, plain_config
from audiolib.models.audio_mamba import frequency_major
from audiolib.models.mamba import DIRECTIONS, Mixer
from audiolib.models.streaming import Stream

LENGTHS = (100, 37, 16, 1, 100)


def model(**changes):
    return create_model("aum_nano", num_classes=5, **{"frames": 128, "depth": 2, "width": 32, **changes})


def clips(dtype=torch.float64) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return [torch.randn(n, 128, generator=random, dtype=torch.float64).to(dtype) for n in LENGTHS]


# papers.md 4.1, millions: the table of the published models, and what follows from the shapes.
COUNTS = {
    ("base", "fo-bi", 527, 1024): 92.1,
    ("base", "fo-bi", 309, 1024): 91.9,
    ("base", "fo-bi", 1251, 1024): 92.7,
    ("base", "fo-bi", 35, 128): 91.4,
    ("base", "fo-bi", 44, 1024): 91.7,
    ("small", "bi-bi", 527, 1024): 25.5,
    ("small", "bi-bi", 309, 1024): 25.5,
    ("small", "bi-bi", 1251, 1024): 25.8,
    ("small", "bi-bi", 35, 128): 25.2,
    ("small", "bi-bi", 44, 1024): 25.4,
    ("base", "fo-fo", 527, 1024): 91.5,
    ("base", "bi-bi", 527, 1024): 97.1,
    ("small", "fo-bi", 527, 1024): 23.9,
    ("tiny", "fo-bi", 527, 1024): 6.4,
}


@pytest.mark.parametrize("size, directions, classes, frames", COUNTS)
def test_parameters_are_those_of_the_published_models(size, directions, classes, frames):
    with torch.device("meta"):
        shape = {"tiny": (192, 24), "small": (384, 24), "base": (768, 24)}[size]
        net = build({
            "kind": "mamba", "num_classes": classes, "width": shape[0], "depth": shape[1], "frames": frames,
            "directions": directions,
        })  # fmt: skip
    count = sum(p.numel() for p in net.parameters())
    assert round(count / 1e6, 1) == COUNTS[size, directions, classes, frames]


def test_one_way_is_the_mixer_of_transformers():
    ours = Mixer(24, states=16, directions="fo-fo")
    ours.init_weights(2, torch.Generator().manual_seed(0))
    theirs = MambaMixer(TheirConfig(hidden_size=24, state_size=16, expand=2, time_step_rank=2, use_mambapy=False), 0)
    way = ours.way
    theirs.load_state_dict({
        "in_proj.weight": ours.in_proj.weight, "conv1d.weight": way.conv_weight[:, None], "conv1d.bias": way.conv_bias,
        "x_proj.weight": way.x_proj.weight, "dt_proj.weight": way.dt_proj.weight, "dt_proj.bias": way.dt_proj.bias,
        "A_log": ours.A_log, "D": way.D, "out_proj.weight": ours.out_proj.weight,
    })  # fmt: skip
    x = torch.randn(40, 24, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(x, (40,)), theirs(x[None])[0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("directions", ["fo-fo", "fo-bi", "bi-bi"])
@pytest.mark.parametrize("class_token", ["head", "mid", "end", "double", "mean"])
def test_packed_equals_one_by_one(directions, class_token):
    net = model(directions=directions, class_token=class_token).double().eval()
    alone = torch.cat([net(pack([clip])) for clip in clips()])
    torch.testing.assert_close(net(pack(clips())), alone, atol=1e-10, rtol=0)


@pytest.mark.parametrize("patch", [(16, 16), (8, 8), (20, 24), (16, 6)])
def test_any_patch_size_and_the_fast_kernel(patch):
    net = model().eval()
    sounds = clips(torch.float32)
    alone = torch.cat([net(pack([clip]), patch) for clip in sounds])
    torch.testing.assert_close(net(pack(sounds), patch), alone, atol=1e-5, rtol=1e-4)
    net.use_kernels(attention="auto", scan="naive")
    torch.testing.assert_close(net(pack(sounds), patch), alone, atol=1e-5, rtol=1e-4)


def test_perturbing_one_clip_leaves_the_others_bit_identical():
    net, changed = model().eval(), clips(torch.float32)
    changed[1] = changed[1] + 1.0
    before, after = net(pack(clips(torch.float32))), net(pack(changed))
    assert not torch.equal(before[1], after[1])
    for other in (0, 2, 3, 4):
        assert torch.equal(before[other], after[other])


def test_both_ways_are_the_sum_of_two_scans():
    mixer, lengths = Mixer(16, states=4, directions="fo-bi").double(), (9, 5)
    mixer.init_weights(1, torch.Generator().manual_seed(0))
    mixer.back_A_log.data += 0.1
    x = torch.randn(14, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inner, gate = mixer.in_proj(x).chunk(2, dim=-1)
    u = mixer.way.convolved("naive", inner, lengths, reverse=False)
    delta, b, c = mixer.way.steps(u)
    rest = (mixer.way.D, gate, mixer.way.dt_proj.bias)
    forward = naive(u, delta, -mixer.A_log.exp(), b, c, *rest, lengths=lengths)
    turn = torch.cat([torch.arange(9).flip(0), 9 + torch.arange(5).flip(0)])
    turned = (t[turn] for t in (u, delta, b, c, gate))
    tu, td, tb, tc, tg = turned
    back = naive(tu, td, -mixer.back_A_log.exp(), tb, tc, rest[0], tg, rest[2], lengths=lengths)[turn]
    torch.testing.assert_close(mixer(x, lengths), mixer.out_proj(forward + back))


def test_reversing_time_swaps_the_directions_of_bi_bi():
    mixer = Mixer(16, states=4, directions="bi-bi").double()
    mixer.init_weights(1, torch.Generator().manual_seed(0))
    mixer.back.load_state_dict({name: t + 0.05 for name, t in mixer.way.state_dict().items()})
    swapped = Mixer(16, states=4, directions="bi-bi").double()
    state = mixer.state_dict()
    turned = {n.replace("way.", "@.").replace("back.", "way.").replace("@.", "back."): t for n, t in state.items()}
    turned["A_log"], turned["back_A_log"] = state["back_A_log"], state["A_log"]
    swapped.load_state_dict(turned)
    x = torch.randn(11, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(swapped(x.flip(0), (11,)).flip(0), mixer(x, (11,)))


def test_frequency_major_order_and_the_class_token_in_the_middle():
    assert frequency_major((6, 4), 2).tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 7, 9]
    net = model(depth=1)
    seen = []
    net.blocks[0].norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net(pack([torch.zeros(32, 128)]))
    torch.testing.assert_close(seen[0][8], (net.prefix + net.prefix_positions)[0])
    assert len(seen[0]) == 17


def test_every_parameter_gets_a_gradient():
    net = model(directions="bi-bi", class_token="double")
    net(pack(clips(torch.float32)), (11, 13)).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("class_token", ["end", "mean"])
@pytest.mark.parametrize("sizes", [(100,), (1,) * 100, (16, 33, 51), (7, 90, 3)])
def test_a_stream_says_what_the_whole_says(class_token, sizes):
    net = model(directions="fo-fo", class_token=class_token, order="time").eval()
    sound = clips(torch.float32)[0]
    stream = Stream(net)
    for chunk in sound.split(sizes):
        stream.feed(chunk)
        stream.logits()  # Asking changes nothing.
    torch.testing.assert_close(stream.logits(), net(pack([sound]))[0], atol=1e-5, rtol=1e-4)


def test_a_stream_of_a_model_that_looks_ahead_is_refused():
    with pytest.raises(AudiolibError, match="a stream needs a model with directions: fo-fo"):
        Stream(model())
    with pytest.raises(AudiolibError, match="has heard nothing yet"):
        Stream(model(directions="fo-fo", class_token="end", order="time")).logits()


def test_config_round_trip_and_mistakes():
    net = model(depth=1)
    again = build(plain_config(net))
    again.load_state_dict(net.state_dict())
    sound = pack(clips(torch.float32))
    assert torch.equal(net.eval()(sound), again.eval()(sound))
    with pytest.raises(AudiolibError, match="directions is 'sideways'; choose among: fo-fo, fo-bi, bi-bi"):
        model(directions="sideways")
    with pytest.raises(AudiolibError, match="unknown kind of model 'rnn'"):
        build({"kind": "rnn"})


@torch.no_grad()
@pytest.mark.parametrize("directions", DIRECTIONS)
def test_a_fresh_mixer_is_initialised_as_published(directions):
    """papers.md 4.1: S4D-real states, skips of one, steps between a thousandth and a tenth, outputs that shrink."""
    depth, width = 9, 128
    mixer = Mixer(width, 16, directions)
    mixer.init_weights(depth, torch.Generator().manual_seed(0))
    states = torch.arange(1, 17).log().expand(2 * width, 16)
    both = {"fo-fo": [mixer.A_log]}.get(directions) or [mixer.A_log, mixer.back_A_log]
    for logarithms in both:
        torch.testing.assert_close(logarithms.data, states)
    for way in (mixer.way, mixer.back) if directions == "bi-bi" else (mixer.way,):
        assert (way.D == 1).all()
        steps = torch.nn.functional.softplus(way.dt_proj.bias).log()
        assert steps.min() >= math.log(1e-3) - 1e-4 and steps.max() <= math.log(1e-1) + 1e-4
        assert float(steps.mean()) == pytest.approx((math.log(1e-3) + math.log(1e-1)) / 2, abs=0.3)
        bound = way.dt_proj.in_features**-0.5
        assert 0.9 * bound < way.dt_proj.weight.abs().max() <= bound
    bound = (2 * width) ** -0.5 / math.sqrt(depth)
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert float(mixer.out_proj.weight.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)


@torch.no_grad()
def test_a_fresh_audio_mamba_starts_small():
    model = create_model("aum_nano", num_classes=500, frames=96)
    for parameter in (model.head.weight, model.prefix, model.prefix_positions):
        assert float(parameter.std()) == pytest.approx(0.02, rel=0.25) and parameter.abs().max() < 0.1
    assert (model.head.bias == 0).all() and (model.embed.bias == 0).all()
    assert all((block.norm.weight == 1).all() for block in model.blocks)
