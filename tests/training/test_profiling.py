"""The cost of a training, on models of one matrix. No test asserts how long anything takes."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.profiler import ProfileData

from chexseg_jax.data.mixture import shuffled
from chexseg_jax.data.pipeline import batches
from chexseg_jax.errors import InputError
from chexseg_jax.training.loop import fit
from chexseg_jax.training.profiling import (
    Profile,
    compute_dtype,
    flops_of,
    performance,
    utilisation,
)


@pytest.mark.parametrize(("text", "steps"), [("", None), ("10:15", (10, 15)), ("3:3", (3, 3))])
def test_trace_steps_are_first_and_last(text, steps):
    assert Profile.parse(text, False) == Profile(steps, False)


@pytest.mark.parametrize("text", ["10", "15:10", "0:3", "a:b", "1:2:3", "-1:2", ":", " 1:2"])
def test_other_trace_steps_are_refused(text):
    with pytest.raises(InputError, match=r"must be FIRST:LAST.* such as 10:15"):
        Profile.parse(text, True)


def train(directory, profile, *, steps=12):
    def loss(params, model_state, batch, keys):
        return jnp.mean((batch["x"] @ params["w"]) ** 2), (model_state, {})

    rows = [{"x": x} for x in np.random.default_rng(0).standard_normal((16, 3), np.float32)]
    return fit(
        "toy net",
        init=lambda key: ({"w": jax.random.normal(key, (3, 1))}, {}),
        loss=loss,
        optimizer=optax.sgd(0.1),
        batches=batches(shuffled(rows, seed=0), batch_size=8),
        batch_size=8,
        steps=steps,
        seed=0,
        directory=directory,
        checkpoint_every=5,
        profile=profile,
    )


def test_a_trace_and_the_hlo_are_written_and_change_no_number(tmp_path, capsys):
    state = train(tmp_path / "traced", Profile((3, 4), True))
    folder = tmp_path / "traced" / "profile"
    (planes,) = folder.glob("plugins/profile/*/*.xplane.pb")
    events = [e for p in ProfileData.from_file(str(planes)).planes for line in p.lines for e in line.events]
    assert [dict(e.stats)["step_num"] for e in events if e.name == "toy net"] == [3, 4]
    (trace,) = folder.glob("plugins/profile/*/perfetto_trace.json.gz")
    assert "toy net" in {
        event.get("name") for event in json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    }
    assert (folder / "step.hlo.txt").read_text().startswith("HloModule")
    assert "toy net: tracing steps 3 to 4" in capsys.readouterr().err

    assert np.array_equal(state.params["w"], train(tmp_path / "plain", Profile()).params["w"])
    lines = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("traced", "plain")]
    assert lines[0] == lines[1]
    assert not (tmp_path / "plain" / "profile").exists()


def test_every_training_records_its_cost(tmp_path, capsys):
    train(tmp_path, Profile())
    costs = json.loads((tmp_path / "performance.json").read_text())
    assert (costs["device"], costs["devices"], costs["dtype"]) == ("cpu", 2, "float32")
    assert costs["step_seconds"] > 0
    assert costs["images_per_second"] == pytest.approx(8 / costs["step_seconds"], rel=0.01)
    assert costs["flops_per_second"] == pytest.approx(
        costs["flops_per_step"] / costs["step_seconds"], rel=0.01
    )
    assert costs["flops_per_step"] > 2 * 8 * 3 * 2  # the product, forward and back
    assert costs["peak_memory_of"] == "process"  # a CPU's devices keep no count
    assert costs["peak_memory_bytes"] > 5e7
    assert costs["step_bytes"] > 8 * 3 * 4 / 2  # this device's half of the batch
    assert costs["utilisation"] is None
    assert performance(tmp_path)["device"] == "2 x cpu, float32"
    assert "toy net: device 2 x cpu, float32, step " in capsys.readouterr().err
    assert set(performance(tmp_path / "elsewhere").values()) == {"-"}


def test_trace_steps_beyond_the_training_are_reported(tmp_path, capsys):
    train(tmp_path, Profile((13, 20)))
    assert "toy net: no trace, steps 13 to 20 are not among the 12 to go" in capsys.readouterr().err
    assert not (tmp_path / "profile").exists()


def test_utilisation_of_a_product_by_hand():
    x, y = jnp.ones((64, 32), jnp.bfloat16), jnp.ones((32, 16), jnp.bfloat16)
    lowered = jax.jit(jnp.matmul).lower(x, y)
    assert flops_of(lowered) == 2 * 64 * 32 * 16
    assert compute_dtype(lowered) == "bfloat16"
    assert compute_dtype(jax.jit(jnp.matmul).lower(x.astype(jnp.float32), y.astype(jnp.float32))) == "float32"
    rate = 1e9 * flops_of(lowered)  # 65.5 TFLOP/s: one nanosecond per call
    assert utilisation(rate, "NVIDIA H100 80GB HBM3", "bfloat16") == pytest.approx(0.065536 / 0.9895)
    assert utilisation(rate, "NVIDIA A100-SXM4-80GB", "float32") == pytest.approx(0.065536 / 0.156)
    assert utilisation(rate, "TPU v5 lite", "bfloat16") == pytest.approx(0.065536 / 0.197)
    for unknown in ("cpu", "NVIDIA L40S", "NVIDIA GeForce RTX 4090", "NVIDIA H100 NVL"):
        assert utilisation(rate, unknown, "bfloat16") is None


def test_without_a_cost_analysis_there_are_no_flops(tmp_path, monkeypatch):
    monkeypatch.setattr(jax.stages.Lowered, "cost_analysis", lambda _: None)  # as on GPUs and TPUs
    train(tmp_path, Profile())
    costs = json.loads((tmp_path / "performance.json").read_text())
    assert costs["flops_per_step"] is costs["flops_per_second"] is costs["utilisation"] is None
    assert performance(tmp_path)["GFLOP/s"] == performance(tmp_path)["of peak"] == "-"
