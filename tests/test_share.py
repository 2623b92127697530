"""A model for others: the folder is complete, its card says what was measured, and the hub's cache serves it."""

import re
from pathlib import Path

import polars as pl
import pytest

import audiolib
from audiolib.errors import AudiolibError
from audiolib.pretrained import load_card
from tests.test_cli import audiolib as command
from tests.test_inference import saved, sound
from tests.test_report import kept, record


@pytest.fixture
def folders(tmp_path) -> tuple[Path, Path]:
    kept(record("flexi", 1, 0.9), tmp_path / "evaluate")
    return saved(tmp_path / "finetune"), tmp_path / "evaluate"


def test_the_card_has_the_recorded_numbers(folders, tmp_path):
    done = command("share", folders[0], tmp_path / "my-model")
    assert done.returncode == 0 and "README.md, config.json, model.safetensors, rows.parquet" in done.stdout
    card = (tmp_path / "my-model" / "README.md").read_text()
    rows = pl.read_parquet(tmp_path / "my-model" / "rows.parquet").filter(pl.col("metric") == "accuracy")
    assert card.startswith("---\nlibrary_name: audiolib\n") and "# my-model" in card and "bell, dog, rain" in card
    for patch in (8, 16, 32):
        value = rows.filter((pl.col("patch_f") == patch) & (pl.col("seconds") == 1.28) & (pl.col("hop_ms") == 10))
        assert re.search(rf"\| {patch} x {patch} \| {value['value'][0]:.3f} \|", card)
    assert "| 0.64 s |" in card and "| 20 ms |" in card
    path = sound(tmp_path / "a.wav", 1.0)
    one, other = (command("predict", path, "--model", place, "--json") for place in (folders[0], tmp_path / "my-model"))
    assert one.stdout == other.stdout != ""
    assert command("predict", path, "--model", tmp_path / "my-model", "--budget-ms", "3").returncode == 0
    assert "is not empty" in command("share", folders[0], tmp_path / "my-model").stderr


def test_a_model_without_results_is_refused(tmp_path):
    done = command("share", saved(tmp_path / "m"), tmp_path / "out")
    assert done.returncode == 1 and "has no rows.parquet" in done.stderr and not (tmp_path / "out").exists()


def test_the_hub_is_read_from_its_cache_and_asked_only_by_name(hub):
    saved(hub("somebody/bells"))
    assert load_card("hub:somebody/bells").classes[0] == "bell"
    assert audiolib.load("hub:somebody/bells").config.num_classes == 4
    with pytest.raises(AudiolibError, match="cannot fetch hub:somebody/else"):
        audiolib.load("hub:somebody/else")
    with pytest.raises(AudiolibError, match="is not a model folder"):
        audiolib.load("somebody/bells")  # Never taken for a name on the hub.
