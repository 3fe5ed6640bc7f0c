import numpy as np
import pytest

from chexseg_jax.data.prepared import Examples
from chexseg_jax.training.inference import make_inference, map_batches

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 4, 4), dtype=np.uint8)


def brightness(variables, batch):
    return {"mean": batch["image"].astype("float32").mean((1, 2)) * variables["gain"]}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_results_are_in_order_and_without_padding_for_any_batch_size(batch_size):
    parts = list(map_batches(brightness, {"gain": 2.0}, Examples(image=IMAGES), batch_size=batch_size))
    np.testing.assert_allclose(np.concatenate([p["mean"] for p in parts]), 2 * IMAGES.mean((1, 2)), rtol=1e-5)


def test_a_smaller_set_uses_the_same_program():
    infer = make_inference(brightness)
    for few in (7, 3, 1):
        list(map_batches(infer, {"gain": 1.0}, Examples(image=IMAGES[:few]), batch_size=4))
    assert infer._cache_size() == 1


def test_a_jitted_function_is_not_compiled_again(capsys):
    infer = make_inference(brightness)
    list(map_batches(infer, {"gain": 1.0}, Examples(image=IMAGES), batch_size=4, what="measuring"))
    list(map_batches(infer, {"gain": 3.0}, Examples(image=IMAGES), batch_size=4))
    assert infer._cache_size() == 1
    assert "measuring: 7/7" in capsys.readouterr().err
