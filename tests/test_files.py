"""Files are whole or absent, refusals of the system are one line, and randomness hangs on its key alone."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from audiolib.errors import AudiolibError, run_main
from audiolib.files import atomic_path, digest, fresh_folder, lock, read_json, scratch_folder, user_path, write_json
from audiolib.rng import rng


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fails() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half a fi")
            raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        fails()
    assert read_json(path) == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_equal_values_give_equal_bytes_and_digests(tmp_path):
    write_json(tmp_path / "a", {"x": 1, "y": [2]})
    write_json(tmp_path / "b", {"y": [2], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert digest({"x": 1, "y": 2}) == digest({"y": 2, "x": 1}) != digest({"x": 1, "y": 3})


@pytest.mark.parametrize(
    "number, words",
    [(28, "no space left"), (13, "Permission denied"), (30, "Read-only file system"), (20, "Not a dir")],
)
@pytest.mark.parametrize(
    "kind", [OSError, lambda number, text: SafetensorError(f"I/O error: {text} (os error {number})")]
)
def test_refusals_of_the_system_are_one_line(tmp_path, number, words, kind):
    def write() -> None:
        with atomic_path(tmp_path / "a"):
            raise kind(number, os.strerror(number))

    with pytest.raises(AudiolibError, match=words) as caught:
        write()
    assert "\n" not in str(caught.value) and str(tmp_path / "a") in str(caught.value)


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(AudiolibError, match="Is a directory"):
        write_json(tmp_path / "a", {})
    (tmp_path / "b").write_text("")
    with pytest.raises(AudiolibError, match=r"File exists|Not a directory"):
        write_json(tmp_path / "b" / "c", {})


def test_a_lock_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "l").mkdir()
    with pytest.raises(AudiolibError, match="Is a directory"), lock(tmp_path / "l"):
        pass


def test_weights_can_be_read_by_whoever_may_read_other_files(tmp_path):
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "weights") as temporary:
        save_file({"w": torch.zeros(1)}, temporary)
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_second_process_waits_and_says_so(tmp_path):
    told, order = threading.Event(), []

    def second() -> None:
        with lock(tmp_path / "l", told.set):
            order.append("second")

    with lock(tmp_path / "l", lambda: order.append("nobody has it")):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_state_and_relative_paths_belong_to_the_repository_that_started_a_temporary_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    assert scratch_folder(tmp_path) == tmp_path / ".scratch"
    assert user_path("x") == Path(__file__).resolve().parent.parent / "x"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "origin"))
    assert scratch_folder(tmp_path) == tmp_path / "origin/.scratch"
    assert user_path("../clips") == tmp_path / "clips" and user_path("/data") == Path("/data")


def test_a_fresh_folder_is_empty(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("")
    assert list(fresh_folder(tmp_path / "f").iterdir()) == []


def test_a_draw_hangs_on_its_key_and_not_on_what_ran_before():
    first = rng(1, "patch", 7).random(3)
    rng(1, "patch", 6).random(100)
    assert np.array_equal(first, rng(1, "patch", 7).random(3))
    others = [rng(2, "patch", 7), rng(1, "order", 7), rng(1, "patch", 8), rng(1, "patch")]
    assert all(not np.array_equal(first, other.random(3)) for other in others)


def test_a_program_ends_with_one_line_and_a_status(capsys):
    def mistaken() -> None:
        raise AudiolibError("the file x is missing")

    with pytest.raises(SystemExit) as caught:
        run_main(mistaken)
    assert caught.value.code == 1 and capsys.readouterr().err == "error: the file x is missing\n"
