"""Disassembles the compiled library and checks every k loop of the register tile.

A k loop is multiplications with addition, broadcasts of the left operand, loads of weights, and the arithmetic of its
pointers; no call, and no reference to the stack: a spilled accumulator halves the speed, and comes and goes with the
compiler's mood. ``just asm-check`` builds the library with its symbols and runs this on it.

It reads ``objdump -d --no-show-raw-insn -C`` on standard input. x86-64 alone; the scalar tile is left out, as without
``-C target-cpu`` its multiplications are calls.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.*)>:$")
INSTRUCTION = re.compile(r"^\s*(?P<address>[0-9a-f]+):\s+(?P<text>\S.*?)\s*$")
TILE = re.compile(r"simd::(?P<isa>avx2|avx512)::\w+ as .*vectorize::run")
JUMP = re.compile(r"^j\w+\s+(?P<target>[0-9a-f]+)\b")
FMA = re.compile(r"^vfn?madd\d+p(?P<element>[sd])\b")
ALLOWED = re.compile(
    r"^(vfmadd\d+p[sd]|vbroadcasts[sd]|vpbroadcast[dq]|vmov[au]p[sd]|vmovdq[au]\w*|vmovs[sd]|vpermilps|vmovddup"
    r"|mov|add|sub|lea|inc|dec|cmp|test|j\w+|nop\w*|data16|xchg\s+ax,ax|cs nop\w*)\b"
)
STACK = re.compile(r"\(%r[sb]p|%r[sb]p\)|\[r[sb]p")

ROWS = {"avx2": 3, "avx512": 6}
"""`Lanes::ROWS` of each instruction set."""


class Instruction(NamedTuple):
    """One line of a disassembly."""

    address: int
    text: str


def functions(lines: Iterable[str]) -> Iterator[tuple[str, list[Instruction]]]:
    """Cut a disassembly into functions."""
    name, body = "", []
    for line in lines:
        if match := FUNCTION.match(line):
            if body:
                yield name, body
            name, body = match["name"], []
        elif match := INSTRUCTION.match(line):
            body.append(Instruction(int(match["address"], 16), match["text"]))
    if body:
        yield name, body


def loops(body: list[Instruction]) -> Iterator[list[Instruction]]:
    """Find the innermost loops: what a jump backwards goes over, without another such jump."""
    place = {instruction.address: k for k, instruction in enumerate(body)}
    spans = []
    for k, instruction in enumerate(body):
        match = JUMP.match(instruction.text)
        start = place.get(int(match["target"], 16)) if match else None
        if start is not None and start <= k:
            spans.append((start, k))
    for start, end in spans:
        if not any(span != (start, end) and start <= span[0] and span[1] <= end for span in spans):
            yield body[start : end + 1]


def is_k_loop(loop: list[Instruction]) -> bool:
    """Tell a tile's loop from those over units, which divide, and from sums, which broadcast nothing."""
    texts = [instruction.text for instruction in loop]
    return (
        any(map(FMA.match, texts))
        and any("broadcast" in text or "{1to" in text for text in texts)
        and not any(text.startswith("vdiv") for text in texts)
    )


def faults(loop: list[Instruction]) -> Iterator[str]:
    """Say what does not belong into a k loop."""
    for address, text in loop:
        if STACK.search(text):
            yield f"{address:x}: {text}: a reference to the stack"
        elif not ALLOWED.match(text):
            yield f"{address:x}: {text}: neither a product, a broadcast, a load nor a pointer"


def tiles(isa: str) -> list[int]:
    """How many accumulators each tile has, which is how many products its k loop makes.

    1 to `ROWS` rows by 1 to 4 vectors, for left operands in rows and interleaved; and one row by several blocks, for
    blocks of 1 to 4 vectors.
    """
    sizes = [rows * vectors for rows in range(1, ROWS[isa] + 1) for vectors in range(1, 5)]
    return [*sizes, *sizes, 8, 9, 8, 8]


def check(lines: Iterable[str], isas: Iterable[str] = tuple(ROWS)) -> list[str]:
    """Say all that is wrong with a disassembly."""
    wrong = []
    found: dict[tuple[str, str], list[int]] = {(isa, element): [] for isa in isas for element in "sd"}
    for name, body in functions(lines):
        if (tile := TILE.search(name)) is None:
            continue
        for loop in filter(is_k_loop, loops(body)):
            products = [match["element"] for _, text in loop if (match := FMA.match(text))]
            found[tile["isa"], products[0]].append(len(products))
            wrong += [f"{name} at {body[0].address:x}: {fault}" for fault in faults(loop)]
    for (isa, element), sizes in found.items():
        wanted = tiles(isa)
        if len(sizes) < len(wanted):
            wrong.append(f"{isa}, p{element}: expected {len(wanted)} k loops, found {len(sizes)}")
        # The compiler may unroll those of few products.
        missing = {size for size in wanted if not any(size * unrolled in sizes for unrolled in (1, 2, 4, 8))}
        if missing:
            wrong.append(f"{isa}, p{element}: no k loop of {sorted(missing)} products")
        print(f"{isa}, p{element}: {len(sizes)} k loops of {min(sizes, default=0)} to {max(sizes, default=0)} products")
    return wrong


if __name__ == "__main__":
    problems = check(sys.stdin)
    print("\n".join(problems) or "no call, no reference to the stack")
    sys.exit(bool(problems))
