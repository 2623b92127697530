"""A model as one graph: the same logits as the model's own, in torch and in another runtime, at any length."""

import numpy as np
import onnxruntime
import pytest
import torch

from audiolib.batches import pack
from audiolib.errors import AudiolibError
from audiolib.export import doubled, export_onnx, graph, reaches_of
from audiolib.kernels.selective_scan.naive import naive
from audiolib.models import create_model
from tests.test_cli import audiolib
from tests.test_inference import saved

LENGTHS = (40, 96, 151)


def small(name: str, **changes):
    """Two blocks; a head that tells clips apart."""
    heads = {} if name.startswith("aum") else {"heads": 2}
    model = create_model(name, num_classes=5, **{"frames": 96, "width": 48, "depth": 2, **heads, **changes}).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
    return model


def sounds(frames: int) -> torch.Tensor:
    return torch.randn(3, frames, 128, generator=torch.Generator().manual_seed(frames))


VARIANTS = [
    ("ast_nano", {}),
    ("ast_nano", {"stride": (10, 10), "border": "crop", "prefix_tokens": 2}),
    ("flexi_nano", {"border": "overlap"}),
    ("flexi_nano", {"border": "pad", "layout": "axes"}),
    ("flexi_nano", {"border": "crop"}),
    ("elastic_nano", {}),
    ("aum_nano", {}),
    ("aum_nano", {"directions": "bi-bi", "class_token": "double"}),
    ("aum_nano", {"directions": "fo-fo", "class_token": "mean", "order": "time"}),
]


@pytest.mark.parametrize("name, changes", VARIANTS)
@pytest.mark.parametrize("patch", [(16, 16), (12, 10), (24, 32)])
def test_the_graph_gives_the_models_own_logits(name, changes, patch):
    model = small(name, **changes)
    made = graph(model, patch)
    for frames in LENGTHS:
        with torch.inference_mode():
            found, wanted = made(sounds(frames)), model(pack(list(sounds(frames))), patch)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert wanted.std(0).max() > 1e-3


@pytest.mark.parametrize(
    "name, changes", [("ast_nano", {}), ("elastic_nano", {}), ("elastic_nano", {"positions": "index"})]
)
@pytest.mark.parametrize("frames", [40, 151])
def test_the_graph_at_another_hop(name, changes, frames):
    model = small(name, **changes)
    with torch.inference_mode():
        found = graph(model, (16, 16), 1.7)(sounds(frames))
        wanted = model(pack(list(sounds(frames)), stretch=[1.7] * 3), (16, 16))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ast_nano", "flexi_nano", "elastic_nano", "aum_nano"])
def test_onnx_runs_elsewhere_at_any_length(name, tmp_path):
    model, patch = small(name, depth=1), (12, 16)
    export_onnx(model, patch, tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    for frames in LENGTHS:
        (found,) = session.run(None, {"log_mel": sounds(frames).numpy()})
        with torch.inference_mode():
            wanted = model(pack(list(sounds(frames))), patch).numpy()
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    (alone,) = session.run(None, {"log_mel": sounds(96)[:1].numpy()})
    assert alone.shape == (1, 5)


@pytest.mark.parametrize("count", [1, 2, 63, 513])
def test_doubling_is_the_recurrence(count):
    generator = torch.Generator().manual_seed(0)
    u, delta = torch.randn(2, count, 6, generator=generator, dtype=torch.float64)
    A = -torch.rand(6, 4, generator=generator, dtype=torch.float64)
    B, C = torch.randn(2, count, 4, generator=generator, dtype=torch.float64)
    step = torch.nn.functional.softplus(delta)
    state = doubled(
        torch.exp(step[..., None] * A)[None], ((step * u)[..., None] * B[:, None])[None], reaches_of(len(u))
    )[0]
    wanted = naive(u, delta, A, B, C, lengths=(count,))
    torch.testing.assert_close((state * C[:, None]).sum(-1), wanted)


def test_export_from_the_command_line(tmp_path):
    folder = saved(tmp_path / "m", "flexi_nano")
    done = audiolib("export", folder, tmp_path / "m.onnx", "--patch", "12")
    assert done.returncode == 0 and "at least 12 frames" in done.stdout and "(x +7.0000) / 8.0000" in done.stdout
    assert (tmp_path / "m.onnx").stat().st_size > 10_000
    assert audiolib("export", tmp_path, tmp_path / "x.onnx").returncode == 1
    refused = audiolib("export", folder, tmp_path)
    assert refused.returncode == 2 and "does not end in .onnx" in refused.stderr and "Traceback" not in refused.stderr
    assert "0 is no patch size" in audiolib("export", folder, tmp_path / "x.onnx", "--patch", "0").stderr.replace(
        "'", ""
    )


def test_other_modules_are_refused():
    with pytest.raises(AudiolibError, match="Linear cannot be exported"):
        graph(torch.nn.Linear(1, 1), (16, 16))
