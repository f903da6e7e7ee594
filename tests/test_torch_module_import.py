"""PyTorch is asked for by `lstm_rs.torch`, and by nothing else of the package."""

import subprocess
import sys


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_package_does_not_import_pytorch():
    done = python("import sys, lstm_rs; assert 'torch' not in sys.modules and 'lstm_rs.torch' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_without_pytorch_it_says_what_is_missing():
    done = python("import sys; sys.modules['torch'] = None; import lstm_rs.torch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: lstm_rs.torch needs PyTorch: pip install 'lstm-rs[torch]'"
