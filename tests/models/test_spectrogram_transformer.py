"""The transformer on packed clips: equal to one by one, equal to the same network elsewhere, counted exactly."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.models import build, create_model, list_models, plain_config
from audiolib.models.positions import Places

LENGTHS = (100, 37, 16, 1, 100)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return create_model("flexi_nano", num_classes=5, frames=128, depth=2).double().eval()


def clips(seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 128, generator=random, dtype=torch.float64) for n in LENGTHS]


@pytest.mark.parametrize("patch", [(16, 16), (8, 8), (20, 24), (48, 48), (16, 6)])
def test_packed_equals_one_by_one(model, patch):
    together = model(pack(clips()), patch)
    alone = torch.cat([model(pack([clip]), patch) for clip in clips()])
    torch.testing.assert_close(together, alone, atol=1e-10, rtol=0)


def test_perturbing_one_clip_leaves_the_others_bit_identical(model):
    before = model(pack(clips()))
    changed = clips()
    changed[1] = changed[1] + 1.0
    after = model(pack(changed))
    assert not torch.equal(before[1], after[1])
    for other in (0, 2, 3, 4):
        assert torch.equal(before[other], after[other])


def test_permuting_clips_permutes_logits(model):
    order = [3, 0, 4, 2, 1]
    expected = model(pack(clips()))[order]
    torch.testing.assert_close(model(pack([clips()[i] for i in order])), expected, atol=1e-12, rtol=0)


def test_every_parameter_gets_a_gradient_at_a_foreign_patch_size(model):
    model.zero_grad()
    model(pack(clips()), (11, 13)).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("patch", [(16, 16), (8, 8), (24, 40)])
def test_multiply_accumulates_are_those_that_torch_counts(patch):
    model = create_model("ast_nano", num_classes=7, frames=96)
    batch = pack([torch.zeros(96, 128)])
    # The fused attention kernel of the CPU is not in torch's table; its plain form is two matrix products.
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(batch, patch)
    grid = _matrix_products_of_resizing(model, patch)
    assert counter.get_total_flops() / 2 - grid == model.macs(96, patch)


def _matrix_products_of_resizing(model, patch) -> int:
    """What torch counts for resizing kernel and grid: once per batch, so not part of a clip's cost."""
    with FlopCounterMode(display=False) as counter:
        model.embed.kernel(patch)
        rows, columns = model.embed.starts(128, 0, patch), model.embed.starts(96, 1, patch)
        model.embed.positions(Places(rows, patch[0], 128), [Places(columns, patch[1], 96)])
    return counter.get_total_flops() // 2


# papers.md 2.5 and 3.3, GMAC of ViT-B at 128 bands; the tables round, and 3.3 leaves the patch projection (0.1) out.
PAPER_COMPUTE = {
    (1024, (16, 16)): 48.5,
    (1024, (8, 8)): 251.5,
    (1024, (32, 32)): 11.4,
    (1024, (16, 32)): 23.1,
    (848, (16, 16)): 39.4,
    (672, (16, 16)): 30.7,
    (512, (16, 16)): 23.1,
    (336, (16, 16)): 14.9,
    (256, (16, 16)): 11.3,
}


@pytest.mark.parametrize("frames, patch", PAPER_COMPUTE)
def test_compute_of_the_papers(frames, patch):
    with torch.device("meta"):
        model = build({"num_classes": 527, "width": 768, "depth": 12, "heads": 12, "frames": frames, "border": "crop"})
    assert model.macs(frames, patch) / 1e9 == pytest.approx(PAPER_COMPUTE[frames, patch], abs=0.15)


def test_the_base_model_has_the_parameters_of_vit_b():
    with torch.device("meta"):
        model = build({"num_classes": 527, "width": 768, "depth": 12, "heads": 12, "frames": 1024})
    blocks = 12 * (12 * 768**2 + 13 * 768)
    patch_and_positions = 256 * 768 + 768 + 512 * 768 + 2 * 768
    norms_and_head = 2 * 2 * 768 + 768 * 527 + 527
    assert sum(p.numel() for p in model.parameters()) == blocks + patch_and_positions + norms_and_head


def test_config_round_trip_keeps_the_weights_usable():
    model = create_model("flexi_nano", num_classes=3, frames=64, depth=1, patch=(8, 16), border="crop")
    again = build(plain_config(model))
    again.load_state_dict(model.state_dict())
    sound = pack([torch.randn(64, 128, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(model(sound), again(sound))


def test_seed_decides_the_weights():
    def weights(seed: int) -> torch.Tensor:
        return create_model("ast_nano", num_classes=3, seed=seed, depth=1).head.weight

    assert torch.equal(weights(1), weights(1)) and not torch.equal(weights(1), weights(2))


def test_names_are_listed_and_unknown_ones_refused():
    assert list_models("flexi*") == ["flexi_nano", "flexi_tiny", "flexi_small", "flexi_base"]
    with pytest.raises(AudiolibError, match=r"unknown model 'flexi_huge'; choose one of: ast_nano"):
        create_model("flexi_huge", num_classes=2)
    with pytest.raises(AudiolibError, match="unknown model setting 'colour'"):
        create_model("ast_nano", num_classes=2, colour="red")


@pytest.mark.parametrize("change", [{"width": 198}, {"heads": 5}])
def test_a_width_that_cannot_be_shared_is_one_line(change):
    with pytest.raises(AudiolibError, match="has to be a multiple of 4 and of heads"):
        create_model("ast_nano", 4, **change)


def test_a_square_patch_may_be_one_number():
    model = create_model("ast_nano", 4, width=24, depth=1, heads=2, frames=64, patch=12)
    assert model.config.patch == (12, 12)
    sound = pack([torch.randn(64, 128, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(model(sound, 8), model(sound, (8, 8)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"patch": [16]}, r"patch is a whole number from 1 on, or \(mel bands, frames\), not \[16\]"),
        ({"patch": 0}, "patch is a whole number from 1 on"),
        ({"stride": (10, 0.5)}, "stride is a whole number from 1 on"),
        ({"heads": 0}, "of heads, which are 0"),
        ({"frames": 0}, "frames has to be at least 1, not 0"),
        ({"token_dropout": 1.5}, "token_dropout is a share from 0 to less than 1, not 1.5"),
        (
            {"resize": {"mode": "bicubic", "anti_alias": True}},
            "unknown setting of resize 'anti_alias'; choose",
        ),
    ],
)
def test_a_shape_that_no_model_has_is_one_line(change, message):
    with pytest.raises(AudiolibError, match=message):
        create_model("ast_nano", 4, **change)


def test_audio_mamba_has_a_width_that_positions_can_share():
    with pytest.raises(AudiolibError, match="width 190 has to be a multiple of 4"):
        create_model("aum_nano", 4, width=190)


def test_a_clip_without_frames_is_no_clip():
    with pytest.raises(ValueError, match="a clip of a batch has no frames"):
        pack([torch.zeros(0, 128), torch.zeros(5, 128)])


@pytest.mark.parametrize("name", ["ast_nano", "elastic_nano", "aum_nano"])
def test_the_sum_over_blocks_is_float32_under_autocast(name):
    model = create_model(name, 4, width=24, depth=2, frames=64, **({} if name == "aum_nano" else {"heads": 2})).eval()
    seen = []
    model.blocks[1].register_forward_hook(lambda block, given, made: seen.append(made.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        model(pack([torch.randn(64, 128)]))
    assert seen == [torch.float32]
