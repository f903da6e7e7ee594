"""Disassembles the compiled library and checks every k loop of the register tile, and of a row alone.

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
TILE = re.compile(
    r"kernel::tile::(Pass|row::Row)<(?P<element>f32|f64)>>::run<lstm_rs::simd::(?P<isa>\w+)::\w+, "
    r"((?P<left>.*\]), )?(?P<width>\d), (?P<count>\d)>::\{closure"
)
JUMP = re.compile(r"^j\w+\s+(?P<target>[0-9a-f]+)\b")
FMA = re.compile(r"^vfmadd\d+p[sd]\b")
ALLOWED = re.compile(
    # A broadcast from a register would take the place of a product: from memory it comes with the load.
    r"^((vbroadcasts[sd]|vpbroadcast[dq]|vmovddup)\s+[^%]*\("
    r"|(vfmadd\d+p[sd]|vmov[au]p[sd]|vmovdq[au]\w*|prefetcht\d|mov|add|sub|lea|inc|dec|cmp|test"
    r"|j\w+|nop\w*|data16|xchg\s+ax,ax|cs nop\w*)\b)"
)
STACK = {
    # %rbp is a register like others, unless the function keeps its frame in it.
    False: re.compile(r"\(%rsp|%rsp\)"),
    True: re.compile(r"\(%r[sb]p|%r[sb]p\)"),
}
FRAME = re.compile(r"^mov\s+%rsp,%rbp")

ROWS = {"avx2": 3, "avx512": 6}
"""`Lanes::ROWS` of each instruction set."""

SEVERAL = ((4, 2), (3, 3), (2, 4), (1, 8))
"""How many blocks one row takes at a time, by their width."""


class Tile(NamedTuple):
    """One monomorphisation of the tile."""

    isa: str
    element: str
    left: str
    """The left operand's type; of a row alone, nothing."""
    width: int
    count: int
    """Rows; of a row alone, blocks."""


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


def faults(loop: list[Instruction], framed: bool) -> Iterator[str]:
    """Say what does not belong into a k loop of a function that keeps its frame in %rbp, or not."""
    for address, text in loop:
        if STACK[framed].search(text):
            yield f"{address:x}: {text}: a reference to the stack"
        elif not ALLOWED.match(text):
            yield f"{address:x}: {text}: neither a product, a broadcast, a load nor a pointer"
    for address, text in loop[:-1]:
        if JUMP.match(text):
            yield f"{address:x}: {text}: a check in the loop"


def tiles(isa: str) -> Iterator[Tile]:
    """List every tile that there has to be: left operands in rows and interleaved, and rows alone."""
    for element in ("f32", "f64"):
        for rows in range(1, ROWS[isa] + 1):
            for width in range(1, 5):
                yield Tile(isa, element, f"[&[{element}]; {rows}]", width, rows)
                yield Tile(isa, element, f"&[[{element}; {rows}]]", width, rows)
        for width, blocks in SEVERAL:
            yield Tile(isa, element, "", width, 1)
            yield Tile(isa, element, "", width, blocks)


def check(lines: Iterable[str], isas: Iterable[str] = tuple(ROWS)) -> list[str]:
    """Say all that is wrong with a disassembly."""
    wrong: list[str] = []
    missing = {tile for isa in isas for tile in tiles(isa)}
    for name, body in functions(lines):
        if (match := TILE.search(name)) is None or match["isa"] not in isas:
            continue
        tile = Tile(match["isa"], match["element"], match["left"] or "", int(match["width"]), int(match["count"]))
        missing.discard(tile)
        framed = any(FRAME.match(text) for _, text in body)
        found = [loop for loop in loops(body) if any(FMA.match(text) for _, text in loop)]
        if not found:
            wrong.append(f"{tile}: no loop with products")
        for loop in found:
            products = sum(1 for _, text in loop if FMA.match(text))
            # The compiler may unroll those of few products.
            if products % (tile.width * tile.count):
                wrong.append(f"{tile}: a loop of {products} products")
            wrong += [f"{tile}: {fault}" for fault in faults(loop, framed)]
    wrong += [f"{tile}: not found" for tile in sorted(missing)]
    for isa in isas:
        count = sum(1 for _ in tiles(isa))
        print(f"{isa}: {count - sum(tile.isa == isa for tile in missing)} of {count} tiles found")
    return wrong


if __name__ == "__main__":
    problems = check(sys.stdin)
    print("\n".join(problems) or "no call, no reference to the stack")
    sys.exit(bool(problems))
