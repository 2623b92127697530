"""The HEAR contract, at the lengths that its validator tries."""

import numpy as np
import pytest
import torch

from audiolib.errors import AudiolibError
from audiolib.hear import get_scene_embeddings, get_timestamp_embeddings, load_model
from tests.test_inference import saved


@pytest.fixture(scope="module", params=["elastic_nano", "flexi_nano"])
def model(request, tmp_path_factory):
    return load_model(str(saved(tmp_path_factory.mktemp("hear") / "m", request.param)))


def noise(count: int, seconds: float, rate: int) -> torch.Tensor:
    return torch.randn(count, int(seconds * rate), generator=torch.Generator().manual_seed(1)) * 0.1


@pytest.mark.parametrize("count, seconds", [(2, 1.07), (2, 1.98), (2, 4.0), (4, 2.74)])
def test_shapes_types_and_times(model, count, seconds):
    assert isinstance(model, torch.nn.Module) and model.sample_rate == 16000
    audio = noise(count, seconds, model.sample_rate)
    scene = get_scene_embeddings(audio, model)
    assert scene.shape == (count, model.scene_embedding_size) and scene.dtype == torch.float32
    found, times = get_timestamp_embeddings(audio, model)
    assert found.shape == (*times.shape, model.timestamp_embedding_size) and found.dtype == torch.float32
    assert times.shape[0] == count and times.max() <= 1000 * seconds
    gaps = np.diff(times.numpy(), axis=1)
    assert np.allclose(gaps, gaps[0, 0], atol=1e-3) and gaps.max() <= 50
    assert torch.isfinite(scene).all() and torch.isfinite(found).all()


def test_a_sound_alone_is_what_it_is_among_others(model):
    audio = noise(3, 2.3, model.sample_rate)
    together, alone = get_scene_embeddings(audio, model), get_scene_embeddings(audio[1:2], model)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    many, one = get_timestamp_embeddings(audio, model)[0], get_timestamp_embeddings(audio[1:2], model)[0]
    assert torch.allclose(many[1:2], one, atol=1e-5)


def test_timestamps_hear_what_is_near_them(model):
    """A click changes the embeddings within half a window of it, and no others."""
    audio = noise(1, 4.0, model.sample_rate)
    clicked = audio.clone()
    clicked[0, 32000:32400] += 0.8
    before, times = get_timestamp_embeddings(audio, model)
    after, _ = get_timestamp_embeddings(clicked, model)
    changed = (after - before).abs().amax(-1)[0] > 1e-6
    near = (times[0] - 2000).abs() < 450
    assert changed[near].all() and not changed[(times[0] - 2000).abs() > 550].any()


def test_a_path_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(AudiolibError, match="is no model folder"):
        load_model(str(tmp_path / "no"))
