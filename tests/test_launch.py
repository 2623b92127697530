"""Several workers: the same numbers as one, through Ray."""

import pytest

from audiolib.errors import AudiolibError
from audiolib.launch import run
from tests.recipes import TINY, job, packed_recipe, phase, recipe
from tests.test_train import weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def stop_ray():
    yield
    import ray

    ray.shutdown()


@pytest.mark.parametrize("name, make", [("flexi_nano", recipe), ("elastic_nano", packed_recipe)])
def test_two_ray_workers_end_where_one_process_does(small_features, tmp_path, name, make):
    """The same clips a step: only the order in which gradients are added differs."""
    plan = {
        "recipe": make(phases=[phase(2, "avg_pool", epochs=1), phase(epochs=1)]),
        "architecture": {**TINY, "name": name},
    }
    run(job(small_features, tmp_path / "one", **plan))
    run(job(small_features, tmp_path / "two", num_workers=2, **plan))
    one, two = (weights(tmp_path / name / "out" / "last") for name in ("one", "two"))
    worst = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert 0 <= worst < 2e-3, worst
    assert (tmp_path / "two/out/history.csv").read_text().count("\n") == 3


def test_a_mistake_in_a_worker_is_one_line(small_features, tmp_path):
    with pytest.raises(AudiolibError, match="batch_size 1 cannot be shared by 2 workers in 1 parts") as caught:
        run(job(small_features, tmp_path, recipe=recipe(batch_size=1), num_workers=2))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_no_number_is_not_retried_for_ever(small_features, tmp_path):
    with pytest.raises(AudiolibError, match="the loss became nan"):
        run(job(small_features, tmp_path, recipe=recipe(phases=[phase(lr=1e30)]), num_workers=2))
