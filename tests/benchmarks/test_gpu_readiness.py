import importlib
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks.hlo import Program, size
from chexseg_jax.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXT = """HloModule jit_step, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (2, {}, may-alias) }

%inside (p: f32[16,64], i: s32[]) -> f32[1,64] {
  %p = f32[16,64]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %twice = f32[16,64]{1,0} add(%p, %p)
  ROOT %row = f32[1,64]{1,0} dynamic-slice(%twice, %i, %i), dynamic_slice_sizes={1,64}
}

%body (t: (f32[16,64], s32[])) -> (f32[16,64], s32[]) {
  %t = (f32[16,64]{1,0}, s32[]) parameter(0)
  %x = f32[16,64]{1,0} get-tuple-element(%t), index=0
  %n = s32[] get-tuple-element(%t), index=1
  %row.1 = f32[1,64]{1,0} fusion(%x, %n), kind=kLoop, calls=%inside
  ROOT %out = (f32[16,64]{1,0}, s32[]) tuple(%x, %n)
}

ENTRY %main (a: f32[2,20,20,8], k: f32[16,3,3,8], s: (f32[16,64], s32[])) -> f32[2,20,20,16] {
  %a = f32[2,20,20,8]{3,2,1,0} parameter(0)
  %k = f32[16,3,3,8]{3,2,1,0} parameter(1)
  %s = (f32[16,64]{1,0}, s32[]) parameter(2)
  %turn = (f32[16,64]{1,0}, s32[]) while(%s), condition=%until, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %conv = (f32[2,20,20,16]{3,2,1,0}, u8[4096]{0}) custom-call(%a, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(step)/net/conv"}
  %y = f32[2,20,20,16]{3,2,1,0} get-tuple-element(%conv), index=0
  ROOT %sum = f32[2,20,20,16]{3,2,1,0} all-reduce(%y), to_apply=%add
}
"""  # noqa: E501


@pytest.fixture
def readiness(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_readiness")


def test_launches_bytes_and_operations_of_a_program():
    kernels = {kernel.instruction.name: kernel for kernel in Program(TEXT).kernels}
    assert {name: kernel.runs for name, kernel in kernels.items()} == {"row.1": 5, "conv": 1, "sum": 1}
    assert kernels["row.1"].bytes == 4 * (64 + 1 + 64)  # of a row, not of the map
    maps, weights = 4 * 2 * 20 * 20, 4 * 9 * 8 * 16
    assert kernels["conv"].bytes == maps * (8 + 16) + weights  # without its workspace
    assert kernels["conv"].flops == 2 * 2 * 20 * 20 * 9 * 8 * 16
    assert [name for name, kernel in kernels.items() if kernel.collective] == ["sum"]


def test_sizes_of_shapes():
    assert size("(bf16[2,3]{1,0}, pred[4], f32[], s4[6]{0:T(128)}, token[])") == 12 + 4 + 4 + 3


def test_a_sound_program_has_no_fault(readiness):
    assert readiness.faults_of(Program(TEXT), 2, {"kernels": 7, "collectives": 1}) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (
            "f32[2,20,20,8]{3,2,1,0} parameter(0)",
            "f64[2,20,20,8]{3,2,1,0} parameter(0)",
            r"float64: f64\[2,20,20,8\]",
        ),
        ("__cudnn$convForward", "xla_ffi_python_gpu_callback", "conv calls the host"),
        (', backend_config={"known_trip_count":{"n":"5"}}', "", "turn has no known end"),
        (", {1}: (2, {}, may-alias)", "", "reuses the memory of 1 of 2 arrays of state"),
        ("size=3x3", "size=10x3", r"conv has a window of 10x3 \(jit\(step\)/net/conv\)"),
        ('"n":"5"', '"n":"6"', "8 kernels, and 7 are allowed"),
        (
            "ROOT %sum = f32[2,20,20,16]{3,2,1,0} all-reduce(%y)",
            "%b = f32[8]{0} all-gather(%y)\n  ROOT %sum = f32[2,20,20,16]{3,2,1,0} all-reduce(%b)",
            "2 collectives, and 1 are allowed",
        ),
        ("add(%p, %p)", "all-reduce(%p), to_apply=%add", "6 collectives, and 1 are allowed"),  # in a fusion
    ],
)
def test_every_regression_is_named(readiness, old, new, fault):
    assert old in TEXT
    faults = readiness.faults_of(Program(TEXT.replace(old, new)), 2, {"kernels": 7, "collectives": 1})
    assert any(re.match(fault, one) for one in faults), faults


def test_only_depthwise_kernel_gradients_may_have_large_windows(readiness):
    def faults(path):
        text = TEXT.replace("size=3x3 pad=1_1x1_1", "size=20x20 stride=24x24 pad=24_24x24_24").replace(
            "net", path
        )
        return readiness.faults_of(Program(text), 2, {})

    gradient = "transpose(jvp(Segmenter))/Segmenter.features"
    assert not faults(f"{gradient}/decoder/aspp_0/convs_2_0_0")
    assert faults("jvp(Segmenter)/Segmenter.features/decoder/aspp_0/convs_2_0_0")  # forward: 3x3, dilated
    assert faults(f"{gradient}/encoder.stages/layer4_1/conv2")


def test_a_description_of_a_gpu(readiness, tmp_path):
    gpu = readiness.Gpu.load("rtx2070")
    assert (gpu.kind, gpu.bandwidth, round(gpu.vector / 1e12, 2)) == ("NVIDIA GeForce RTX 2070", 448e9, 7.46)
    with pytest.raises(InputError, match=r"--gpu gtx9: must be a file or one of a100_40, gtx1070, h100_sxm"):
        readiness.Gpu.load("gtx9")
    (tmp_path / "mine.txtpb").write_text("memory_bandwidth: 1")
    with pytest.raises(
        InputError, match="has no device_memory_size, clock_rate_ghz, core_count, fpus_per_core, device_desc"
    ):
        readiness.Gpu.load(str(tmp_path / "mine.txtpb"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--programs", "walk,run"], "--programs run: must be of deeplab"),
        (["--devices", "0"], "--devices 0 must be at least 1, and --batch 0 at least 0"),
    ],
)
def test_bad_flags_are_one_line(flags, message):
    ran = command(*flags)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert message in ran.stderr.strip().splitlines()[-1]


needs_plugin = pytest.mark.skipif(
    find_spec("jax_cuda13_plugin") is None, reason="compiling for a GPU needs the extra gpu-check"
)


@needs_plugin
def test_a_batch_that_does_not_divide_is_one_line():
    ran = command("--devices", "3", "--programs", "walk")
    assert ran.returncode == 2
    assert (
        ran.stderr.strip()
        .splitlines()[-1]
        .endswith("batch size 16 does not divide over 3 devices; use a multiple, or fewer devices")
    )


@needs_plugin
def test_the_cheap_programs_are_ready_for_a_gpu():
    ran = command("--gpu", "h100_sxm", "--programs", "walk,inference")
    assert ran.returncode == 0, ran.stderr
    rows = [line.split(" | ") for line in ran.stdout.splitlines()[4:]]
    assert [row[0] for row in rows] == ["| walk", "| inference"]
    assert all(float(row[1]) > 0 and int(row[2]) > 0 for row in rows)


def command(*flags):
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu_readiness.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
    )
