"""Properties of patches of any size: exact resizing, borders, positions."""

import numpy as np
import pytest
import torch
from timm.layers.patch_embed import resample_patch_embed

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.models import create_model
from audiolib.models.patch import PatchEmbed
from audiolib.models.positions import Places, Spacing, centre_matrix
from audiolib.models.resize import Resize, _kernel_matrix_on, kernel_matrix, resize_matrix

SIZES = [(16, 16), (8, 8), (10, 12), (24, 16), (16, 48), (30, 30)]


def embed(**settings: object) -> PatchEmbed:
    made = PatchEmbed(width=12, mel_bins=128, frames=96, **settings).double()
    random = torch.Generator().manual_seed(0)
    for parameter in made.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return made


def mel(frames: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(frames, 128, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("old, new", [(8, 12), (16, 24), (16, 48), (5, 48)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("antialias", [False, True])
def test_growing_patch_and_kernel_together_leaves_the_embedding_unchanged(old, new, mode, antialias):
    resize = Resize(mode=mode, antialias=antialias)
    random = torch.Generator().manual_seed(2)
    patch = torch.randn(old, old, generator=random, dtype=torch.float64)
    kernel = torch.randn(old, old, generator=random, dtype=torch.float64)
    grow, adapt = resize_matrix(old, new, mode, antialias), kernel_matrix(old, new, resize)
    larger = (grow @ patch @ grow.T) * (adapt @ kernel @ adapt.T)
    assert larger.sum().item() == pytest.approx((patch * kernel).sum().item(), abs=1e-10)


@pytest.mark.parametrize("new", [8, 10, 12, 15, 20, 30, 48])
def test_separable_pseudo_inverse_is_the_two_dimensional_one_of_the_paper(new):
    one = resize_matrix(16, new, "bilinear", False).numpy()
    two = np.kron(one, one)  # Resizing a flattened patch: (new^2, 16^2).
    kernel = np.random.default_rng(0).standard_normal((16, 16))
    expected = (np.linalg.pinv(two.T) @ kernel.ravel()).reshape(new, new)
    axis = kernel_matrix(16, new, Resize()).numpy()
    np.testing.assert_allclose(axis @ kernel @ axis.T, expected, atol=1e-10)


@pytest.mark.parametrize("new", [(8, 8), (12, 20), (24, 24), (32, 16)])
@pytest.mark.parametrize("antialias", [False, True])
def test_timm_agrees_in_its_own_mode(new, antialias):
    kernel = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = resample_patch_embed(kernel, list(new), interpolation="bicubic", antialias=antialias)
    resize = Resize(mode="bicubic", antialias=antialias)
    rows, columns = (kernel_matrix(16, size, resize).float() for size in new)
    ours = torch.einsum("po,qu,dcou->dcpq", rows, columns, kernel)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_plain_interpolation_is_torchs():
    kernel = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = torch.nn.functional.interpolate(kernel, size=(10, 24), mode="bilinear", antialias=True)
    resize = Resize(method="interpolate", antialias=True)
    rows, columns = kernel_matrix(16, 10, resize), kernel_matrix(16, 24, resize)
    torch.testing.assert_close(torch.einsum("po,qu,dcou->dcpq", rows, columns, kernel), expected)


@pytest.mark.parametrize("patch", SIZES)
@pytest.mark.parametrize("border", ["pad", "crop"])
@pytest.mark.parametrize("positions", ["stretch", "centre"])
def test_a_pack_gives_the_tokens_of_its_clips_alone(patch, border, positions):
    layer = embed(border=border, positions=positions)
    clips = [mel(n, seed=n) for n in (96, 37, 16, 1, 96, 130)]
    batch = pack(clips, stretch=[1.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    together, counts = layer(batch.mel, batch.lengths, batch.stretch, patch)
    alone = [layer(c, (len(c),), (s,), patch)[0] for c, s in zip(clips, batch.stretch, strict=True)]
    assert counts == tuple(map(len, alone))
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-12, rtol=0)


def test_native_size_is_a_plain_convolution():
    layer = embed(border="crop", positions="stretch")
    sound = mel(96)
    tokens, _ = layer(sound, (96,), (1.0,), (16, 16))
    conv = torch.nn.functional.conv2d(sound.T[None, None], layer.weight[:, None], layer.bias, stride=16)[0]
    torch.testing.assert_close(tokens, (conv.permute(2, 1, 0) + layer.positions.grid.transpose(0, 1)).flatten(0, 1))


@pytest.mark.parametrize("size", [8, 12, 24, 32])
def test_stretched_positions_are_torchs_antialiased_resize(size):
    layer = embed(border="pad", positions="stretch")
    _, (count,) = layer(mel(96), (96,), (1.0,), (size, size))
    layer.bias.data.zero_()
    placed, _ = layer(torch.zeros(96, 128, dtype=torch.float64), (96,), (1.0,), (size, size))
    shape = (-(-128 // size), -(-96 // size))
    grid = torch.nn.functional.interpolate(
        layer.positions.grid.permute(2, 0, 1)[None], size=shape, mode="bilinear", antialias=True
    )[0]
    torch.testing.assert_close(placed, grid.permute(2, 1, 0).reshape(count, -1))


def test_overlapping_patches_are_a_strided_convolution():
    layer = embed(border="crop", stride=(10, 10))
    sound = mel(96)
    tokens, counts = layer(sound, (96,), (1.0,), (16, 16))
    conv = torch.nn.functional.conv2d(sound.T[None, None], layer.weight[:, None], layer.bias, stride=10)[0]
    assert counts == (12 * 9,) and layer.positions.grid.shape[:2] == (12, 9)
    torch.testing.assert_close(tokens, (conv.permute(2, 1, 0) + layer.positions.grid.transpose(0, 1)).flatten(0, 1))


# papers.md 2.5: tokens of a 128 x 1024 input, remainders dropped.
SQUARE = {8: 2048, 10: 1224, 12: 850, 15: 544, 16: 512, 20: 306, 24: 210, 30: 136, 32: 128, 40: 75, 48: 42}
TIME_ONLY = {8: 1024, 10: 816, 12: 680, 16: 512, 20: 408, 24: 336, 30: 272, 32: 256, 40: 200, 48: 168}


@pytest.mark.parametrize(
    "patch, tokens", [((p, p), n) for p, n in SQUARE.items()] + [((16, p), n) for p, n in TIME_ONLY.items()]
)
def test_token_counts_of_the_paper(patch, tokens):
    layer = PatchEmbed(width=4, mel_bins=128, frames=1024, border="crop")
    assert layer.count(128, 0, patch) * layer.count(1024, 1, patch) == tokens


def test_padding_covers_every_frame_and_band_and_cropping_does_not():
    padded, cropped = embed(border="pad"), embed(border="crop")
    sound = mel(96)
    changed = sound.clone()
    changed[-1, -1] += 1.0  # The last frame and band lie outside of whole 40 x 40 patches.
    for layer, sees in ((padded, True), (cropped, False)):
        before, after = (layer(x, (96,), (1.0,), (40, 40))[0] for x in (sound, changed))
        assert bool((before != after).any()) is sees


@pytest.mark.parametrize("size", range(6, 60))
def test_overlapping_patches_cover_every_frame_without_padding(size):
    layer = embed(border="overlap")
    for length, axis in ((96, 1), (128, 0), (61, 1)):
        starts = layer.starts(length, axis, (size, size))
        assert len(starts) == embed(border="pad").count(length, axis, (size, size))
        seen = {start + i for start in starts for i in range(size)}
        assert set(range(length)) <= seen
        assert length < size or seen == set(range(length))


def test_overlapping_patches_are_cut_where_their_starts_say():
    layer, sound = embed(border="overlap"), mel(96)
    rows, columns = layer.starts(128, 0, (28, 28)), layer.starts(96, 1, (28, 28))
    cells = layer.cut(sound, (96,), rows, [columns], (28, 28))
    wanted = [sound[t : t + 28, f : f + 28].flatten() for t in columns for f in rows]
    torch.testing.assert_close(cells, torch.stack(wanted), rtol=0, atol=0)


def test_centre_positions_of_half_patches_lie_between_the_stored_ones():
    matrix = centre_matrix(6, Spacing(16, 16), Places(tuple(range(0, 96, 8)), 8, 96))
    places = matrix @ torch.arange(6, dtype=torch.float64)
    torch.testing.assert_close(places[1:-1], (torch.arange(12) * 8 + 4).double()[1:-1] / 16 - 0.5)


def test_centre_positions_do_not_move_when_the_last_patch_is_padded():
    exact = centre_matrix(6, Spacing(16, 16), Places(tuple(range(0, 96, 16)), 16, 96))
    torch.testing.assert_close(exact, torch.eye(6, dtype=torch.float64))
    padded = centre_matrix(6, Spacing(16, 16), Places((0, 28, 56, 84), 28, 96))
    whole = centre_matrix(6, Spacing(16, 16), Places((0, 28, 56), 28, 84))
    torch.testing.assert_close(padded[:3], whole)


def test_patches_that_overlap_have_the_stored_positions_at_home():
    """Positions of a published AST lie every 10 frames under patches of 16; halfway between two is their mean."""
    layer = PatchEmbed(24, 128, 106, (16, 16), (10, 10), "grid", "centre", "crop")
    for axis, length in ((0, 128), (1, 106)):
        home = Places(layer.starts(length, axis, (16, 16)), 16, length)
        matrix = centre_matrix(len(home.starts), layer.spacing[axis], home)
        torch.testing.assert_close(matrix, torch.eye(len(home.starts), dtype=torch.float64))
    (row,) = centre_matrix(10, Spacing(16, 10), Places((25,), 16, 41))
    torch.testing.assert_close(row, torch.tensor([0, 0, 0.5, 0.5, *[0] * 6], dtype=torch.float64))


@pytest.mark.parametrize(
    "setting",
    [{"positions": "streched"}, {"border": "cut"}, {"layout": "line"}, {"resize": {"method": "PI"}}, {"pool": "max"}],
)
def test_a_misspelt_setting_is_no_other_model(setting):
    with pytest.raises(AudiolibError, match="choose among"):
        create_model("flexi_nano", 10, **setting)


@pytest.mark.parametrize("bands", [64, 129])
def test_log_mel_of_other_bands_is_refused(bands):
    with pytest.raises(ValueError, match=f"log-mel of {bands} bands for a model of 128"):
        embed()(torch.zeros(96, bands), (96,), (1.0,), (16, 16))


def test_positions_count_time_not_frames():
    layer = embed(positions="centre")
    rows = Places(layer.starts(128, 0, (16, 16)), 16, 128)
    fine = layer.positions(rows, [Places(layer.starts(96, 1, (16, 16)), 16, 96)])
    # Half the frames, each twice as long.
    coarse = layer.positions(rows, [Places(layer.starts(48, 1, (16, 8)), 8, 48, hop=2.0)])
    torch.testing.assert_close(fine, coarse)


def test_positions_by_index_do_not_ask_for_the_hop():
    layer = embed(positions="index")
    rows = Places(layer.starts(128, 0, (16, 16)), 16, 128)
    columns = layer.starts(48, 1, (16, 16))
    stored = layer.positions(rows, [Places(layer.starts(96, 1, (16, 16)), 16, 96)])
    for hop in (1.0, 2.0, 4.0):
        torch.testing.assert_close(layer.positions(rows, [Places(columns, 16, 48, hop)]), stored[: len(columns) * 8])


def test_cropped_clips_have_the_stored_positions_at_home():
    matrix = centre_matrix(6, Spacing(16, 16), Places(tuple(range(0, 96, 16)), 16, 100))  # Four frames are cropped.
    torch.testing.assert_close(matrix, torch.eye(6, dtype=torch.float64))


def test_a_clip_longer_than_the_grid_is_squeezed_onto_it():
    matrix = centre_matrix(6, Spacing(16, 16), Places(tuple(range(0, 960, 16)), 16, 960))
    places = matrix @ torch.arange(6, dtype=torch.float64)
    assert (places.diff() >= 0).all() and places[0] < 0.5 and places[-1] > 4.5


def test_gradients_reach_kernel_and_grid_through_every_resize():
    layer = embed(positions="centre")
    for patch in SIZES:
        layer.zero_grad()
        layer(mel(96), (96,), (1.0,), patch)[0].square().sum().backward()
        assert layer.weight.grad.abs().sum() > 0 and layer.positions.grid.grad.abs().sum() > 0


def test_a_matrix_made_in_inference_mode_can_be_trained_through():
    for cached in (kernel_matrix, resize_matrix, centre_matrix, _kernel_matrix_on):
        cached.cache_clear()
    layer = embed(positions="centre")
    with torch.inference_mode():
        layer(mel(96), (96,), (1.0,), (11, 11))
    layer(mel(96), (96,), (1.0,), (11, 11))[0].sum().backward()
    assert layer.weight.grad is not None
