"""Summarise a traced step: time per kind of operation, and the longest operations.

    python launch.py --config=... --config.profile.steps=10:15 --config.profile.hlo=True
    python benchmarks/trace_summary.py work/artifacts/ARTIFACT/profile

Times are summed over all threads or streams, so they may add up to more than the step. The HLO beside the trace maps an
operation to its line of our code.
"""

import argparse
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from jax.profiler import ProfileData

from chexseg_jax.errors import InputError, run_command
from chexseg_jax.report.tables import markdown

_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\(.*", re.MULTILINE)
#: Opcodes that only contain other operations, whose time would count twice.
_CONTAINERS = {"call", "while", "conditional"}


@dataclass(frozen=True)
class Operation:
    """An instruction of the optimised program: result shape, opcode, and path of Flax modules."""

    shape: str
    opcode: str
    path: str

    @property
    def kind(self) -> str:
        """The JAX primitive (for a fusion, its root's), with its pass."""
        primitive = self.path.rsplit("/", 1)[-1] or self.opcode
        return f"{primitive}, backward" if "transpose(" in self.path else primitive


@dataclass(frozen=True)
class Summary:
    """Seconds and number of runs of each operation, over all traced steps."""

    steps: int
    seconds: dict[str, float]
    runs: Counter[str]


def main() -> None:
    """Read the command line and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder `profile` of an artifact")
    parser.add_argument("--top", type=int, default=30, help="number of operations listed (30)")
    arguments = parser.parse_args()
    dump = arguments.folder / "step.hlo.txt"
    if not dump.exists():
        raise InputError(f"{dump}: not found; trace with --config.profile.hlo=True")
    text = dump.read_text()
    known = operations(text)
    summary = summarise(arguments.folder, module=re.match(r"HloModule ([\w.\-]+)", text)[1], known=known)
    per_step = {name: 1e3 * seconds / summary.steps for name, seconds in summary.seconds.items()}
    total = sum(per_step.values())
    kinds: dict[str, float] = defaultdict(float)
    for name, milliseconds in per_step.items():
        kinds[known[name].kind] += milliseconds
    print(f"{summary.steps} steps, {total:.1f} ms of operations a step\n")
    ranked = sorted(kinds.items(), key=lambda item: -item[1])[: arguments.top]
    print(
        "\n".join(
            markdown(["kind", "ms", "share"], [[k, f"{ms:.1f}", f"{ms / total:.1%}"] for k, ms in ranked])
        )
    )
    print()
    rows = [
        [
            name,
            f"{ms:.1f}",
            f"{summary.runs[name] / summary.steps:g}",
            known[name].shape[:40],
            known[name].path[-90:],
        ]
        for name, ms in sorted(per_step.items(), key=lambda item: -item[1])[: arguments.top]
    ]
    print("\n".join(markdown(["operation", "ms", "runs", "result", "from"], rows)))


def operations(text: str) -> dict[str, Operation]:
    """The instructions in an HLO dump, by name."""
    by_name = {}
    for match in _INSTRUCTION.finditer(text):
        path = re.search(r'op_name="([^"]*)"', match[0])
        by_name[match[1]] = Operation(match[2], match[3], path[1] if path else "")
    return by_name


def summarise(folder: Path, *, module: str, known: dict[str, Operation]) -> Summary:
    """Sum up the newest trace below `folder`.

    Args:
      folder: the argument of `jax.profiler.start_trace`.
      module: the program whose operations are counted.
      known: its operations.

    Raises:
      InputError: if there is no trace, or it has no step.
    """
    traces = sorted(folder.glob("plugins/profile/*/*.xplane.pb"))
    if not traces:
        raise InputError(f"{folder}: no trace (plugins/profile/*/*.xplane.pb) in it")
    seconds: dict[str, float] = defaultdict(float)
    runs: Counter[str] = Counter()
    steps = set()
    for plane in ProfileData.from_file(str(traces[-1])).planes:
        for line in plane.lines:
            for event in line.events:
                stats = dict(event.stats)
                if "step_num" in stats:
                    steps.add(stats["step_num"])
                name = stats.get("hlo_op")
                if (
                    stats.get("hlo_module") == module
                    and name in known
                    and known[name].opcode not in _CONTAINERS
                ):
                    seconds[name] += event.duration_ns / 1e9
                    runs[name] += 1
    if not steps or not seconds:
        raise InputError(f"{traces[-1]}: no step of {module} in it")
    return Summary(len(steps), dict(seconds), runs)


if __name__ == "__main__":
    run_command(main)
