#!/usr/bin/env bash
# Looks for memory errors in crates/kernels, where nearly all `unsafe` is. Needs a nightly Rust:
#   rustup toolchain install nightly --component miri,rust-src --profile minimal
# Give `asan` or `miri` to run only that one, and after it a part of the names of the tests to run.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(rustc -vV | sed -n 's/^host: //p')
which=${1:-all}
names=("${@:2}")

# Every instruction set that this machine has. Debug assertions stay on; optimised, so that it takes a minute.
if [ "$which" != miri ]; then
    CARGO_PROFILE_DEV_OPT_LEVEL=1 RUSTFLAGS=-Zsanitizer=address \
        cargo +nightly test --locked -p rectiflow-kernels --lib --target "$target" --target-dir target/asan -- "${names[@]}"
fi

# Takes long. The portable path only: Miri knows few vector instructions and no assembly. Tree borrows and leaks are for
# crossbeam's and rayon's sake, which break the older model and never stop their threads.
if [ "$which" != asan ]; then
    RAYON_NUM_THREADS=2 RECTIFLOW_ISA=portable \
        MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-permissive-provenance" \
        cargo +nightly miri test --locked -p rectiflow-kernels --lib --target-dir target/miri -- "${names[@]}"
fi
