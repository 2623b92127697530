"""Beginning a training with the weights of another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm import create_model as create_vit
from torch.nn.functional import cross_entropy, pad

from audiolib.batches import pack
from audiolib.config.training import Distill
from audiolib.dataset import read_split
from audiolib.errors import AudiolibError
from audiolib.models import create_model
from audiolib.models.transfer import transfer
from audiolib.objective import distillation_loss
from audiolib.pretrained import Card, load, load_card, save_pretrained
from audiolib.shards import ShardFolder
from audiolib.start import teacher
from audiolib.train import fit
from tests.recipes import TINY, augment, job, phase, recipe

FINE = {**TINY, "patch": (8, 8)}


@pytest.fixture
def fixed(small_features, tmp_path):
    """A model trained at patch 8."""
    fixed = job(
        small_features, tmp_path / "fixed", architecture=FINE, recipe=recipe(patch_sizes=[8], valid_patch_sizes=[8])
    )
    fit(fixed)
    return fixed.out


def test_flexification_starts_from_a_model_of_any_patch_size(small_features, tmp_path, fixed, capsys):
    flexi = job(small_features, tmp_path / "flexi", stage="finetune", start=fixed, recipe=recipe(phases=[]))
    fit(flexi)
    assert "resized embed.weight 24x8x8 to 24x16x16" in capsys.readouterr().err
    source, made = load(fixed), load(flexi.out)
    assert made.config.patch == (16, 16)
    torch.testing.assert_close(made.embed.weight, source.embed.kernel((16, 16)))
    torch.testing.assert_close(made.head.weight, source.head.weight)


def test_a_start_of_another_hop_and_scale_means_what_it_meant(small_features, tmp_path):
    """Its card says 5 ms, and its config that scores are not scaled: both reach the weights."""
    settings = {key: value for key, value in TINY.items() if key != "name"}
    source = create_model(TINY["name"], 3, seed=5, frames=128, attention_scale=1.0, **settings)
    shards = ShardFolder(small_features)
    heard = {**shards.frontend, **shards.stats, "hop_ms": 5.0}
    save_pretrained(source, Card(shards.classes, False, heard, (16, 16), 128, 1, "none"), tmp_path / "source")
    fit(job(small_features, tmp_path / "a", start=tmp_path / "source", recipe=recipe(phases=[])))
    made, queries = load(tmp_path / "a" / "out"), source.config.width
    ratio = (source.config.width / source.config.heads) ** 0.5
    qkv = [own.blocks[0].attention.qkv.weight for own in (source, made)]
    torch.testing.assert_close(qkv[1][:queries], qkv[0][:queries] * ratio)
    assert torch.equal(qkv[1][queries:], qkv[0][queries:])
    wanted = create_model(TINY["name"], 3, frames=64, **settings)
    transfer(source.state_dict(), wanted, source.embed.spacing, hop=2.0)
    torch.testing.assert_close(made.embed.positions.grid, wanted.embed.positions.grid)


def test_positions_by_index_are_those_of_any_hop(small_features, tmp_path):
    settings = {key: value for key, value in TINY.items() if key != "name"}
    settings |= {"frames": 64, "positions": "index"}
    source, shards = create_model(TINY["name"], 3, seed=5, **settings), ShardFolder(small_features)
    heard = {**shards.frontend, **shards.stats, "hop_ms": 5.0}
    save_pretrained(source, Card(shards.classes, False, heard, (16, 16), 64, 1, "none"), tmp_path / "source")
    fit(job(small_features, tmp_path / "a", start=tmp_path / "source", recipe=recipe(phases=[])))
    assert torch.equal(load(tmp_path / "a" / "out").embed.positions.grid, source.embed.positions.grid)


def test_a_vision_transformer_keeps_its_scale(small_features, tmp_path):
    vit = create_vit("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    unscaled = {**TINY, "attention_scale": 1.0}
    plan = {"start": tmp_path / "vit.safetensors", "recipe": recipe(phases=[]), "architecture": unscaled}
    fit(job(small_features, tmp_path / "a", **plan))
    found, wanted = load(tmp_path / "a" / "out").blocks[0].attention.qkv.weight, vit.blocks[0].attn.qkv.weight
    torch.testing.assert_close(found, torch.cat([wanted[:24] * 12**-0.5, wanted[24:]]))


def test_a_vision_transformer_is_a_start(small_features, tmp_path):
    vit = create_vit("vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    started = job(small_features, tmp_path / "a", start=tmp_path / "vit.safetensors", recipe=recipe(phases=[]))
    fit(started)
    made = load(started.out)
    torch.testing.assert_close(made.embed.weight, vit.patch_embed.proj.weight.sum(1))
    torch.testing.assert_close(made.blocks[0].mlp.grow.weight, vit.blocks[0].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"nonsense"), "cannot read weights"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "no timm vision transformer"),
        (lambda path: save_file(create_vit("vit_tiny_patch16_224", depth=1).state_dict(), path), "another width"),
    ],
)
def test_a_start_that_is_none_is_refused_in_one_line(small_features, tmp_path, make, complaint):
    path = tmp_path / "weights.safetensors"
    make(path)
    with pytest.raises(AudiolibError, match=complaint) as caught:
        fit(job(small_features, tmp_path / "a", start=path))
    assert "\n" not in str(caught.value)


def test_distillation_changes_the_training_and_is_resumed_with_it(small_features, tmp_path, fixed):
    taught = recipe(phases=[phase(epochs=2)], distill=Distill(weight=0.5, temperature=2.0))
    plain = recipe(phases=[phase(epochs=2)])
    for name, chosen in (("taught", taught), ("again", taught), ("plain", plain)):
        fit(job(small_features, tmp_path / name, stage="finetune", start=fixed, recipe=chosen))
    one, again, other = (load(tmp_path / name / "out").head.weight for name in ("taught", "again", "plain"))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_distillation_without_a_teacher_is_refused(small_features, tmp_path):
    taught = recipe(distill=Distill(weight=0.5, temperature=2.0))
    with pytest.raises(AudiolibError, match="needs a trained model to learn from"):
        fit(job(small_features, tmp_path / "a", recipe=taught))


def test_a_teacher_of_other_classes_is_refused(small_features, tmp_path, fixed):
    card = load_card(fixed)
    save_pretrained(load(fixed), replace(card, classes=card.classes[::-1]), tmp_path / "other")
    taught = recipe(distill=Distill(weight=0.5, temperature=2.0))
    with pytest.raises(AudiolibError, match="knows other classes than"):
        fit(job(small_features, tmp_path / "a", start=tmp_path / "other", recipe=taught))


def test_a_teacher_hears_clips_normalised_as_it_knows_them(small_features, tmp_path, fixed):
    """Its own logits of the same sound, although the student's constants and padding are others."""
    taught = recipe(distill=Distill(weight=0.5, temperature=2.0), augment=augment(noise=0.0))
    model, card = load(fixed), load_card(fixed)
    mean, std = card.frontend["mean"] - 3, card.frontend["std"] * 2
    other = replace(card, frontend={**card.frontend, "mean": mean, "std": std}, fill=0.7)
    save_pretrained(model, other, tmp_path / "other")
    guide = teacher(job(small_features, tmp_path, recipe=taught, start=tmp_path / "other"), torch.device("cpu"))
    clips = read_split(small_features, "test")
    mels = [clips.held.mel(place)[:48].astype(np.float32) for place in range(4)]
    known = [torch.from_numpy((mel - mean) / (2 * std)).float() for mel in mels]
    wanted = model(pack([pad(mel, (0, 0, 0, 16), value=0.7) for mel in known]), card.patch)
    said = guide(pack([pad(torch.from_numpy(clips.normalised(mel)), (0, 0, 0, 16)) for mel in mels]))
    torch.testing.assert_close(said, wanted.detach(), atol=1e-5, rtol=1e-5)
    assert not said.requires_grad


def test_a_teacher_of_other_log_mel_is_refused(small_features, tmp_path, fixed):
    card = load_card(fixed)
    save_pretrained(load(fixed), replace(card, frontend={**card.frontend, "hop_ms": 5.0}), tmp_path / "other")
    taught = recipe(distill=Distill(weight=0.5, temperature=2.0))
    with pytest.raises(AudiolibError, match="trained on other log-mel"):
        fit(job(small_features, tmp_path / "a", recipe=taught, start=tmp_path / "other"))


@pytest.mark.parametrize(
    "card, message",
    [
        ({"compression": 2, "method": "avg_pool"}, "knows coarse log-mel alone"),
        ({"fill": 0.7}, "which augment.noise hides"),
    ],
)
def test_a_teacher_that_would_hear_what_it_does_not_know_is_refused(small_features, tmp_path, fixed, card, message):
    save_pretrained(load(fixed), replace(load_card(fixed), **card), tmp_path / "other")
    taught = recipe(distill=Distill(weight=0.5, temperature=2.0), augment=augment(noise=0.05))
    with pytest.raises(AudiolibError, match=message):
        fit(job(small_features, tmp_path / "a", recipe=taught, start=tmp_path / "other"))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_distillation_loss_is_cross_entropy_less_the_teachers_own_entropy(temperature):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    shares = (teacher / temperature).softmax(-1)
    entropy = -(shares * shares.log()).sum(-1).mean()
    wanted = (cross_entropy(student / temperature, shares) - entropy) * temperature**2
    torch.testing.assert_close(distillation_loss(student, teacher, temperature, False), wanted)
    assert distillation_loss(teacher, teacher, temperature, False).abs() < 1e-12


def test_with_several_labels_every_label_is_a_distribution_of_its_own():
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    pairs = [torch.stack([logits, torch.zeros_like(logits)], -1).flatten(0, 1) for logits in (student, teacher)]
    wanted = distillation_loss(pairs[0], pairs[1], 1.0, False)
    torch.testing.assert_close(distillation_loss(student, teacher, 1.0, True), wanted)
