# The habits of this repository. `pip install rust-just` brings `just`.
#
# `just check` runs anywhere, without root. It installs the package into the Python environment that is active, so make
# one first. `just ci` takes Linux, and adds torch, other Pythons and NumPys, the sanitizers and NEON. What a part
# cannot do on this machine it says in a line that starts with NOT RUN.

python := env("PYTHON", "python")

# what there is
default:
    @just --list --unsorted

# all that any machine can check
check: rust package lint stubtest pytest

# check, beside the other libraries, the documentation, and all that takes Linux
ci: peers docs check wheel asm-check pythons numpy-1 asan tsan neon

# ----------------------------------------------------------------------------------------------------------------- Rust

# the crate alone, without Python
rust: fmt clippy test rustdoc

# formatting
fmt:
    cargo fmt --check

# clippy, with the Python binding and without; never --all-features, which does not link in tests
clippy:
    cargo clippy --all-targets -- -D warnings
    cargo clippy --all-targets --features python -- -D warnings

# the Rust tests, on every instruction set of this CPU
test:
    cargo test

# the crate's documentation: no dead link
rustdoc:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
        cargo doc --no-deps --document-private-items

# --------------------------------------------------------------------------------------------------------------- Python

# the package and its tools, into the active environment
package:
    {{ python }} -m pip install ".[dev]"

# ruff and mypy --strict
lint:
    {{ python }} -m ruff check .
    {{ python }} -m ruff format --check .
    {{ python }} -m mypy

# the stub against the compiled module
stubtest:
    {{ python }} -m mypy.stubtest lstm_rs._core

# the Python tests, doctests among them, against the installed package
pytest:
    {{ python }} -m pytest

# mends what can be mended without thought
fix:
    cargo fmt
    {{ python }} -m ruff check --fix .
    {{ python }} -m ruff format .

# the documentation site, in target/site: a warning is an error
docs:
    {{ python }} -m pip install --quiet ".[docs]"
    {{ python }} -m pip install --quiet --no-deps aeon==1.6.0
    {{ python }} -m mkdocs build --strict -f docs/mkdocs.yml

# ---------------------------------------------------------------------------------------------------------------- Linux

# the libraries that the tests compare with where they are installed, and the models that the examples run
peers:
    #!/usr/bin/env bash
    set -euo pipefail
    {{ python }} -m pip install --quiet ".[peers]"
    # For the weights and the data in them: what their code needs is not wanted.
    {{ python }} -m pip install --quiet --no-deps silero-vad==6.2.3 textgenrnn==2.0.0 aeon==1.6.0
    {{ python }} -m pip list 2>/dev/null |
        grep -iE '^(torch|onnx|onnxruntime|keras|h5py|flax|jax|safetensors|scikit.learn|silero.vad|textgenrnn|aeon) '
    [ -d /usr/share/sounds/alsa ] || echo "NOT RUN: silero-vad on a spoken recording: /usr/share/sounds/alsa (of alsa-utils) is not there"

# the wheel as users get it, in dist/: its link-time optimisation is read off the compiler's line
wheel:
    #!/usr/bin/env bash
    set -euo pipefail
    rm -rf dist
    mkdir dist
    # With a library for Rust beside the one for Python, cargo drops `lto` without a word.
    cargo clean --quiet --release --package lstm-rs
    MATURIN_PEP517_ARGS=--verbose {{ python }} -m pip wheel --verbose --no-deps --wheel-dir dist . >dist/build.log 2>&1 ||
        { cat dist/build.log; exit 1; }
    line=$(grep -e '--crate-name lstm_rs .*--crate-type cdylib' dist/build.log) ||
        { echo "wheel: no compiler's line for a cdylib in dist/build.log"; exit 1; }
    grep -o -e ' -C lto=fat' <<<"$line" || { echo "wheel: built without link-time optimisation: $line"; exit 1; }
    ls dist/lstm_rs-*-cp310-abi3-*.whl

# the k loops of the compiled library: no call, no reference to the stack
asm-check:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ {{ arch() }} != x86_64 ] || ! command -v objdump; then
        echo "NOT RUN: asm-check: it takes an x86-64 machine with objdump"
        exit
    fi
    # Of a name with all its parameters, which the legacy mangling leaves out, a tile is known.
    cargo rustc --release --lib --crate-type cdylib --features python --target-dir target/asm -- \
        -C strip=none -C symbol-mangling-version=v0
    objdump --disassemble --no-show-raw-insn --demangle target/asm/release/liblstm_rs.so |
        {{ python }} tests/check_code_generation.py

# that wheel on each Python found, in an environment of its own: what it says of itself, and the examples
pythons:
    #!/usr/bin/env bash
    set -euo pipefail
    for minor in 10 11 12 13; do
        {{ just_executable() }} _venv "$minor" numpy python -m pytest tests/test_doctests.py
    done

# the oldest NumPy: all tests
numpy-1:
    @{{ just_executable() }} _venv 10 'numpy==1.26.*' python -m pytest

# runs a command in a fresh environment of Python 3.`minor` with the wheel, one NumPy, and what the tests need
_venv minor numpy *command:
    #!/usr/bin/env bash
    set -euo pipefail
    for python in python3.{{ minor }} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.{{ minor }}.*/bin/python none; do
        "$python" -c '' 2>/dev/null && break
    done
    if [ "$python" = none ]; then
        echo "NOT RUN: {{ command }} on Python 3.{{ minor }}: it is not installed"
        exit
    fi
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
    "$python" -m venv "$venv"
    . "$venv/bin/activate"
    pip install --quiet "$(echo dist/*.whl)[test]" '{{ numpy }}'
    python -m lstm_rs info
    {{ command }}

# A test asks for more memory than there is and has to be refused, which the allocator's option allows.
# AddressSanitizer over the Rust tests, on every instruction set of this CPU
asan:
    ASAN_OPTIONS=allocator_may_return_null=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
        cargo test --lib --target {{ arch() }}-unknown-linux-gnu --target-dir target/asan

# The standard library is not instrumented: what it does between its own threads and channels looks like a race, so the
# tests run on one thread, and the handles of threads are left out.
# ThreadSanitizer over the Rust tests of threads
tsan:
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p target/tsan
    printf 'race:%s\n' std::thread::lifecycle std::thread::scoped std::sync::mpmc test::run_test >target/tsan/suppressions
    export TSAN_OPTIONS=suppressions=$PWD/target/tsan/suppressions
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
        cargo test --lib --target {{ arch() }}-unknown-linux-gnu --target-dir target/tsan threads -- --test-threads=1 |
        tee target/tsan/log
    grep -q '[1-9][0-9]* passed' target/tsan/log || { echo "tsan: no test ran"; exit 1; }

# the Rust tests on NEON: natively, or under qemu with a std for Arm (rustup's, or Debian's rustc-web)
neon:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ {{ arch() }} = aarch64 ]; then
        exec cargo test
    fi
    target=aarch64-unknown-linux-gnu
    has_std() { compgen -G "$("$1" --print target-libdir --target $target)/libcore-*.rlib"; }
    not_run() { echo "NOT RUN: NEON under qemu: $1 is not installed" && exit; }
    if has_std rustc; then
        export RUSTC=rustc
    elif has_std /usr/bin/rustc; then
        export RUSTC=/usr/bin/rustc
    else
        not_run "Rust's std for $target"
    fi
    command -v aarch64-linux-gnu-gcc || not_run aarch64-linux-gnu-gcc
    command -v qemu-aarch64 || not_run qemu-aarch64
    "$RUSTC" --version
    qemu-aarch64 --version | head -1
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    # The loader and the libc of one and the same package: with those of two, threads never start.
    root=/usr/aarch64-linux-gnu
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $root -E LD_LIBRARY_PATH=$root/lib"
    cargo test --lib --target $target --target-dir target/aarch64

# each Rust crate with the reason why it is there; licences and sources, and in `cargo deny check advisories` known faults
dependencies:
    cargo install --quiet --locked --debug --root target/tools cargo-deny@0.20.2
    target/tools/bin/cargo-deny --locked check licenses bans sources
    {{ python }} tests/check_dependencies.py

# sigmoid and tanh over all float32 values: prints the worst error in units in the last place; a minute
exhaustive:
    LSTM_RS_EXHAUSTIVE=1 cargo test --lib numbers_are_within -- --nocapture
