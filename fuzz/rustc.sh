#!/bin/sh
# RUSTC_WRAPPER of tools/fuzz.sh: coverage for libFuzzer in this crate and in what reads the bytes
# for it. The passes are in the stable compiler.
set -eu
rustc=$1
shift
flags=
case " $* " in
*" --crate-name edge_tune "* | *" --crate-name fuzz_"*)
    flags="-Cpasses=sancov-module
        -Cllvm-args=-sanitizer-coverage-level=4
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
        -Cllvm-args=-sanitizer-coverage-pc-table
        -Cllvm-args=-sanitizer-coverage-trace-compares"
    ;;
esac
# shellcheck disable=SC2086 # the flags are words
exec "$rustc" "$@" $flags
