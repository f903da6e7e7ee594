"""The check of the compiled code can fail."""

import pytest
from check_code_generation import check, faults, functions, is_k_loop, loops, tiles

NAME = "<<lstm_rs::simd::avx2::Avx2 as lstm_rs::simd::Isa>::vectorize::run>"
CLEAN = """
  10: mov    $0x0,%eax
  20: vbroadcastss (%rdi,%rax,4),%ymm0
  24: vmovups (%rdx),%ymm1
  28: vfmadd231ps %ymm0,%ymm1,%ymm2
  2c: add    $0x20,%rdx
  30: inc    %rax
  34: cmp    %rax,%rcx
  38: jne    20 <there>
  3c: ret
"""


def found(text):
    ((name, body),) = functions(f"0000000000000010 {NAME}:\n{text}".splitlines())
    assert NAME == f"<{name}>"
    return [loop for loop in loops(body) if is_k_loop(loop)]


def test_a_clean_loop_has_no_fault():
    (loop,) = found(CLEAN)
    assert len(loop) == 7 and not list(faults(loop))


@pytest.mark.parametrize(
    "instruction",
    [
        "vmovups %ymm2,0x40(%rsp)",
        "vmovups -0x40(%rbp),%ymm2",
        "call   1234 <fmaf>",
        "vdivss %xmm0,%xmm1,%xmm2",
        "vaddps %ymm0,%ymm1,%ymm2",
        "push   %rax",
    ],
)
def test_what_does_not_belong_there_is_a_fault(instruction):
    loops = found(CLEAN.replace("inc    %rax", instruction))
    # A loop that divides is not taken for a tile's: then one is missing.
    assert not loops or [fault for fault in faults(loops[0]) if instruction in fault]
    assert loops or "vdiv" in instruction


def test_a_loop_around_is_no_k_loop():
    outer = CLEAN.replace("  3c: ret", "  3c: jne    10 <there>\n  40: ret")
    assert [len(loop) for loop in found(outer)] == [7]


def test_too_few_loops_are_a_fault():
    wrong = check(f"0000000000000010 {NAME}:\n{CLEAN}".splitlines(), ["avx2"])
    assert any("expected 28 k loops, found 1" in fault for fault in wrong)
    assert any("no k loop of [2, 3, 4, 6, 8, 9, 12] products" in fault for fault in wrong)
    assert any("avx2, pd: expected 28 k loops, found 0" in fault for fault in wrong)


def test_the_largest_tile_fills_the_registers():
    assert max(tiles("avx2")) == 12 and max(tiles("avx512")) == 24
