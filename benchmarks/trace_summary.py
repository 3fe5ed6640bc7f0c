"""Where a traced step's time goes: per kind of operation, and the longest operations.

    python launch.py --config=... --config.profile.steps=10:15 --config.profile.hlo=True
    python benchmarks/trace_summary.py work/artifacts/ARTIFACT/profile

Times are of operations as XLA ran them, on all threads or streams together, so they may add up to more than the step.
What an operation is called in our code comes from the HLO beside the trace.
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
#: Their time is that of the operations inside.
_CONTAINERS = {"call", "while", "conditional"}


@dataclass(frozen=True)
class Operation:
    """An instruction of the optimised program: what it gives, its opcode, and the path of the line that it is from."""

    shape: str
    opcode: str
    path: str

    @property
    def kind(self) -> str:
        """The JAX primitive (of a fusion, that of its root), with the pass that it belongs to."""
        primitive = self.path.rsplit("/", 1)[-1] or self.opcode
        return f"{primitive}, backward" if "transpose(" in self.path else primitive


@dataclass(frozen=True)
class Summary:
    """Seconds of each operation over all traced steps, and how often it ran."""

    steps: int
    seconds: dict[str, float]
    runs: Counter[str]


def main() -> None:
    """Reads the command line and prints two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="the folder `profile` of an artifact")
    parser.add_argument("--top", type=int, default=30, help="operations shown (30)")
    arguments = parser.parse_args()
    dump = arguments.folder / "step.hlo.txt"
    if not dump.exists():
        raise InputError(f"{dump}: no such file; trace with --config.profile.hlo=True")
    text = dump.read_text()
    known = operations(text)
    found = summarise(arguments.folder, module=re.match(r"HloModule ([\w.\-]+)", text)[1], known=known)
    per_step = {name: 1e3 * seconds / found.steps for name, seconds in found.seconds.items()}
    total = sum(per_step.values())
    kinds: dict[str, float] = defaultdict(float)
    for name, milliseconds in per_step.items():
        kinds[known[name].kind] += milliseconds
    print(f"{found.steps} steps, {total:.1f} ms of operations a step\n")
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
            f"{found.runs[name] / found.steps:g}",
            known[name].shape[:40],
            known[name].path[-90:],
        ]
        for name, ms in sorted(per_step.items(), key=lambda item: -item[1])[: arguments.top]
    ]
    print("\n".join(markdown(["operation", "ms", "runs", "result", "from"], rows)))


def operations(text: str) -> dict[str, Operation]:
    """The instructions in an HLO dump, by name."""
    found = {}
    for match in _INSTRUCTION.finditer(text):
        path = re.search(r'op_name="([^"]*)"', match[0])
        found[match[1]] = Operation(match[2], match[3], path[1] if path else "")
    return found


def summarise(folder: Path, *, module: str, known: dict[str, Operation]) -> Summary:
    """Adds up the newest trace below `folder`.

    Args:
      folder: given to `jax.profiler.start_trace`.
      module: the program whose operations are counted.
      known: its operations.

    Raises:
      InputError: where there is no trace, or none of a step.
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
