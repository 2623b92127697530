"""ElasticAST's parts: token dropout, pooling, positions of two axes; a pack is its clips, whatever their shapes."""

import numpy as np
import pytest
import torch

from audiolib.batches import Batch, pack
from audiolib.errors import AudiolibError
from audiolib.models import create_model
from audiolib.models.parts import AttentionPool, drop_tokens, kept_tokens, segment_mean, segment_softmax
from audiolib.models.transfer import transfer

LENGTHS = (100, 37, 16, 1, 100, 230)
HOPS = (1.0, 2.0, 1.4, 1.0, 4.0, 1.0)
DRAWS = (11, 12, 13, 14, 15, 16)


def model(**changes):
    return create_model("elastic_nano", num_classes=5, **{"frames": 128, "depth": 2, **changes}).double()


def clips(seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 128, generator=random, dtype=torch.float64) for n in LENGTHS]


def packed(sounds: list[torch.Tensor]) -> Batch:
    return pack(sounds, stretch=HOPS, draws=DRAWS)


def alone(sounds: list[torch.Tensor]) -> list[Batch]:
    return [pack([s], stretch=[h], draws=(d,)) for s, h, d in zip(sounds, HOPS, DRAWS, strict=True)]


@pytest.mark.parametrize("changes", [{}, {"pool": "mean"}, {"attention_scale": 1.0}, {"border": "overlap"}])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("patch", [(16, 16), (10, 12)])
def test_packed_equals_one_by_one(changes, training, patch):
    net = model(**changes).train(training)
    one_by_one = torch.cat([net(batch, patch) for batch in alone(clips())])
    torch.testing.assert_close(net(packed(clips()), patch), one_by_one, atol=1e-10, rtol=0)


@pytest.mark.parametrize("training", [False, True])
def test_perturbing_one_clip_leaves_the_others_bit_identical(training):
    net, changed = model().train(training), clips()
    changed[1] = changed[1] + 1.0
    before, after = net(packed(clips())), net(packed(changed))
    assert not torch.equal(before[1], after[1])
    for other in (0, 2, 3, 4, 5):
        assert torch.equal(before[other], after[other])


def test_permuting_clips_permutes_logits():
    net, order = model().train(), [3, 0, 5, 4, 2, 1]
    mixed = pack([clips()[i] for i in order], stretch=[HOPS[i] for i in order], draws=tuple(DRAWS[i] for i in order))
    torch.testing.assert_close(net(mixed), net(packed(clips()))[order], atol=1e-12, rtol=0)


@pytest.mark.parametrize("frames", [1000, 5000])
@pytest.mark.parametrize(
    "name, changes", [("elastic_nano", {}), ("elastic_nano", {"pool": "mean"}), ("flexi_nano", {})]
)
def test_a_long_clip_under_autocast_is_what_it_is_in_float32(name, changes, frames):
    """504 and 2,504 tokens: a sum that is taken in bfloat16 stops growing after some hundred."""
    net = create_model(name, 5, frames=128, depth=2, **changes).eval()
    batch = pack([torch.randn(frames, 128, generator=torch.Generator().manual_seed(0)) + 0.5])
    with torch.inference_mode():
        wanted = net.embeddings(batch)
        with torch.autocast("cpu", torch.bfloat16):
            found = net.embeddings(batch)
    assert (found - wanted).norm() < 0.02 * wanted.norm()


def test_training_without_draws_says_what_is_missing():
    with pytest.raises(ValueError, match=r"token dropout needs Batch\.draws"):
        model().train()(pack(clips()))


def test_gradients_of_a_pack_are_the_sum_of_those_of_its_clips():
    net = model().train()
    net(packed(clips())).square().sum().backward()
    together = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    for batch in alone(clips()):
        net(batch).square().sum().backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(together[name], parameter.grad, atol=1e-10, rtol=1e-10)
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 128, 129, 12001])
def test_any_length_from_one_frame_to_two_minutes(frames):
    net = model(depth=1, width=24, heads=2).eval()
    sound = torch.randn(frames, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        assert net(pack([sound])).isfinite().all()


def test_token_dropout_keeps_the_papers_share_and_depends_on_the_draw_alone():
    lengths, draws = (100, 7, 1, 40), (5, 6, 7, 8)
    x = torch.arange(sum(lengths))[:, None]
    kept, counts = drop_tokens(x, lengths, 0.1, draws)
    assert counts == (90, 6, 1, 36) == tuple(kept_tokens(n, 0.1) for n in lengths)
    assert (kept_tokens(20, 0.9), kept_tokens(10, 0.8), kept_tokens(90, 0.3)) == (2, 2, 63)
    parts = kept[:, 0].split(counts)
    for part, first, length in zip(parts, np.cumsum([0, *lengths]), lengths, strict=False):
        assert (part.diff() > 0).all() and part.min() >= first and part.max() < first + length
    swapped, _ = drop_tokens(torch.arange(140)[:, None], (40, 100), 0.1, (8, 5))
    assert torch.equal(swapped[:36, 0], parts[3] - 108) and torch.equal(swapped[36:, 0] - 40, parts[0])


def test_token_dropout_drops_every_token_equally_often():
    lengths = (20,) * 4000
    kept, _ = drop_tokens(torch.arange(20).repeat(4000)[:, None], lengths, 0.25, tuple(range(4000)))
    share = torch.bincount(kept[:, 0]) / 4000
    assert share.sum() == 15 and (share - 0.75).abs().max() < 0.035  # Five standard deviations.


def test_evaluation_drops_nothing():
    net = model()
    one, two = (net.train(flag)(packed(clips())) for flag in (True, False))
    assert not torch.allclose(one, two) and torch.equal(two, net(packed(clips())))


@pytest.mark.parametrize("heads, scale", [(1, None), (4, None), (4, 1.0)])
def test_pooling_is_torchs_attention_with_one_query(heads, scale):
    pool = AttentionPool(16, heads, scale).double()
    random = torch.Generator().manual_seed(0)
    pool.query.data.copy_(torch.randn(1, 16, generator=random, dtype=torch.float64))
    x, lengths = torch.randn(9, 16, generator=random, dtype=torch.float64), (4, 1, 4)
    found = pool(x, lengths)
    for clip, own in zip(x.split(lengths), found, strict=True):
        key, value = pool.kv(clip).chunk(2, dim=-1)
        query, key, value = (t.unflatten(-1, (heads, -1)).transpose(0, 1) for t in (pool.query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        torch.testing.assert_close(own, pool.project(out.transpose(0, 1).flatten()), atol=1e-6, rtol=1e-5)


def test_segment_softmax_and_mean():
    x, lengths = torch.tensor([[1.0], [3.0], [500.0], [-7.0], [0.0]], dtype=torch.float64), (2, 1, 2)
    share = torch.cat([part.softmax(0) for part in x.split(lengths)])
    torch.testing.assert_close(segment_softmax(x, lengths), share)
    torch.testing.assert_close(segment_mean(x, lengths)[:, 0], torch.tensor([2.0, 500.0, -3.5], dtype=torch.float64))


def test_fresh_axes_add_up_to_a_fresh_grid():
    axes, grid = model().embed.positions, model(layout="grid").embed.positions.grid
    torch.testing.assert_close(axes.band[:, None] + axes.time[None], grid)


def test_positions_change_their_layout_without_loss_where_they_can():
    source, grid, back = model(), model(layout="grid"), model()
    source.embed.positions.band.data += 0.3
    transfer(source.state_dict(), grid, source.embed.spacing)
    transfer(grid.state_dict(), back, grid.embed.spacing)
    sound = packed(clips())
    for other in (grid, back):
        torch.testing.assert_close(other.eval()(sound), source.eval()(sound), atol=1e-6, rtol=0)


def test_a_pool_without_its_tokens_is_refused():
    with pytest.raises(AudiolibError, match="pool 'prefix' goes with prefix tokens"):
        create_model("ast_nano", num_classes=2, prefix_tokens=0)
