"""The check of the compiled code can fail."""

import pytest
from check_code_generation import Tile, check, faults, functions, loops, tiles

NAME = (
    "<lstm_rs::simd::avx2::Avx2 as lstm_rs::simd::Isa>::vectorize::run::<(), <lstm_rs::kernel::tile::Pass<f32>>::"
    "run<lstm_rs::simd::avx2::Avx2, [&[f32]; 1], 1, 1>::{closure#0}>"
)
ROW = NAME.replace("Pass<", "row::Row<").replace("[&[f32]; 1], ", "")
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


def disassembly(text, name=NAME):
    return f"0000000000000010 <{name}>:\n{text}".splitlines()


def found(text):
    ((name, body),) = functions(disassembly(text))
    assert name == NAME
    return list(loops(body))


def of_the_tile(wrong):
    return [fault for fault in wrong if "not found" not in fault]


def test_a_clean_loop_has_no_fault():
    (loop,) = found(CLEAN)
    assert len(loop) == 7 and not list(faults(loop, framed=True))
    wrong = check(disassembly(CLEAN), ["avx2"])
    assert not of_the_tile(wrong)
    assert len(wrong) == len(list(tiles("avx2"))) - 1
    row = f"{Tile('avx2', 'f32', '', 1, 1)}: not found"
    assert row in wrong and row not in check(disassembly(CLEAN, ROW), ["avx2"])


@pytest.mark.parametrize(
    "instruction",
    [
        "vmovups %ymm2,0x40(%rsp)",
        "call   1234 <fmaf>",
        "vdivss %xmm0,%xmm1,%xmm2",
        "vaddps %ymm0,%ymm1,%ymm2",
        "push   %rax",
        "vmovss (%rdi,%rax,4),%xmm3",
        "vbroadcastss %xmm3,%ymm0",
        "je     3c <there>",
    ],
)
def test_what_does_not_belong_there_is_a_fault(instruction):
    (loop,) = found(CLEAN.replace("inc    %rax", instruction))
    (fault,) = faults(loop, framed=False)
    assert instruction in fault
    (fault,) = of_the_tile(check(disassembly(CLEAN.replace("inc    %rax", instruction)), ["avx2"]))
    assert instruction in fault and "left='[&[f32]; 1]'" in fault


def test_the_frame_pointer_is_a_reference_to_the_stack_where_there_is_a_frame():
    text = CLEAN.replace("inc    %rax", "vmovups -0x40(%rbp),%ymm2")
    assert not of_the_tile(check(disassembly(text), ["avx2"]))
    (fault,) = of_the_tile(check(disassembly(text.replace("mov    $0x0,%eax", "mov    %rsp,%rbp")), ["avx2"]))
    assert "a reference to the stack" in fault


def test_a_loop_around_is_no_k_loop():
    outer = CLEAN.replace("  3c: ret", "  3c: jne    10 <there>\n  40: ret")
    assert [len(loop) for loop in found(outer)] == [7]


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        (CLEAN, ROW.replace("1, 1>", "1, 8>"), "a loop of 1 products"),
        (CLEAN, NAME.replace("1, 1>", "1, 2>").replace("; 1]", "; 2]"), "a loop of 1 products"),
        (CLEAN.replace("vfmadd231ps %ymm0,%ymm1,%ymm2", "nop"), NAME, "no loop with products"),
    ],
)
def test_a_loop_of_another_size_is_a_fault(text, name, fault):
    (told,) = of_the_tile(check(disassembly(text, name), ["avx2"]))
    assert fault in told


def test_a_missing_tile_is_a_fault():
    wrong = check(disassembly(CLEAN, "something::else"), ["avx512"])
    assert f"{Tile('avx512', 'f64', '', 4, 2)}: not found" in wrong
    assert f"{Tile('avx512', 'f32', '&[[f32; 6]]', 4, 6)}: not found" in wrong
    assert len(wrong) == 2 * (2 * 6 * 4 + 2 * 4)
