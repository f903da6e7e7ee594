"""What all tests share: every instruction set of this machine by name, and how much Hypothesis tries."""

import os
import signal
from contextlib import contextmanager

# The reference's many small products are several times slower when BLAS shares each out among threads that other
# work keeps waiting. NumPy reads this once, when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Keras asks once, when it is imported, and by itself for TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "jax")

# A shell's background processes ignore Ctrl-C, and what they start with them: tests of it need Python's own way.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest
from hypothesis import HealthCheck, settings
from lstm_rs import _core

KNOWN_ISAS = ("scalar", "avx2", "avx512", "neon")
ISAS = tuple(_core.available_isas())

# The fixture `isa` keeps its value while Hypothesis runs a test many times, as it should.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# The same examples on every run: what fails there can be seen again here.
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_report_header(config):
    missing = [name for name in KNOWN_ISAS if name not in ISAS]
    return f"instruction sets tested: {', '.join(ISAS)}; not on this CPU: {', '.join(missing) or 'none'}"


@contextmanager
def using(name):
    """Pack weights for this instruction set inside the block."""
    before = _core.isa()
    _core.set_isa(name)
    try:
        yield name
    finally:
        _core.set_isa(before)


@pytest.fixture(params=ISAS)
def isa(request):
    """Run the test once on every instruction set that this CPU has."""
    with using(request.param) as name:
        yield name
