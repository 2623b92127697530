"""Weights into a model of another patch size, length or class list."""

import pytest
import torch

from audiolib import create_model
from audiolib.batches import pack
from audiolib.models.resize import Resize, kernel_matrix
from audiolib.models.transfer import transfer

SMALL = {"width": 24, "depth": 1, "heads": 2}


def model(patch=(16, 16), frames=96, classes=5, seed=0, name="ast_nano", **rest):
    return create_model(name, classes, seed=seed, patch=patch, frames=frames, **{**SMALL, **rest})


def clip(frames=96):
    return pack([torch.randn(frames, 128, generator=torch.Generator().manual_seed(3))])


def test_an_equal_model_is_carried_whole():
    source, target = model(seed=1), model(seed=2)
    told = transfer(source.state_dict(), target, source.embed.spacing)
    assert len(told.carried) == len(source.state_dict()) and not told.resized and not told.fresh and not told.unused
    torch.testing.assert_close(source(clip()), target(clip()), rtol=0, atol=0)


def test_a_finer_model_becomes_what_it_would_have_been_at_the_larger_patch():
    """Patch 8 to a stored 16: at patch 16 the target's tokens are the source's resized kernel on 16 x 16 patches."""
    source, target = model((8, 8), seed=1), model((16, 16), seed=2)
    told = transfer(source.state_dict(), target, source.embed.spacing)
    assert [text.split()[0] for text in told.resized] == ["embed.weight", "embed.positions.grid"]
    torch.testing.assert_close(source.embed.kernel((16, 16)), target.embed.weight)
    torch.testing.assert_close(source.embed.bias, target.embed.bias)
    torch.testing.assert_close(source.head.weight, target.head.weight)


def test_a_position_is_a_time_whatever_the_length_of_the_start():
    source, target = model(frames=192, seed=1), model(frames=96, seed=2)
    transfer(source.state_dict(), target, source.embed.spacing)
    torch.testing.assert_close(target.embed.positions.grid, source.embed.positions.grid[:, :6])


def test_a_position_is_a_time_whatever_the_hop_of_the_start():
    """From 10 ms to 20: what a clip's patches are told is what the start tells them of frames at the double hop."""
    source, target = model(frames=192, seed=1, name="flexi_nano"), model(frames=96, seed=2, name="flexi_nano")
    transfer(source.state_dict(), target, source.embed.spacing, hop=2.0)
    mel = torch.randn(96, 128, generator=torch.Generator().manual_seed(3))
    wanted, _ = source.embed(mel, (96,), (2.0,), (16, 16))
    torch.testing.assert_close(target.embed(mel, (96,), (1.0,), (16, 16))[0], wanted)


@pytest.mark.parametrize("name", ["ast_nano", "elastic_nano"])
def test_attention_trained_with_another_scale_means_the_same(name):
    """The weights published with ElasticAST multiply scores by 1 (papers.md 5.1)."""
    source, target = model(seed=1, name=name, attention_scale=1.0).eval(), model(seed=2, name=name).eval()
    transfer(source.state_dict(), target, source.embed.spacing, scores=12**0.5)
    torch.testing.assert_close(target(clip()), source(clip()))


@pytest.mark.parametrize("size", [8, 16])
def test_a_start_with_overlapping_patches_gives_each_patch_its_own_time(size):
    """A published AST has patches of 16 every 10 frames; what it stores for them here is their centre in frames."""
    source = model(frames=166, seed=1, stride=(10, 10), border="crop")
    target = model((size, size), frames=160, seed=2, name="flexi_nano")
    bands, frames, _ = source.embed.positions.grid.shape
    centres = 8 + 10 * torch.arange(frames)
    source.embed.positions.grid.data = centres.float()[None, :, None].expand(bands, frames, 24).clone()
    transfer(source.state_dict(), target, source.embed.spacing)
    wanted = size / 2 + size * torch.arange(160 // size)
    inside = (wanted - size / 2 >= 8) & (wanted + size / 2 <= centres[-1])
    found = target.embed.positions.grid[0, :, 0]
    torch.testing.assert_close(found[inside], wanted[inside].float())
    assert inside.sum() >= 6


def test_a_grid_of_the_same_shape_for_other_patches_is_read_anew():
    source, target = model((16, 16), frames=192, seed=1), model((16, 8), frames=96, seed=2)
    assert source.embed.positions.grid.shape == target.embed.positions.grid.shape
    told = transfer(source.state_dict(), target, source.embed.spacing)
    assert [text.split()[0] for text in told.resized] == ["embed.weight", "embed.positions.grid"]
    first, second = source.embed.positions.grid[:, 0], source.embed.positions.grid[:, 1]
    torch.testing.assert_close(target.embed.positions.grid[:, 1], 0.75 * first + 0.25 * second)


def test_a_head_for_other_classes_is_left_and_told():
    source, target = model(classes=5, seed=1), model(classes=7, seed=2)
    before = target.head.weight.clone()
    told = transfer(source.state_dict(), target, source.embed.spacing)
    assert told.fresh == ["head.weight", "head.bias"]
    torch.testing.assert_close(target.head.weight, before, rtol=0, atol=0)
    assert "fresh head.weight" in str(told)


def test_blocks_that_the_model_does_not_have_are_told():
    source, target = model(depth=2, seed=1), model(depth=1, seed=2)
    told = transfer(source.state_dict(), target, source.embed.spacing)
    assert told.unused and all(name.startswith("blocks.1.") for name in told.unused)


def test_weights_of_another_width_are_refused():
    with pytest.raises(ValueError, match="another width"):
        transfer(model(width=48).state_dict(), model(), model().embed.spacing)


def test_the_target_resizes_by_its_own_rule():
    source = model((8, 8), seed=1)
    target = model((16, 16), seed=2, resize=Resize("pseudo_inverse", "bicubic", True))
    transfer(source.state_dict(), target, source.embed.spacing)
    matrix = kernel_matrix(8, 16, target.config.resize)
    wanted = torch.einsum("po,dot,qt->dpq", matrix, source.embed.weight.double(), matrix).float()
    torch.testing.assert_close(target.embed.weight, wanted)


def test_an_image_grid_is_cut_from_the_middle_or_stretched():
    source, target = model(frames=256, seed=1), model(frames=480, seed=2)  # 8 x 16 cells into 8 x 30
    state = source.state_dict()
    state["embed.positions.grid"] = torch.arange(14.0).repeat(14, 1)[:, :, None].expand(14, 14, 24)
    transfer(state, target, None)
    grid = target.embed.positions.grid[0, :, 0]
    assert len(grid) == 30 and grid.diff().min() >= 0 and grid[-1] > 12.5
    assert target.embed.positions.grid.shape[0] == 8
    narrow = model(frames=96, seed=2)
    transfer(state, narrow, None)
    torch.testing.assert_close(narrow.embed.positions.grid[0, :, 0], torch.arange(4.0, 10.0))
