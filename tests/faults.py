"""Scripts in processes of their own, which they may end: how they are run, and what they begin with."""

import os
import subprocess
import sys
import textwrap

import pytest

posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc and resource limits")

SECONDS = 60  # after which something hangs


def run(script, status=0, **environment):
    """The words that `script` prints; a failure if it ends in another way than with this status."""
    code = "import faulthandler\nfaulthandler.dump_traceback_later(40, exit=True)\nimport numpy as np, lstm_rs\n"
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code + textwrap.dedent(script)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert done.stderr == ""
    return done.stdout.split()
