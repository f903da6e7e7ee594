"""What is read of valgrind's answers, and what is made of it, can fail."""

import json
import xml.etree.ElementTree as ElementTree

import counted
import pytest
from instructions import RECORD, judge, read
from memcheck import TABLE, errors

# Of two calls: 101 + 7 of the module itself, 40 of memcpy that it calls; 1000 that Python takes when the module calls
# it, half of them in the C library, and 10 of Python before.
WRITTEN = """\
version: 1
desc: Trigger: Client Request: 2 x forward of 1,1,64,128
positions: line
events: Ir
ob=(1) /usr/bin/python3.12
fl=(1) ???
fn=(1) call
0 10
cob=(2) /tmp/a/lstm_rs/_core.abi3.so
cfi=(2) forward.rs
cfn=(2) forward
calls=2 0
* 1148

ob=(2)
fl=(2)
fn=(2)
12 101
+3 7
cob=(3) /usr/lib/x86_64-linux-gnu/libc.so.6
cfi=(3) memcpy.S
cfn=(3) memcpy
calls=1 0
* 40
cob=(1)
cfi=(1)
cfn=(4) callback
calls=1 0
* 1000

ob=(3)
fl=(3)
fn=(3)
0 40
0 500

ob=(1)
fl=(1)
fn=(4)
0 500
totals: 1158
"""


def test_the_modules_instructions_are_those_counted():
    assert read(WRITTEN.splitlines()) == ("forward of 1,1,64,128", (101 + 7 + 40) // 2, (10 + 1000) // 2)


def test_a_call_within_the_module_is_not_counted_twice():
    within = "ob=(2) /a/_core.abi3.so\nfn=(1) a\n1 10\ncfn=(2) b\ncalls=1 0\n* 5\nfn=(2)\n1 5\n"
    assert read(within.splitlines())[1] == 15


@pytest.mark.parametrize(
    ("count", "wrong", "fewer"), [(1000, 0, 0), (1020, 0, 0), (1021, 1, 0), (980, 0, 0), (979, 0, 1)]
)
def test_over_two_percent_more_fails(count, wrong, fewer):
    found = judge({"forward": count, "step": 7}, {"forward": 1000, "step": 7})
    assert [len(lines) for lines in found] == [wrong, fewer]
    assert all(line.startswith("forward: ") for lines in found for line in lines)


def test_a_call_without_a_record_and_a_record_without_a_call_fail():
    wrong, _ = judge({"new": 1}, {"old": 1})
    assert wrong == ["new: there is no record of it", "old: it is on record, and was not counted"]


def test_all_calls_are_on_record():
    assert list(json.loads(RECORD.read_text())["instructions"]) == list(counted.CALLS)


FRAME = "<frame><ip>0x1</ip><obj>{}</obj><fn>{}</fn></frame>"
BLOCKS = "</stack><xwhat><leakedblocks>{}</leakedblocks></xwhat><stack>"
ERROR = "<error><unique>{}</unique><kind>{}</kind><what>said</what><stack>{}</stack></error>"


def stack(*names):
    objects = {"python": "/usr/bin/python3.12", "memcpy": "/usr/lib/libc.so.6"}
    return "".join(FRAME.format(objects.get(name, "/tmp/a/lstm_rs/_core.abi3.so"), name) for name in names)


def test_an_error_with_the_module_among_its_callers_is_ours():
    listed = (
        ERROR.format("0x1", "InvalidRead", stack("memcpy", "forward", "python")),
        ERROR.format("0x2", "Leak_DefinitelyLost", stack("memcpy", "python")),
        ERROR.format("0x3", "Leak_DefinitelyLost", stack("python", "forward", "python")),
        ERROR.format("0x4", "Leak_DefinitelyLost", stack("python", "_core::__pyo3_module_exec", "python")),
        ERROR.format("0x5", "InvalidRead", stack("python", "_core::__pyo3_module_exec", "python")),
        ERROR.format("0x6", "Leak_DefinitelyLost", stack("python", TABLE, "forward") + BLOCKS.format(1)),
        ERROR.format("0x7", "Leak_DefinitelyLost", stack("python", TABLE, "forward") + BLOCKS.format(2)),
    )
    counts = "<errorcounts><pair><count>3</count><unique>0x1</unique></pair></errorcounts>"
    found = list(errors(ElementTree.fromstring(f"<valgrindoutput>{''.join(listed)}{counts}</valgrindoutput>")))
    assert [ours for _, ours, _, _ in found] == [True, False, True, False, True, False, True]
    kind, _, times, said = found[0]
    assert (kind, times, said[0]) == ("InvalidRead", 3, "said") and "forward" in said[2]
