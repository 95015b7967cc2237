#!/usr/bin/env bash
# Runs every fuzz target with coverage: tools/fuzz.sh [SECONDS [TARGET...]], 60 s each by default.
# Needs a C++ compiler for libFuzzer. New inputs stay in target/fuzz-build/fuzz; what crashes a target
# goes to fuzz/artifacts: add it to fuzz/corpus when it is repaired.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(delta metadata onnx external record csv sound published patch)

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)/fuzz-build
(cd fuzz && CARGO_TARGET_DIR=$target RUSTC_WRAPPER=$PWD/rustc.sh cargo build --quiet --bins)
mkdir -p fuzz/artifacts
failed=0
for name in "${targets[@]}"; do
    mkdir -p "$target/fuzz/$name"
    log=$target/fuzz/$name.log
    "$target/debug/fuzz_$name" "$target/fuzz/$name" "fuzz/corpus/$name" \
        -max_total_time="$seconds" -rss_limit_mb=256 -timeout=10 -print_final_stats=1 \
        -artifact_prefix="fuzz/artifacts/$name-" >"$log" 2>&1 || failed=1
    awk -v name="$name" '/number_of_executed_units/ { n = $2 } /peak_rss_mb/ { m = $2 }
        END { printf "%-9s %12d executions, peak %d MB\n", name, n, m }' "$log"
    grep -E '^SUMMARY|panicked at' "$log" || true
done
exit "$failed"
