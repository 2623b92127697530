"""Model folders: what is saved is loaded, and nothing damaged, foreign or newer passes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import audiolib
from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.files import read_sealed, sha256_file, write_sealed
from audiolib.models import create_model
from audiolib.pretrained import Card, load, load_card, save_pretrained

CARD = Card(["a", "b"], False, {"sample_rate": 16000, "mean": -4.0, "std": 4.0}, (16, 16), 64, 1, "none")


@pytest.fixture
def folder(tmp_path) -> Path:
    save_pretrained(create_model("flexi_nano", 2, frames=64, depth=1), CARD, tmp_path / "m")
    return tmp_path / "m"


def test_round_trip(folder):
    model = create_model("flexi_nano", 2, frames=64, depth=1)
    sound = pack([torch.randn(64, 128, generator=torch.Generator().manual_seed(0))])
    assert torch.equal(audiolib.load(folder)(sound, (12, 20)), model(sound, (12, 20)))
    assert load_card(folder) == CARD


def test_damaged_weights_are_named(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(AudiolibError, match=r"model\.safetensors is damaged or belongs to another model"):
        load(folder)


def change(folder: Path, **values: object) -> None:
    write_sealed(folder / "config.json", {**read_sealed(folder / "config.json"), **values})


def test_weights_that_do_not_fit_the_config_are_one_line(folder):
    save_file({"other": torch.zeros(2)}, folder / "model.safetensors")
    change(folder, sha256=sha256_file(folder / "model.safetensors"))
    with pytest.raises(AudiolibError, match=r"does not fit its config\.json") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_changed_digit_of_a_config_is_found(folder):
    text = (folder / "config.json").read_text()
    assert '"width": 192' in text
    (folder / "config.json").write_text(text.replace('"width": 192', '"width": 193'))
    with pytest.raises(AudiolibError, match=r"config\.json is damaged: it is not what was written"):
        load(folder)


def test_a_newer_damaged_or_absent_config_is_one_line(folder, tmp_path):
    change(folder, format=99)
    with pytest.raises(AudiolibError, match="has format 99, this version reads up to 1; update audiolib"):
        load(folder)
    (folder / "config.json").write_text("[")
    with pytest.raises(AudiolibError, match=r"config\.json is damaged"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(AudiolibError, match=r"config\.json is damaged: it is not what was written"):
        load(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(AudiolibError, match="not a model config"):
        load(folder)
    with pytest.raises(AudiolibError, match="is not a model folder"):
        load(tmp_path / "nowhere")
