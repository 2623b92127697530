"""Weights of transformers and timm, made by these libraries at random, give the same logits here."""

import pytest
import torch
from timm import create_model as create_vit
from timm.layers import resample_patch_embed
from transformers import ASTConfig, ASTForAudioClassification

from audiolib import create_model
from audiolib.batches import pack
from audiolib.config.training import Architecture
from audiolib.convert import from_hugging_face_ast, from_timm_vit, is_timm_vit, to_hugging_face_ast
from audiolib.errors import AudiolibError
from audiolib.models.patch import PatchEmbed
from audiolib.models.resize import Resize
from audiolib.models.spectrogram_transformer import SpectrogramTransformer
from audiolib.models.transfer import transfer

CLASSES = ["a", "b", "c", "d", "e"]


def random_ast(stride: int = 16, frames: int = 96) -> ASTForAudioClassification:
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=192,
        frequency_stride=stride,
        time_stride=stride,
        max_length=frames,
        num_labels=len(CLASSES),
    )
    model = ASTForAudioClassification(config).eval()
    for parameter in model.parameters():  # Their start has zero positions and prefix, which would hide a mistake.
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def sounds(frames: int, count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(frames, 128, generator=generator) for _ in range(count)]


@pytest.mark.parametrize(("stride", "frames"), [(16, 96), (10, 106), (10, 100)])
def test_weights_of_transformers_give_the_same_logits_here(stride, frames):
    theirs = random_ast(stride, frames)
    assert not is_timm_vit(theirs.state_dict())
    config, state = from_hugging_face_ast(theirs.state_dict(), theirs.config.to_dict())
    ours = SpectrogramTransformer(config)
    ours.load_state_dict(state)
    with torch.inference_mode():
        wanted = theirs(torch.stack(sounds(frames))).logits
        found = ours(pack(sounds(frames)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert wanted.std() > 0.1  # The clips differ, so that equality says something.


def test_weights_of_ours_give_the_same_logits_in_transformers(tmp_path):
    ours = create_model("ast_nano", len(CLASSES), seed=4, frames=96, prefix_tokens=2, width=48, depth=2).eval()
    values, state = to_hugging_face_ast(ours, CLASSES)
    config = ASTConfig(**values)
    config.save_pretrained(tmp_path)
    from safetensors.torch import save_file

    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    theirs, told = ASTForAudioClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and not told["mismatched_keys"]
    with torch.inference_mode():
        wanted = ours(pack(sounds(96)))
        found = theirs.eval()(torch.stack(sounds(96))).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert theirs.config.id2label[2] == "c"


def test_there_and_back_is_the_same_model():
    ours = create_model("ast_nano", len(CLASSES), seed=4, frames=96, prefix_tokens=2, width=48, depth=2)
    values, state = to_hugging_face_ast(ours, CLASSES)
    _, back = from_hugging_face_ast(state, values)
    own = ours.state_dict()
    assert own.keys() == back.keys() and all(torch.equal(own[name], back[name]) for name in own)


@pytest.mark.parametrize("change", [{"prefix_tokens": 1}, {"patch": (16, 8)}, {"frames": 100}, {"layout": "axes"}])
def test_a_model_that_transformers_cannot_compute_is_refused(change):
    settings = {"frames": 96, "prefix_tokens": 2, **change}
    with pytest.raises(AudiolibError, match="two prefix tokens"):
        to_hugging_face_ast(create_model("ast_nano", 5, **settings), CLASSES)


@pytest.mark.parametrize("kind", [{}, {"init_values": 0.1}, {"no_embed_class": True}])
def test_a_timm_vit_without_its_head_gives_the_same_features(kind):
    """On a grey image and at the image's own grid, where nothing needs resizing; with LayerScale, too."""
    torch.manual_seed(0)
    theirs = create_vit("vit_tiny_patch16_224", depth=2, img_size=128, **kind).eval()
    torch.nn.init.normal_(theirs.cls_token), torch.nn.init.normal_(theirs.pos_embed)
    assert is_timm_vit(theirs.state_dict())
    state = from_timm_vit(theirs.state_dict())
    ours = create_model("ast_tiny", 5, frames=128, depth=2).eval()
    told = transfer(state, ours, None)
    assert told.fresh == ["head_norm.weight", "head_norm.bias", "head.weight", "head.bias"]
    mel = sounds(128, 1)[0]
    with torch.inference_mode():
        wanted = theirs.forward_features(mel.T.expand(1, 3, 128, 128))[:, 0]
        x, lengths = ours.embed(mel, (128,), (1.0,), (16, 16))
        x = torch.cat([ours.prefix + ours.prefix_positions, x])
        for block in ours.blocks:
            x = block(x, (len(x),))
        torch.testing.assert_close(ours.norm(x)[:1], wanted, rtol=1e-4, atol=1e-4)
    assert lengths == (64,)


def test_a_vit_without_a_class_token_leaves_it_fresh():
    theirs = create_vit("vit_tiny_patch16_224", depth=1, img_size=128, class_token=False, global_pool="avg")
    told = transfer(from_timm_vit(theirs.state_dict()), create_model("ast_tiny", 5, frames=128, depth=1), None)
    assert {"prefix", "prefix_positions"} <= set(told.fresh)


@pytest.mark.parametrize("kind, part", [({"pre_norm": True}, "norm_pre"), ({"qk_norm": True}, "k_norm")])
def test_a_vit_that_computes_something_else_is_refused(kind, part):
    theirs = create_vit("vit_tiny_patch16_224", depth=1, img_size=128, **kind)
    with pytest.raises(AudiolibError, match=rf"have \S*{part}\S*, which no model here has"):
        from_timm_vit(theirs.state_dict())


@pytest.mark.parametrize("size", [8, 12, 20, 24, 32, 40])
@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [True, False])
def test_resizing_a_kernel_as_timm_does(size, mode, antialias):
    layer = PatchEmbed(7, 128, 96, resize=Resize("pseudo_inverse", mode, antialias))
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    wanted = resample_patch_embed(layer.weight[:, None].detach(), [size, size], mode, antialias)[:, 0]
    torch.testing.assert_close(layer.kernel((size, size)), wanted, rtol=1e-4, atol=1e-5)


def test_a_preset_may_ask_for_what_transformers_can_compute():
    section = Architecture(name="ast_nano", prefix_tokens=2).model_dump(exclude_none=True)
    ours = create_model(section.pop("name"), len(CLASSES), frames=96, **section)
    assert to_hugging_face_ast(ours, CLASSES)[0]["patch_size"] == 16
