"""Steps in parts, averaged weights, checkpoints of other runs: what may be added to a training."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from audiolib import precision
from audiolib.averaging import Average
from audiolib.config.training import Averaging
from audiolib.errors import AudiolibError
from audiolib.files import read_sealed, write_sealed
from audiolib.finish import HISTORY, write_history
from audiolib.job import fingerprint
from audiolib.launch import scaled
from audiolib.order import epoch_order
from audiolib.train import Trainer, fit
from tests.recipes import job, phase, recipe
from tests.test_resume import ELASTIC, EQUAL, TWO_PHASES, Killed, fit_killed_before, same, weights


@pytest.mark.parametrize("settings", [EQUAL, ELASTIC])
def test_a_step_in_parts_ends_where_a_whole_one_does(small_features, tmp_path, settings):
    """The same clips a step: only the order in which gradients are added differs."""
    for parts in (1, 3):
        fit(job(small_features, tmp_path / str(parts), accumulate=parts, **settings))
    one, three = (weights(tmp_path / str(parts) / "out" / "last") for parts in (1, 3))
    assert max(float((one[name] - three[name]).abs().max()) for name in one) < 2e-3
    assert not same(one, three)


def test_an_exponential_average_is_what_a_loop_over_the_weights_gives():
    random = torch.Generator().manual_seed(0)
    model, average, wanted = torch.nn.Linear(3, 2), Average(Averaging(ema=0.9)), None
    for count in range(40):
        model.weight.data = torch.randn(2, 3, generator=random)
        average.after_step(model)
        average.after_epoch(model, 0)
        decay = min(0.9, (1 + count) / (10 + count))
        wanted = model.weight.data if wanted is None else decay * wanted + (1 - decay) * model.weight.data
    torch.testing.assert_close(average.weights["weight"], wanted)
    own = model.weight.data.clone()
    with average.shown(model):
        torch.testing.assert_close(model.weight.data, wanted)
    assert torch.equal(model.weight.data, own)


def test_the_mean_of_the_last_epochs_is_what_is_kept(small_features, tmp_path, monkeypatch):
    seen = []
    real = Average.after_epoch

    def noted(self, model, left):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        real(self, model, left)

    monkeypatch.setattr(Average, "after_epoch", noted)
    scores = iter([0.9, 0.5, 0.7, 0.6])
    monkeypatch.setattr(Trainer, "validate", lambda self, phase: next(scores))
    plan = recipe(phases=[phase(epochs=4)], averaging={"last_epochs": 2})
    fit(job(small_features, tmp_path, recipe=plan))
    assert len(seen) == 4, "and neither an epoch before them nor one of them alone is chosen, whatever it scored"
    mean = {name: (seen[-1][name] + seen[-2][name]) / 2 for name in seen[0]}
    kept = {**weights(tmp_path / "out")}
    assert all(torch.allclose(kept[name], mean[name], atol=1e-6) for name in kept)
    last = weights(tmp_path / "out" / "last")
    assert same(last, seen[-1])


@pytest.mark.parametrize("averaging", [{"ema": 0.8}, {"last_epochs": 3}])
def test_averages_survive_a_kill(small_features, tmp_path, monkeypatch, averaging):
    plan = {"recipe": recipe(phases=TWO_PHASES, averaging=averaging), "accumulate": 2}
    fit(job(small_features, tmp_path / "whole", **plan))
    fit_killed_before(20, monkeypatch, cut := job(small_features, tmp_path / "cut", **plan))
    fit(cut)
    assert same(weights(tmp_path / "whole/out"), weights(tmp_path / "cut/out"))


def test_a_finished_run_leaves_no_checkpoint_and_an_unfinished_one_says_what_differs(
    small_features, tmp_path, monkeypatch, capfd
):
    real = Trainer._finish_epoch

    def dies(self, *rest):
        real(self, *rest)
        raise Killed

    monkeypatch.setattr(Trainer, "_finish_epoch", dies)
    with pytest.raises(Killed):
        fit(job(small_features, tmp_path))
    monkeypatch.setattr(Trainer, "_finish_epoch", real)
    fit(job(small_features, tmp_path, seed=2, recipe=recipe(batch_size=8)))
    assert "the unfinished run that is kept differs in: recipe, seed" in capfd.readouterr().err
    assert len(list(tmp_path.glob("scratch/checkpoints/*/*/*.json"))) == 1
    shutil.copytree(small_features, tmp_path / "moved")
    write_sealed(tmp_path / "moved/stats.json", {**read_sealed(tmp_path / "moved/stats.json"), "mean": -4.0})
    monkeypatch.setattr(Trainer, "_finish_epoch", dies)
    with pytest.raises(Killed):  # Other constants make another training of the same shards.
        fit(job(tmp_path / "moved", tmp_path))
    assert "differs in: normalisation" in capfd.readouterr().err
    monkeypatch.setattr(Trainer, "_finish_epoch", real)
    fit(job(tmp_path / "moved", tmp_path))
    capfd.readouterr()
    fit(job(small_features, tmp_path))
    assert "continuing after step 6" in capfd.readouterr().err
    assert not list(tmp_path.glob("scratch/checkpoints/*/*"))


def test_settings_that_cannot_be_are_one_line(small_features, tmp_path):
    with pytest.raises(AudiolibError, match="batch_size 16 cannot be shared by 1 workers in 20 parts"):
        fit(job(small_features, tmp_path, accumulate=20))
    with pytest.raises(AudiolibError, match=r"train\.compile needs steps of clips of one length"):
        fit(job(small_features, tmp_path, compile=True, **ELASTIC))


@pytest.mark.slow
def test_a_compiled_training_ends_where_a_plain_one_does(small_features, tmp_path):
    plan = {"recipe": recipe(phases=[phase(epochs=3)], patch_sizes=[16], valid_patch_sizes=[16])}
    losses = []
    fit(job(small_features, tmp_path / "plain", **plan), lambda row: losses.append(row["train_loss"]))
    fit(job(small_features, tmp_path / "compiled", compile=True, **plan), lambda row: losses.append(row["train_loss"]))
    assert losses[3:] == pytest.approx(losses[:3], rel=1e-3)
    one, two = (weights(tmp_path / name / "out" / "last") for name in ("plain", "compiled"))
    assert one.keys() == two.keys() and not same(one, two), "it was compiled: sums are in another order"


def test_auto_is_bfloat16_where_the_hardware_has_it_and_imitation_is_told(monkeypatch, capsys):
    cpu = torch.device("cpu")
    for has, auto in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(precision, "cpu_has_bf16", lambda has=has: has)
        assert [precision.settle(asked, cpu) for asked in ("auto", "float32")] == [auto, "float32"]
        assert capsys.readouterr().err == ""
        assert precision.settle("bfloat16", cpu) == "bfloat16"
        assert ("set precision to float32" in capsys.readouterr().err) is not has


@pytest.mark.parametrize("name, has", [("avx512_bf16", True), ("amx_bf16", True), ("bf16", True), ("avx512_f", False)])
def test_avx512_alone_is_no_bfloat16(monkeypatch, name, has):
    """oneDNN takes it there, and imitates it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {name: True})
    assert precision.cpu_has_bf16() is has
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not precision.cpu_has_bf16()


@pytest.mark.parametrize("first, then, goes_on", [(False, True, True), (True, True, True), (True, False, False)])
def test_an_unfinished_training_says_what_auto_means(
    small_features, tmp_path, monkeypatch, capsys, first, then, goes_on
):
    """Taken up on other hardware it goes on in float32; in bfloat16 only where the hardware has it."""
    plan = job(small_features, tmp_path, precision="auto")
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: first)
    fit_killed_before(4, monkeypatch, plan)
    capsys.readouterr()
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: then)
    fit(plan)
    told = capsys.readouterr().err
    assert ("continuing after step 4" in told) is goes_on
    assert f"{'bfloat16' if first and then else 'float32'} on cpu" in told
    assert goes_on or "starts anew; the unfinished run that is kept differs in: precision" in told


def test_all_patch_sizes_of_a_recipe_are_compiled(small_features, tmp_path, monkeypatch):
    """torch compiles a function for eight shapes, and runs the others as they are."""
    from torch._dynamo.utils import counters

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: real(model, backend="eager"))
    torch._dynamo.reset()
    counters.clear()
    sizes = [8, 10, 12, 14, 16, 18, 20, 22, 24, 26]
    plan = recipe(phases=[phase(epochs=10)], patch_sizes=sizes, valid_patch_sizes=[16])
    fit(job(small_features, tmp_path, compile=True, recipe=plan))
    assert counters["frames"]["total"] == counters["frames"]["ok"] > len(sizes)


def test_the_second_stage_draws_anew(small_features, tmp_path):
    """Else its epochs would be those of the first once more: the same cuts, masks and partners."""
    stages = [Trainer(job(small_features, tmp_path, stage=stage), None).planner for stage in ("pretrain", "finetune")]
    assert stages[1].seed == 1, "what studies keep was drawn so"
    order = [epoch_order(planner.clips, planner.seed, 0).clips for planner in stages]
    assert sorted(order[0]) == sorted(order[1]) and not np.array_equal(*order)


def test_a_resumed_history_has_the_columns_of_one_that_was_not(tmp_path):
    row = dict.fromkeys(HISTORY, 1.0)
    write_history(tmp_path / "whole.csv", [row])
    write_history(tmp_path / "resumed.csv", [dict(sorted(row.items()))])
    assert (tmp_path / "whole.csv").read_text() == (tmp_path / "resumed.csv").read_text()


def test_a_training_in_bfloat16_is_not_continued_in_float32(small_features, tmp_path, monkeypatch):
    """`auto` means one here and the other there."""
    plan = job(small_features, tmp_path, precision="auto", device="auto")
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert fingerprint(plan, None) == fingerprint(job(small_features, tmp_path, precision="bfloat16"), None)
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    here = fingerprint(plan, None)
    assert here == fingerprint(job(small_features, tmp_path, precision="float32"), None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: not including_emulation)
    assert fingerprint(plan, None) != here
    assert fingerprint(replace(plan, settings=plan.settings.model_copy(update={"device": "cpu"})), None) == here


def test_more_epochs_are_more_epochs_to_average():
    longer = scaled(recipe(phases=[phase(epochs=4)], averaging={"last_epochs": 2}), 3)
    assert (longer.phases[0].epochs, longer.averaging.last_epochs) == (12, 6)
