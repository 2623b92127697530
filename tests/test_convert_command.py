"""`audiolib convert` on weights that the other libraries made, and sound through both sides."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from timm import create_model as create_vit
from transformers import ASTFeatureExtractor, ASTForAudioClassification

from audiolib.batches import pack
from audiolib.convert_published import from_published
from audiolib.errors import AudiolibError
from audiolib.inference import Listener
from audiolib.models.spectrogram_transformer import SpectrogramTransformer
from audiolib.pretrained import load, load_card, save_pretrained
from tests.test_cli import audiolib
from tests.test_convert import CLASSES, random_ast, sounds
from tests.test_inference import saved


@pytest.fixture
def hugging_face(tmp_path):
    """A folder as `save_pretrained` of transformers leaves it."""
    model = random_ast(10, 106)
    model.config.id2label = dict(enumerate(CLASSES))
    model.save_pretrained(tmp_path / "hf")
    ASTFeatureExtractor(max_length=106).save_pretrained(tmp_path / "hf")
    return tmp_path / "hf"


@pytest.mark.parametrize("frames", [106, 60])  # As long as the model's clips, and shorter.
def test_a_sound_gives_the_same_probabilities_on_both_sides(hugging_face, tmp_path, frames):
    done = audiolib("convert", hugging_face, tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    wave = (np.random.default_rng(0).standard_normal(400 + (frames - 1) * 160) * 0.1).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", wave, 16000, subtype="FLOAT")
    theirs = ASTForAudioClassification.from_pretrained(hugging_face).eval()
    inputs = ASTFeatureExtractor.from_pretrained(hugging_face)(wave, sampling_rate=16000, return_tensors="pt")
    with torch.inference_mode():
        wanted = theirs(**inputs).logits.softmax(1)[0].numpy()
    listener = Listener(tmp_path / "ours")
    (found,) = listener.listen([tmp_path / "a.wav"], window=max(listener.own_seconds, len(wave) / 16000))
    assert listener.classes == CLASSES
    np.testing.assert_allclose(found.values, wanted, atol=1e-4)


def test_another_padding_than_that_of_transformers_is_told(hugging_face, tmp_path):
    assert audiolib("convert", hugging_face, tmp_path / "ours").returncode == 0
    card = load_card(tmp_path / "ours")
    save_pretrained(load(tmp_path / "ours"), replace(card, fill=0.0), tmp_path / "mean")
    told = [audiolib("convert", tmp_path / name, tmp_path / f"{name} back").stderr for name in ("ours", "mean")]
    assert "transformers pads them with" not in told[0] and "with 0.467, this model was trained on" in told[1]


def test_a_model_of_the_hub_is_converted_from_its_cache(hugging_face, tmp_path, hub):
    shutil.copytree(hugging_face, hub("somebody/ast"))
    done = audiolib("convert", "hub:somebody/ast", tmp_path / "ours")
    assert done.returncode == 0, done.stderr
    assert load_card(tmp_path / "ours").classes == CLASSES and load_card(tmp_path / "ours").frontend["mean"] < -4
    assert "cannot fetch hub:somebody/else" in audiolib("convert", "hub:somebody/else", tmp_path / "none").stderr


def test_there_and_back(hugging_face, tmp_path):
    assert audiolib("convert", hugging_face, tmp_path / "ours").returncode == 0
    assert audiolib("convert", tmp_path / "ours", tmp_path / "back").returncode == 0
    first = ASTForAudioClassification.from_pretrained(hugging_face).state_dict()
    back = ASTForAudioClassification.from_pretrained(tmp_path / "back").state_dict()
    assert first.keys() == back.keys() and all(torch.equal(first[name], back[name]) for name in first)


class PublishedAst(torch.nn.Module):
    """The computation of AST's own code (papers.md 1.4) around timm's distilled DeiT, under the names of its files."""

    def __init__(self, steps: int, stride: int) -> None:
        super().__init__()
        self.v = create_vit("deit_tiny_distilled_patch16_224", depth=2)
        self.v.patch_embed.proj = torch.nn.Conv2d(1, 192, 16, stride)
        bands = (128 - 16) // stride + 1
        self.v.pos_embed = torch.nn.Parameter(torch.empty(1, 2 + bands * steps, 192))
        self.mlp_head = torch.nn.Sequential(torch.nn.LayerNorm(192), torch.nn.Linear(192, len(CLASSES)))
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.1)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        x = self.v.patch_embed.proj(mel.transpose(1, 2)[:, None]).flatten(2).transpose(1, 2)
        x = torch.cat([self.v.cls_token.expand(len(x), -1, -1), self.v.dist_token.expand(len(x), -1, -1), x], 1)
        x = self.v.norm(self.v.blocks(x + self.v.pos_embed))
        return self.mlp_head((x[:, 0] + x[:, 1]) / 2)


@pytest.mark.parametrize("stride, frames", [(10, 106), (16, 96)])
def test_weights_in_the_layout_of_the_authors_give_the_same_logits(tmp_path, stride, frames):
    torch.manual_seed(0)
    theirs = PublishedAst((frames - 16) // stride + 1, stride).eval()
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    config, converted, left = from_published(state, stride)
    ours = SpectrogramTransformer(config).eval()
    ours.load_state_dict(converted)
    with torch.inference_mode():
        wanted, found = theirs(torch.stack(sounds(frames))), ours(pack(sounds(frames)))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert config.frames == frames and wanted.std() > 0.1 and all(name.startswith("head") for name in left)
    torch.save(state, tmp_path / "ast.pth")
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES) + "\n")
    words = ("convert", tmp_path / "ast.pth", tmp_path / "out", "--stride", stride, "--labels", tmp_path / "labels.txt")
    done = audiolib(*words, "--multi-label", "--pickle")
    assert done.returncode == 0
    told = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("carried: ")]
    assert told == list(converted)
    assert [line for line in done.stdout.splitlines() if line.startswith("left: ")] == [
        f"left: {name}" for name in left
    ]
    assert load_card(tmp_path / "out").classes == CLASSES and load_card(tmp_path / "out").multi_label


class Trap:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    torch.save({"a": Trap(tmp_path / "ran")}, tmp_path / "trap.pth")
    asked = audiolib("convert", tmp_path / "trap.pth", tmp_path / "out")
    assert asked.returncode == 1 and "is a pickle: with --pickle" in asked.stderr
    done = audiolib("convert", tmp_path / "trap.pth", tmp_path / "out", "--pickle")
    assert done.returncode == 1 and "holds more than tensors" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert (tmp_path / "ran").exists(), "it is a trap"


def test_what_cannot_be_converted_is_one_line(tmp_path, hugging_face):
    (tmp_path / "odd.pth").write_bytes(b"no weights")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    torch.save({"a": print}, tmp_path / "code.pth")
    refused = {
        "odd.pth": "odd.pth",
        "other.pth": "not weights as the papers' authors publish them",
        "code.pth": "more than tensors",
        "none": "cannot read",
    }
    for source, message in refused.items():
        done = audiolib("convert", tmp_path / source, tmp_path / "out", "--pickle")
        assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    (tmp_path / "cut.pth").write_bytes(b"")
    (tmp_path / "bare").mkdir()
    shutil.copy(hugging_face / "model.safetensors", tmp_path / "bare")
    (tmp_path / "bare" / "config.json").write_text("{}")
    assert "it has no 'num_hidden_layers'" in audiolib("convert", tmp_path / "bare", tmp_path / "out").stderr
    (tmp_path / "text.wav").write_text("eight words that are no tensors at all, really")
    assert "cannot read weights" in audiolib("convert", tmp_path / "text.wav", tmp_path / "out", "--pickle").stderr
    assert "a .pth file is a pickle" in audiolib("convert", tmp_path / "text.wav", tmp_path / "out").stderr
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    for words, message in (
        (("cut.pth",), "cannot read"),
        (("list.pth",), "no table of tensors"),
        (("other.pth", "--stride", "0"), "no positive whole number"),
        (("other.pth", "--std", "0"), "no positive number"),
        (("other.pth", "--std", "abc"), "'abc' is no positive number"),
    ):
        done = audiolib("convert", tmp_path / words[0], tmp_path / "out", "--pickle", *words[1:])
        assert done.returncode and message in done.stderr and "Traceback" not in done.stderr
    assert "is not empty" in audiolib("convert", tmp_path / "other.pth", tmp_path / "odd.pth").stderr
    coarse = saved(tmp_path / "coarse", "ast_nano", compression=2, method="frame_shift")
    assert "was trained on something else" in audiolib("convert", coarse, tmp_path / "out").stderr
    mamba = saved(tmp_path / "aum", "aum_nano")
    assert "no transformer" in audiolib("convert", mamba, tmp_path / "out").stderr
    assert "not empty" in audiolib("convert", hugging_face, mamba).stderr


def test_positions_that_a_stride_cannot_have_are_refused():
    state = PublishedAst(11, 10).state_dict()
    with pytest.raises(AudiolibError, match="is the stride really 16"):
        from_published(state, 16)
