"""Read a GPU program in XLA's text form: its kernels, the bytes that they move, and their floating-point operations."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

#: Instructions without a kernel: they name memory, or wait for a kernel that another instruction has started.
_FREE = re.compile(
    r"parameter|constant|bitcast|tuple|get-tuple-element|after-all|opt-barrier|partition-id|replica-id|.*-done|.*-update"
)
_COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)(-start)?"
)
_SLICES = {"slice", "dynamic-slice", "gather"}
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = ")


@dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
      name: unique within the program.
      shape: of the result, such as `f32[8,4]{1,0}`, or several in parentheses.
      opcode: such as `fusion`.
      operands: names of instructions; the number, for a parameter.
      attributes: the rest of the line.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def attribute(self, pattern: str) -> str:
        """The first group of a pattern in the attributes; "" if there is no match."""
        match = re.search(pattern, self.attributes)
        return match[1] if match else ""

    @property
    def path(self) -> str:
        """The path of Flax modules and the JAX primitive that it comes from."""
        return self.attribute(r'op_name="([^"]*)"')

    @property
    def target(self) -> str:
        """The library function of a custom call."""
        return self.attribute(r'custom_call_target="([^"]*)"')

    @property
    def window(self) -> tuple[int, ...]:
        """The window of a convolution, one number per spatial axis."""
        size = self.attribute(r"window=\{size=([\dx]+)") if "dim_labels=" in self.attributes else ""
        return tuple(map(int, size.split("x"))) if size else ()


@dataclass(frozen=True)
class Kernel:
    """A launch on the device.

    Attributes:
      instruction: the line.
      runs: how often a call of the program launches it.
      bytes: read and written in one run, each operand and result once; of a sliced operand, only the slice.
      flops: of the matrix products and convolutions of one run; other arithmetic is not counted.
      narrow: whether these are of 16-bit numbers.
      collective: whether devices exchange data in it.
    """

    instruction: Instruction
    runs: int
    bytes: float
    flops: float
    narrow: bool
    collective: bool


class Program:
    """A compiled program, from `compiled.as_text()`."""

    def __init__(self, text: str):
        self.text = text
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.roots: dict[str, Instruction] = {}
        self.unbounded: list[Instruction] = []
        current = self.entry = ""
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = header[2]
                self.computations[current] = {}
                self.entry = current if header[1] else self.entry
            elif current and (start := _START.match(line)):
                instruction = _parse(start[2], line[start.end() :])
                self.computations[current][instruction.name] = instruction
                if start[1]:
                    self.roots[current] = instruction

    @cached_property
    def kernels(self) -> list[Kernel]:
        """All launches of a call; a loop's count as often as it turns (once, if XLA does not know how often)."""
        return list(self._kernels(self.entry, 1))

    def donated(self) -> int:
        """Number of arguments whose memory holds a result."""
        header = self.text.split("\n", 1)[0]
        return len(set(re.findall(r"\{[\d, ]*\}: \((\d+),", header)))

    def _kernels(self, computation: str, runs: int) -> Iterator[Kernel]:
        for instruction in self.computations[computation].values():
            if instruction.opcode == "while":
                turns = instruction.attribute(r'"known_trip_count":\{"n":"(\d+)"')
                if not turns:
                    self.unbounded.append(instruction)
                yield from self._kernels(instruction.attribute(r"body=%?([\w.\-]+)"), runs * int(turns or 1))
            elif instruction.opcode == "call":
                yield from self._kernels(instruction.attribute(r"to_apply=%?([\w.\-]+)"), runs)
            elif instruction.opcode == "conditional":
                names = re.findall(r"%([\w.\-]+)", instruction.attribute(r"(?:_computation.*?=)(.*)"))
                branches = [list(self._kernels(name, runs)) for name in names if name in self.computations]
                yield from max(branches, key=len, default=[])
            elif not _FREE.fullmatch(instruction.opcode):
                flops, narrow = self._flops(instruction, self.computations[computation])
                traffic, exchanges = self._traffic(instruction, computation), self._exchanges(instruction)
                yield Kernel(instruction, runs, traffic, flops, narrow, exchanges)

    def _exchanges(self, instruction: Instruction) -> bool:
        """Whether an instruction is a collective or, as XLA makes of small sums, a fusion around one."""
        called = self.computations.get(instruction.attribute(r"calls=%?([\w.\-]+)"), {})
        some = (instruction, *called.values())
        return any(_COLLECTIVE.fullmatch(one.opcode) for one in some)

    def _traffic(self, instruction: Instruction, computation: str) -> float:
        shapes = [self.computations[computation][name].shape for name in instruction.operands]
        if called := instruction.attribute(r"calls=%?([\w.\-]+)"):
            inside = self.computations[called]
            read = _read(inside, self.roots[called])
            return read + _written(inside, self.roots[called])
        if instruction.opcode in _SLICES:
            return 2 * size(instruction.shape)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * size(shapes[1])
        # A library call also returns its workspace.
        result = (
            _shapes(instruction.shape)[0][0] if instruction.opcode == "custom-call" else instruction.shape
        )
        return size(result) + sum(map(size, shapes))

    def _flops(self, instruction: Instruction, scope: dict[str, Instruction]) -> tuple[float, bool]:
        """Of one run of an instruction, with all that it contains; and whether in 16 bits."""
        if called := instruction.attribute(r"calls=%?([\w.\-]+)"):
            inside = self.computations[called]
            parts = [self._flops(i, inside) for i in inside.values()]
            return sum(flops for flops, _ in parts), any(narrow for flops, narrow in parts if flops)
        product = instruction.opcode == "dot" or re.search("gemm|matmul", instruction.target)
        if not instruction.window and not product:
            return 0, False
        shapes = [_shapes(scope[name].shape)[0] for name in instruction.operands]
        result = _shapes(instruction.shape)[0]
        if instruction.window:
            output, kernel = result, shapes[1]
            if "BackwardFilter" in instruction.target:
                output, kernel = shapes[1], result
            elif "BackwardInput" in instruction.target:
                output = shapes[0]
            label = instruction.attribute(r"dim_labels=\w+_(\w+)->")
            flops = 2 * math.prod(output[2]) * math.prod(kernel[2]) / kernel[2][label.index("o")]
        else:
            found = instruction.attribute(r'lhs_contracting_dim\w*"?[=:][\[{]([\d,"]*)')
            depth = math.prod(shapes[0][2][int(axis)] for axis in re.findall(r"\d+", found))
            flops = 2 * math.prod(result[2]) * depth
        return flops, shapes[0][1] in ("bf16", "f16")


def size(shape: str) -> float:
    """Bytes of an array, or of all arrays in a tuple."""
    return sum(_width(dtype) * math.prod(sides) for _, dtype, sides in _shapes(shape))


def _width(dtype: str) -> float:
    bits = re.search(r"\d+", dtype)
    return int(bits[0]) / 8 if bits else float(dtype == "pred")


def _shapes(shape: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """(text, dtype, sides) of each array in a shape."""
    return [
        (match[0], match[1], tuple(int(side) for side in match[2].split(",") if side))
        for match in re.finditer(r"(\w+)\[([\d,]*)\]", shape)
    ]


def _parse(name: str, rest: str) -> Instruction:
    """An instruction from the line after `NAME = `."""
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inner = rest[opening + 1 : closing]
    operands = (inner,) if rest[:opening] == "parameter" else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(name, shape, rest[:opening], operands, rest[closing + 1 :])


def _closing(text: str, opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`."""
    depth = 0
    for index in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[index], 0)
        if not depth:
            return index
    raise ValueError(f"unbalanced: {text}")


def _read(computation: dict[str, Instruction], root: Instruction) -> float:
    """Bytes of a fusion's parameters that its result depends on.

    Slices of one value are taken to be of different parts of it, and all other users of a value to need the same part.
    """
    sliced, needed = dict.fromkeys(computation, 0.0), dict.fromkeys(computation, 0.0)
    needed[root.name] = size(root.shape)
    total = 0.0
    for instruction in reversed(computation.values()):  # users before what they use
        whole = size(instruction.shape)
        read = needed[instruction.name] + sliced[instruction.name]
        share = min(1.0, read / whole) if whole else 0.0
        if instruction.opcode == "parameter":
            total += share * whole
            continue
        for position, name in enumerate(instruction.operands):
            if position or instruction.opcode not in {*_SLICES, "dynamic-update-slice"}:
                needed[name] = max(needed[name], share * size(computation[name].shape))
            elif instruction.opcode in _SLICES:
                sliced[name] += share * whole
    return total


def _written(computation: dict[str, Instruction], root: Instruction) -> float:
    """Bytes that a fusion writes: of an array that it updates in place, only the slice."""
    if root.opcode == "tuple":
        return sum(_written(computation, computation[name]) for name in root.operands)
    if root.opcode == "bitcast":
        return _written(computation, computation[root.operands[0]])
    if root.opcode == "dynamic-update-slice":
        return size(computation[root.operands[1]].shape)
    return size(root.shape)
