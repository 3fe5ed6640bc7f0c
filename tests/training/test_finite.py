"""Losses and updates that are not finite: named, skipped on request, never saved."""

import json

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.test_loop import Points, init, same, train

from chexseg_jax.data.pipeline import batches
from chexseg_jax.errors import InputError


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(InputError, match="lower the learning rate"):
        train(tmp_path, 40, optimizer=optax.sgd(1e30))


class Named(Points):
    """40 points with names, one of them not a number."""

    def __init__(self):
        super().__init__(40)

    def __getitem__(self, row):
        x = self.x[row] * (np.nan if row == 13 else 1)
        return {"x": x, "y": self.y[row], "id": np.array(f"image{row}")}


def in_order():
    """Row 13 is of steps 2, 7 and 12."""
    return batches(grain.MapDataset.source(Named()).repeat(), batch_size=8)


def test_a_loss_that_is_not_finite_names_its_step_its_images_and_the_checkpoint_before(tmp_path):
    with pytest.raises(InputError) as error:
        train(tmp_path / "a", 12, batch_stream=in_order(), checkpoint_every=1)
    assert "the loss is nan at step 2 on the images image8, " in str(error.value)
    assert ", image15; " in str(error.value)
    assert str(error.value).endswith("and rerun the command, which resumes from the checkpoint of step 1")
    with pytest.raises(InputError, match=r"at step 2 on the images image8, .*, and rerun the command$"):
        train(tmp_path / "b", 12, batch_stream=in_order(), checkpoint_every=12)  # seen at the log of step 10


def test_steps_that_are_not_finite_are_skipped_on_request(tmp_path, capsys):
    state = train(tmp_path / "a", 11, batch_stream=in_order(), skip_steps=2)
    assert int(state.step) == 11
    assert float(state.model_state["batch_stats"]["count"]) == 9 * 8
    assert np.isfinite(state.params["w"]).all()
    assert int(state.opt_state[0].count) == 9
    told = capsys.readouterr().err
    assert "the loss is nan at step 7 on the images image8, " in told
    assert "skipped, 2 of at most 2" in told
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["skipped"]) for line in lines if "skipped" in line] == [(2, 1), (7, 2)]
    with pytest.raises(InputError, match="the loss is nan at step 7 on the images image8, "):
        train(tmp_path / "b", 11, batch_stream=in_order(), skip_steps=1)


def test_a_guarded_training_without_such_steps_is_the_same(tmp_path):
    assert same(train(tmp_path / "a", 12), train(tmp_path / "b", 12, skip_steps=3))


def root_loss(params, model_state, batch, keys):
    """Finite, with a gradient that is not: the square root's at 0."""
    return jnp.sqrt(jnp.sum(params["w"] * 0)), (model_state, {"noise": 0.0})


def test_variables_that_are_not_finite_are_never_saved(tmp_path):
    with pytest.raises(InputError, match=r"toy: \['params'\]\['w'\] is not finite after step 1;"):
        train(tmp_path, 3, loss=root_loss, checkpoint_every=1)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]


def test_an_update_that_is_not_finite_is_skipped_on_request(tmp_path, capsys):
    state = train(tmp_path, 3, loss=root_loss, skip_steps=3)
    np.testing.assert_array_equal(state.params["w"], init(jax.random.split(jax.random.key(0))[0])[0]["w"])
    assert "toy: the update is not finite at step 3; skipped, 3 of at most 3" in capsys.readouterr().err
