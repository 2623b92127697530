"""Decoding and log-mel: facts about sound, and a reason for every clip that cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from transformers import ASTFeatureExtractor
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from audiolib.frontend import BadClip, Frontend, _cut_short, decode, log_mel
from tests.corpora.replicas import wav_bytes

FRONTEND = Frontend(sample_rate=16000, mel_bins=128, window_ms=25, hop_ms=10)


def tone(seconds: float, rate: int, hertz: float = 1000.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


@pytest.mark.parametrize(
    "suffix, subtype, tolerance",
    [
        ("wav", "PCM_U8", 0.01),
        ("wav", "PCM_16", 0.0001),
        ("wav", "PCM_24", 1e-06),
        ("wav", "PCM_32", 1e-06),
        ("wav", "FLOAT", 1e-06),
        ("flac", "PCM_16", 0.0001),
        ("flac", "PCM_24", 1e-06),
        ("ogg", "VORBIS", 0.08),
    ],
)
def test_formats_and_bit_depths(tmp_path, suffix, subtype, tolerance):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, tone(0.5, 16000), 16000, subtype=subtype)
    samples = decode(path, 16000)
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples[:8000], tone(0.5, 16000), atol=tolerance)


def test_mp3_stereo_at_44100(tmp_path):
    path = tmp_path / "a.mp3"
    left = tone(1.0, 44100)
    soundfile.write(path, np.stack([left, 0 * left], axis=1), 44100)
    samples = decode(path, 16000)
    assert len(samples) / 16000 == pytest.approx(1.0, abs=0.08)  # mp3 pads to whole frames.
    middle = samples[4000:12000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.25 / np.sqrt(2), rel=0.03)  # The mean of both channels.
    assert np.abs(np.fft.rfft(middle)).argmax() * 16000 / 8000 == pytest.approx(1000, abs=4)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000, 44099])
def test_any_sample_rate_keeps_pitch_level_and_length(tmp_path, rate):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1.0, rate), rate)
    samples = decode(path, 16000)
    assert len(samples) == pytest.approx(16000, abs=1)
    np.testing.assert_allclose(samples[2000:14000], tone(1.0, 16000)[2000:14000], atol=0.01)


def test_a_piece_of_a_file(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.arange(16000) / 32000, 16000, subtype="FLOAT")
    np.testing.assert_allclose(decode(path, 16000, 0.25, 0.5), np.arange(4000, 8000) / 32000, atol=1e-6)
    assert len(decode(path, 16000, start=0.9)) == 1600


def test_transformers_extracts_the_same_log_mel():
    random = np.random.default_rng(0)
    samples = (tone(2.0, 16000) + 0.01 * random.standard_normal(32000)).astype(np.float32)
    theirs = ASTFeatureExtractor(max_length=198, do_normalize=False)(samples - samples.mean(), sampling_rate=16000)
    np.testing.assert_allclose(log_mel(samples, FRONTEND), theirs["input_values"][0], atol=1e-3)


@pytest.mark.parametrize("length", [400, 401, 559, 560, 16000, 160000])
def test_frame_count_of_the_papers(length):
    samples = np.random.default_rng(0).standard_normal(length).astype(np.float32) * 0.1
    assert log_mel(samples, FRONTEND).shape == (1 + (length - 400) // 160, 128)


def test_a_hop_twice_as_long_visits_every_second_frame():
    samples = np.random.default_rng(0).standard_normal(16000).astype(np.float32) * 0.1
    slow = log_mel(samples, Frontend(16000, 128, 25, 20))
    np.testing.assert_array_equal(slow, log_mel(samples, FRONTEND)[::2])


def write_nan(path: Path) -> None:
    samples = np.zeros(8000, np.float32)
    samples[100] = np.nan
    soundfile.write(path, samples, 16000, subtype="FLOAT")


BAD = {
    "does not exist": lambda path: None,
    "empty (0 bytes)": lambda path: path.write_bytes(b""),
    "not readable as audio": lambda path: path.write_text("these are words, not sound " * 50),
    "not readable as audio ": lambda path: path.write_bytes(wav_bytes()[:20]),
    "cut short": lambda path: path.write_bytes(wav_bytes(1.0)[:9000]),
    "not finite": write_nan,
}


@pytest.mark.parametrize("reason", BAD)
def test_a_clip_that_cannot_be_used_has_a_reason(tmp_path, reason):
    path = tmp_path / "a.wav"
    BAD[reason](path)
    with pytest.raises(BadClip) as caught:
        log_mel(decode(path, 16000), FRONTEND)
    assert reason.strip() in str(caught.value)


def test_a_flac_that_does_not_know_its_length_is_no_traceback(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(1.0, 16000), 16000)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # The last 36 bits of the stream's header before its checksum count the samples.
    content[22:26] = bytes(4)
    path.write_bytes(content)
    try:
        assert len(decode(path, 16000)) == 16000
    except BadClip as error:
        assert "not readable as audio" in str(error)


@pytest.mark.parametrize("length", [0, 1, 399])
def test_a_clip_shorter_than_one_window_says_so(tmp_path, length):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(1, 16000)[:length], 16000)
    with pytest.raises(BadClip, match=r"shorter than one analysis window \(25 ms\)"):
        log_mel(decode(path, 16000), FRONTEND)


def test_the_stft_front_end_is_that_of_another_implementation():
    """EPIC-SOUNDS as the papers have it (papers.md 4.3): 24 kHz, 2,048 points, 10 ms window, 5 ms hop, HTK bands."""
    samples = np.random.default_rng(0).standard_normal(12000).astype(np.float32) * 0.1
    found = log_mel(samples, Frontend(24000, 128, 10, 5, "stft"))
    banks = mel_filter_bank(1025, 128, 0, 12000, 24000, norm=None, mel_scale="htk")
    window = np.pad(window_function(240, "hann"), (904, 904))  # torch and librosa put a short window into the middle.
    magnitude = spectrogram(samples, window, 2048, 120, 2048, power=1.0, pad_mode="constant", mel_filters=banks)
    assert found.shape == (101, 128)
    np.testing.assert_allclose(found, np.log(magnitude.T + 1e-6), atol=1e-3)


def test_log_mel_is_the_same_while_a_model_computes_in_bfloat16():
    samples = tone(0.3, 16000).astype(np.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = log_mel(samples, FRONTEND)
    np.testing.assert_array_equal(inside, log_mel(samples, FRONTEND))


@pytest.mark.parametrize("length, fine", [(0xFFFFFFFF, True), (0x7FFFF000, True), (0x80000000, True), (64000, False)])
def test_a_wav_of_a_pipe_does_not_know_its_length(tmp_path, length, fine):
    """SoX writes 0x7FFFF000, others the largest number."""
    content = bytearray(wav_bytes(1.0))
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(bytes(content))
    if fine:
        assert len(decode(tmp_path / "a.wav", 16000)) == 16000
    else:
        with pytest.raises(BadClip, match="cut short"):
            decode(tmp_path / "a.wav", 16000)


@pytest.mark.parametrize(
    "length, size, fine",
    [(0xFFFFFFFF, 2**31 + 10**6, True), (0x90000000, 10**6, False), (0x90000000, 2**31 + 10**6, False)],
)
def test_a_recording_of_gigabytes_is_cut_short_or_open(tmp_path, length, size, fine):
    """As the system has it: a sparse file takes no space."""
    content = bytearray(wav_bytes(0.1))
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(content)
        file.truncate(size)
    assert _cut_short(tmp_path / "a.wav") is not fine


def test_floating_point_sound_at_the_scale_of_numbers_is_told(tmp_path):
    """It would be clipped where it is stored as sound, and stand 16 nats above all other log-mel."""
    wave = np.sin(np.arange(16000) / 10).astype(np.float32)
    soundfile.write(tmp_path / "loud.wav", 1.5 * wave, 16000, subtype="FLOAT")
    soundfile.write(tmp_path / "scaled.wav", 32768 * wave, 16000, subtype="FLOAT")
    assert np.abs(decode(tmp_path / "loud.wav", 16000)).max() == pytest.approx(1.5, abs=0.01)
    with pytest.raises(BadClip, match=r"samples up to 327[0-9]{2}; floating-point sound lies between -1 and 1"):
        decode(tmp_path / "scaled.wav", 16000)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_piece_of_an_mp3_does_not_begin_with_silence(tmp_path, rate):
    """After a jump the decoder lacks what its frames refer to."""
    wave = 0.2 * np.sin(2 * np.pi * 440 * np.arange(8 * rate) / rate).astype(np.float32)
    soundfile.write(tmp_path / "a.mp3", wave, rate, compression_level=0.99)
    whole, piece = decode(tmp_path / "a.mp3", rate), decode(str(tmp_path / "a.mp3"), rate, 5.12, 7.12)
    first = int(5.12 * rate)
    np.testing.assert_allclose(piece, whole[first : first + len(piece)], atol=0.01)
