"""The demo: what it shows is what the model says, and bad files are told on the page."""

import json
import urllib.request

import numpy as np
import pytest

from audiolib.demo import hear, page
from audiolib.errors import AudiolibError
from audiolib.inference import Listener, whole_files
from tests.test_inference import saved, sound


@pytest.fixture(scope="module")
def listener(tmp_path_factory) -> Listener:
    return Listener(saved(tmp_path_factory.mktemp("demo") / "m", "flexi_nano"))


def test_what_is_shown_is_what_the_model_says(listener, tmp_path):
    path = sound(tmp_path / "a.wav", 3.0)
    best, figure, cost = hear(listener, str(path), 12, 14.0, 0.5)
    other = Listener(listener.folder, patch=(12, 12), hop_ms=14.0)
    said = list(other.listen([path], window=0.5, stride=0.25))
    (whole,) = whole_files(said)
    assert best == {name: pytest.approx(float(whole.values[other.classes.index(name)])) for name in best}
    _, lower = figure.axes
    (line,) = [line for line in lower.lines if line.get_label() == next(iter(best))]
    assert np.allclose(line.get_ydata(), [h.values[other.classes.index(line.get_label())] for h in said])
    assert len(said) == 11 and "11 windows of 0.5 s" in cost and f"{other.model.tokens(36, (12, 12))} tokens" in cost
    assert listener.patch == (16, 16) and listener.hop_ms is None  # The next visitor finds it as it was.


def test_a_bad_file_is_one_line(listener, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(AudiolibError, match=r"bad\.wav: not readable as audio"):
        hear(listener, str(tmp_path / "bad.wav"), 16, 10.0, 1.0)


def test_the_page_answers(listener):
    blocks = page(listener.folder)
    _, address, _ = blocks.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", share=False)
    try:
        with urllib.request.urlopen(f"{address}config") as answer:
            shown = json.dumps(json.load(answer))
        assert "patch size" in shown and "hop (ms)" in shown and "SpectrogramTransformer, 4 classes" in shown
    finally:
        blocks.close()
