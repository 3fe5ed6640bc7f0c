import jax
import jax.numpy as jnp
import pytest

from benchmarks.trace_summary import operations, summarise
from chexseg_jax.errors import InputError

DUMP = """HloModule jit_step, is_scheduled=true

ENTRY %main (a: f32[8,4]) -> (f32[8], f32[]) {
  %a = f32[8,4]{1,0} parameter(0), metadata={op_name="a"}
  %both.1 = (f32[8]{0}, f32[]) fusion(%a), kind=kLoop, metadata={op_name="jit(step)/transpose(jvp(net))/reduce_sum"}
  ROOT %conv = f32[8]{0:T(128)} custom-call(%both.1), custom_call_target="__cudnn$conv"
}
"""


def test_operations_of_a_dump():
    found = operations(DUMP)
    assert list(found) == ["a", "both.1", "conv"]
    assert (found["both.1"].shape, found["both.1"].opcode) == ("(f32[8]{0}, f32[])", "fusion")
    assert found["both.1"].kind == "reduce_sum, backward"
    assert found["conv"].kind == "custom-call"


def test_a_trace_is_added_up(tmp_path):
    @jax.jit
    def step(x, y):
        return jnp.sin(x @ y).sum()

    x, y = jnp.ones((256, 256)), jnp.ones((256, 256))
    compiled = step.lower(x, y).compile()
    jax.profiler.start_trace(tmp_path)
    for number in (7, 8, 9):
        with jax.profiler.StepTraceAnnotation("training", step_num=number):
            jax.block_until_ready(compiled(x, y))
    jax.profiler.stop_trace()
    known = operations(compiled.as_text())
    found = summarise(tmp_path, module="jit_step", known=known)
    assert found.steps == 3
    assert set(found.seconds) <= set(known)
    (product,) = [name for name in found.seconds if known[name].path.endswith("dot_general")]
    assert found.runs[product] == 3
    assert found.seconds[product] > 0
    with pytest.raises(InputError, match="no step of jit_other in it"):
        summarise(tmp_path, module="jit_other", known=known)
    with pytest.raises(InputError, match="no trace"):
        summarise(tmp_path / "plugins", module="jit_step", known=known)
