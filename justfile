# The habits of this repository. `pip install rust-just` brings `just`.
#
# `just check` runs anywhere, without root. It installs the package into the Python environment that is active, so make
# one first. `just ci` takes Linux, and adds torch, other Pythons and NumPys, the sanitizers and NEON. What a part
# cannot do on this machine it says in a line that starts with NOT RUN.

python := env("PYTHON", "python")

# builds wheels
maturin := "'maturin[zig]>=1.16,<2' 'wheel>=0.45'"

# what there is
default:
    @just --list --unsorted

# all that any machine can check
check: rust package lint stubtest pytest

# check, beside the other libraries, the documentation, and all that takes Linux, in an hour; but for what takes longer:
# reproducible, wheel-arm, stateful, and more of soak, fuzz and fuzz-importers; what is drawn there begins with the
# same seed, so that a change is not refused for what another draw would have found without it
ci: peers docs check dependencies wheels pythons numpy-1 asm-check instructions memcheck asan tsan loom neon (fuzz "20" "1") (fuzz-importers "20" "1") (soak "1" "--seed 1")

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

# the wheel for this machine as users get it, in dist/, and nothing else there
wheel:
    rm -rf dist
    {{ just_executable() }} _wheel {{ arch() }} rustc . dist

# the wheels for both machines and the sdist, in dist/, and what auditwheel, abi3audit and twine say of them
wheels: licences
    #!/usr/bin/env bash
    set -euo pipefail
    {{ python }} -m pip install --quiet {{ maturin }} 'auditwheel>=6.4' 'abi3audit>=0.0.25' 'twine>=6.1' \
        'check-wheel-contents>=0.6.2' 'cyclonedx-python-lib[json-validation]>=11'
    export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    rm -rf dist
    other=$([ {{ arch() }} = x86_64 ] && echo aarch64 || echo x86_64)
    rustc=$({{ just_executable() }} _rustc "$other-unknown-linux-gnu") build=
    if [ -z "$rustc" ]; then
        echo "NOT RUN: the wheel for $other: Rust's std for it is not installed"
    elif ! command -v "$other-linux-gnu-gcc"; then
        echo "NOT RUN: the wheel for $other: $other-linux-gnu-gcc is not installed"
    else
        # Beside the first: most of a build is one thread's.
        CARGO_TARGET_DIR=target/other {{ just_executable() }} _wheel "$other" "$rustc" . dist &
        build=$!
    fi
    {{ just_executable() }} _wheel {{ arch() }} rustc . dist
    [ -z "$build" ] || wait "$build"
    {{ python }} -m maturin sdist --out dist
    for wheel in dist/*.whl; do
        {{ python }} -m auditwheel show "$wheel" | tr '\n' ' ' | grep -o 'is consistent with the following platform tag: "manylinux_2_17_[^"]*"' ||
            { {{ python }} -m auditwheel show "$wheel"; exit 1; }
        size=$(stat --format %s "$wheel")
        echo "$wheel: $size bytes"
        [ "$size" -le $((2 << 20)) ] || { echo "wheels: $wheel is larger than 2 MiB"; exit 1; }
        unzip -p "$wheel" '*.dist-info/sboms/*.json' | {{ python }} -c '
    import json, sys
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    text = sys.stdin.read()
    fault = JsonStrictValidator(SchemaVersion.V1_5).validate_str(text)
    names = {part["name"] for part in json.loads(text)["components"]}
    sys.exit(f"wheels: no valid SBOM: {fault}, {names}" if fault or not {"ndarray", "numpy", "pyo3"} <= names else 0)'
    done
    {{ python }} -m abi3audit --strict --summary dist/*.whl
    {{ python }} -m check_wheel_contents dist/*.whl
    {{ python }} -m twine check --strict dist/*

# the wheel again, from the sdist alone, in another place, with a cargo home of its own: the same bytes
reproducible: wheels
    #!/usr/bin/env bash
    set -euo pipefail
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    tar -xf dist/lstm_rs-*.tar.gz -C "$work"
    export CARGO_HOME=$work/cargo SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
    {{ just_executable() }} _wheel {{ arch() }} rustc "$(echo "$work"/lstm_rs-*)" "$work/dist"
    sha256sum dist/*_{{ arch() }}.whl "$work"/dist/*.whl
    cmp dist/*_{{ arch() }}.whl "$work"/dist/*.whl ||
        { diff <(unzip -v dist/*_{{ arch() }}.whl) <(unzip -v "$work"/dist/*.whl); exit 1; }

# LICENSE-THIRD-PARTY names the crates that Cargo.lock links into the wheel, with their licences, and no others
licences:
    #!/usr/bin/env bash
    set -euo pipefail
    cargo tree --locked --features python --edges normal,no-proc-macro --target all --prefix none --format '{p}: {l}' |
        sed -E '/^lstm-rs /d; s/ v[0-9.]+:/:/; s/ \(\*\)$//' | sort -u |
        diff <(grep -E '^[a-z0-9_-]+: ' LICENSE-THIRD-PARTY | sort) - || { echo "licences: LICENSE-THIRD-PARTY (<) is not what is linked (>)"; exit 1; }

# Linked by zig, for the glibc of 2012. Where and when it was built is not in it: paths in the messages of panics and in
# the SBOM are replaced, and the time is the commit's.
# builds the wheel for Linux on `machine`, into `out`
_wheel machine rustc source out:
    #!/usr/bin/env bash
    set -euo pipefail
    {{ python }} -m pip install --quiet {{ maturin }}
    out=$(realpath --canonicalize-missing {{ quote(out) }})
    cd {{ quote(source) }}
    target={{ machine }}-unknown-linux-gnu
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    export RUSTC={{ quote(rustc) }} SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
    export RUSTFLAGS="--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo --remap-path-prefix=$PWD=."
    # The system unwinds the stack of a thread that Python ends, and zig's own unwinder, which would be linked in its place,
    # crashes on it.
    gcc=$([ {{ machine }} = {{ arch() }} ] && echo cc || echo {{ machine }}-linux-gnu-gcc)
    unwinder=target/unwinder/{{ machine }}/libgcc_s.so.1
    mkdir -p "$(dirname "$unwinder")"
    ln -sf "$("$gcc" -print-file-name=libgcc_s.so.1)" "$unwinder"
    RUSTFLAGS+=" -C link-arg=$unwinder"
    # What is built already has no compiler's line to look at.
    cargo clean --quiet --release --package lstm-rs --target "$target"
    {{ python }} -m maturin build --release --locked --zig --compatibility manylinux2014 --target "$target" \
        --out "$work" --verbose >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    # With a library for Rust beside the one for Python, cargo drops `lto` without a word.
    line=$(grep -e '--crate-name lstm_rs .*--crate-type cdylib' "$work/log") ||
        { echo "wheel: no compiler's line for a cdylib"; exit 1; }
    grep -o -e ' -C lto=fat' <<<"$line" || { echo "wheel: built without link-time optimisation: $line"; exit 1; }
    {{ python }} -m wheel unpack --dest "$work" "$work"/*.whl
    readelf --dynamic "$work"/*/lstm_rs/_core.abi3.so | grep -o 'NEEDED.*libgcc_s.so.1' ||
        { echo "wheel: it has an unwinder of its own"; exit 1; }
    sed -i "s|file://$PWD|file:///lstm_rs|g" "$work"/*/*.dist-info/sboms/*
    if grep -rF -e "$PWD/" -e "$HOME/" "$work"/lstm_rs-*/; then
        echo "wheel: it has a path of this machine in it"
        exit 1
    fi
    mkdir -p "$out"
    {{ python }} -m wheel pack --dest-dir "$out" "$work"/lstm_rs-*/

# prints a compiler that has Rust's std for `target`, if there is one: rustup's, or Debian's rustc-web
_rustc target:
    #!/usr/bin/env bash
    for rustc in rustc /usr/bin/rustc; do
        compgen -G "$("$rustc" --print target-libdir --target {{ target }} 2>/dev/null)/libcore-*.rlib" >/dev/null &&
            echo "$rustc" && exit
    done
    exit 0

# the k loops of the compiled library: no call, no reference to the stack
asm-check:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ {{ arch() }} != x86_64 ] || ! command -v objdump; then
        echo "NOT RUN: asm-check: it takes an x86-64 machine with objdump"
        exit
    fi
    {{ just_executable() }} _with-symbols
    objdump --disassemble --no-show-raw-insn --demangle target/asm/release/liblstm_rs.so |
        {{ python }} tests/check_code_generation.py

# Of a name with all its parameters, which the legacy mangling leaves out, a tile is known.
# the library of the wheel with its symbols and lines, for what looks into it
_with-symbols:
    cargo rustc --release --lib --crate-type cdylib --features python --target-dir target/asm -- \
        -C strip=none -C debuginfo=line-tables-only -C symbol-mangling-version=v0

# valgrind's memcheck over calls of everything in the compiled module: a minute
memcheck: _with-symbols
    {{ python }} tests/valgrind/memcheck.py

# instructions of fixed calls, counted by valgrind, against those on record; with --record they are recorded anew
instructions *options: _with-symbols
    {{ python }} tests/valgrind/instructions.py {{ options }}

# that wheel on each Python found, in bare environments, with the newest NumPy and the oldest; then the docstrings' examples
pythons:
    #!/usr/bin/env bash
    set -euo pipefail
    for minor in 10 11 12 13; do
        # The first that has wheels for this Python.
        oldest=$([ "$minor" -le 12 ] && echo 1.26 || echo 2.1)
        {{ just_executable() }} _venv "$minor" "numpy==$oldest.*"
        {{ just_executable() }} _venv "$minor" numpy python -m pytest tests/test_doctests.py
    done

# the oldest NumPy: all tests
numpy-1:
    @{{ just_executable() }} _venv 10 'numpy==1.26.*' python -m pytest

# The wheel and one NumPy in a fresh environment of Python 3.`minor`: what it says of itself, the README's examples; and
# `command`, for which what the tests need is added.
_venv minor numpy *command:
    #!/usr/bin/env bash
    set -euo pipefail
    for python in python3.{{ minor }} "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.{{ minor }}.*/bin/python none; do
        "$python" -c '' 2>/dev/null && break
    done
    if [ "$python" = none ]; then
        echo "NOT RUN: the wheel on Python 3.{{ minor }} with {{ numpy }}: it is not installed"
        exit
    fi
    venv=$(mktemp -d)
    trap 'rm -rf "$venv"' EXIT
    "$python" -m venv "$venv"
    . "$venv/bin/activate"
    wheel=$(echo dist/*_{{ arch() }}.whl)
    pip install --quiet "$wheel" '{{ numpy }}'
    [ "$(pip list --format freeze | grep -vc -e '^pip=' -e '^setuptools=')" = 2 ] || { pip list; exit 1; }
    {{ just_executable() }} _try python
    # One thread's time on the processor, as those that OpenBLAS has made spin for a while.
    for _ in {1..20}; do
        python -c 'import time, numpy; start = time.thread_time(); import lstm_rs; print(time.thread_time() - start)'
    done | sort -g | awk 'NR == 1 { printf "import: %.1f ms over that of NumPy\n", 1e3 * $1 }'
    [ -n {{ quote(command) }} ] || exit 0
    pip install --quiet "$wheel[test]"
    {{ command }}

# what lstm_rs says of itself in that `python`, and the README's examples, each in a process of its own
_try *python:
    #!/usr/bin/env bash
    set -euo pipefail
    examples=$(mktemp -d)
    trap 'rm -rf "$examples"' EXIT
    {{ python }} -m lstm_rs info
    awk -v dir="$examples" '/^```python$/ { file = dir "/" ++n ".py"; next } /^```/ { file = "" } file { print > file }' README.md
    for example in "$examples"/1.py "$examples"/[2-9].py; do
        {{ python }} "$example"
        echo "README.md, example $(basename "$example" .py): passed"
    done

# the wheel for aarch64 under qemu, in Debian's Python for it: the same as on other Pythons, and tests
wheel-arm: wheels
    #!/usr/bin/env bash
    set -euo pipefail
    not_run() { echo "NOT RUN: the wheel for aarch64 under qemu: $1" && exit; }
    [ {{ arch() }} = x86_64 ] || not_run "it takes an x86-64 machine"
    command -v qemu-aarch64 || not_run "qemu-aarch64 is not installed"
    wheel=$(compgen -G 'dist/*_aarch64.whl') || not_run "it was not built"
    rm -rf target/arm64
    mkdir -p target/arm64/debs
    cd target/arm64
    (cd debs && apt-get download --quiet=2 $(printf '%s:arm64 ' python3.11-minimal libpython3.11-{minimal,stdlib} \
        libc6 libgcc-s1 libstdc++6 zlib1g libexpat1 libssl3 libbz2-1.0 liblzma5 libffi8 libcrypt1 libuuid1)) ||
        not_run "apt-get has no Python 3.11 for arm64 (dpkg --add-architecture arm64)"
    for deb in debs/*.deb; do
        dpkg-deb --extract "$deb" root
    done
    install() {
        {{ python }} -m pip install --quiet --no-compile --target "$1" --python-version 3.11 --only-binary :all: \
            --platform manylinux2014_aarch64 --platform manylinux_2_28_aarch64 "${@:2}"
    }
    install bare "../../$wheel"
    install tests "../../$wheel[test]"
    cd ../..
    arm() { echo qemu-aarch64 -L target/arm64/root -E PYTHONPATH="target/arm64/$1" target/arm64/root/usr/bin/python3.11; }
    export OPENBLAS_NUM_THREADS=1
    {{ just_executable() }} _try $(arm bare)
    # A test that starts another Python cannot run: qemu emulates one process.
    $(arm tests) -m pytest -k '(not test_same_bits or known) and not large' \
        tests/test_same_bits.py tests/test_cell.py tests/test_functional.py tests/test_layer.py tests/test_stream.py

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

# the team of threads in the orders of its steps that loom tries; prints how many
loom:
    #!/usr/bin/env bash
    set -euo pipefail
    mkdir -p target/loom
    cargo test --release --locked --manifest-path tests/loom/Cargo.toml --target-dir target/loom models -- --nocapture --test-threads=1 |
        tee target/loom/log
    grep -E '[1-9][0-9]* passed' target/loom/log >/dev/null || { echo "loom: no model ran"; exit 1; }

# Rust's own interpreter, which finds undefined behaviour, on the scalar path; it takes the nightly toolchain with miri
miri:
    cargo miri test --lib -- cell dims reference schedule memory

# the Rust tests on NEON: natively, or under qemu with a std for Arm (rustup's, or Debian's rustc-web)
neon:
    #!/usr/bin/env bash
    set -euo pipefail
    if [ {{ arch() }} = aarch64 ]; then
        exec cargo test
    fi
    target=aarch64-unknown-linux-gnu
    not_run() { echo "NOT RUN: NEON under qemu: $1 is not installed" && exit; }
    RUSTC=$({{ just_executable() }} _rustc $target)
    export RUSTC
    [ -n "$RUSTC" ] || not_run "Rust's std for $target"
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

# libFuzzer and AddressSanitizer over the passes, and over what they refuse, each for so many seconds; seed 0 is another
# each time
fuzz seconds="60" seed="0":
    #!/usr/bin/env bash
    set -euo pipefail
    target={{ arch() }}-unknown-linux-gnu
    # What cargo-fuzz would set.
    RUSTC_BOOTSTRAP=1 RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table -Zsanitizer=address -Cllvm-args=-asan-instrumentation-with-call-threshold=200 -Ccodegen-units=16" \
        cargo build --release --locked --manifest-path tests/fuzz/Cargo.toml --target "$target" --target-dir target/fuzz
    export ASAN_OPTIONS=detect_odr_violation=0:allocator_may_return_null=1:quarantine_size_mb=16
    for fuzz in passes refusals; do
        mkdir -p "target/fuzz/corpus/$fuzz"
        "target/fuzz/$target/release/$fuzz" -max_total_time={{ seconds }} -seed={{ seed }} -max_len=200 -len_control=0 -timeout=30 \
            -rss_limit_mb=2048 -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix="target/fuzz/$fuzz-" "target/fuzz/corpus/$fuzz" "tests/fuzz/corpus/$fuzz" \
            >"target/fuzz/$fuzz.log" 2>&1 || { tail -60 "target/fuzz/$fuzz.log"; exit 1; }
        grep -E 'DONE|^Done|number_of_executed' "target/fuzz/$fuzz.log"
    done

# atheris over every reader of files, all together for so many seconds
fuzz-importers seconds="60" seed="0":
    {{ python }} -m pip install --quiet 'atheris>=3.0'
    {{ python }} tests/fuzz/importers --seconds {{ seconds }} --seed {{ seed }}

# the library in one long-lived process for so many minutes, while everything around it goes wrong
soak minutes="60" *options:
    {{ python }} tests/soak --minutes {{ minutes }} {{ options }}

# longer: layers that live long, drawn at random, and races between Python threads; about 5 minutes
stateful:
    LSTM_RS_STATEFUL_EXAMPLES=2000 {{ python }} -m pytest tests/test_stateful.py -k TestLongLived
    LSTM_RS_RACE_SECONDS=20 {{ python }} -m pytest tests/test_free_threading.py tests/test_free_threading_weights.py

# sigmoid and tanh over all float32 values: prints the worst error in units in the last place; a minute
exhaustive:
    LSTM_RS_EXHAUSTIVE=1 cargo test --lib numbers_are_within -- --nocapture
