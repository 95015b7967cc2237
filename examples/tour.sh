#!/usr/bin/env bash
# Builds edge-tune, trains a delta for the intents of a home assistant, installs it and predicts.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build --release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PATH="$PWD/target/release:$PATH" EDGE_TUNE_STORE="$work/store"

# Shows a command as one would type it, then runs it.
run() {
    printf '\n$'
    for word in "$@"; do
        case $word in
            *' '*) printf ' "%s"' "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
    printf '\n'
    "$@"
}

intents=examples/home-intents.csv
run edge-tune calibrate --method lora --data $intents --eval $intents --max-time 60s \
    --out "$work/intents.safetensors"
run edge-tune apply "$work/intents.safetensors"
run edge-tune predict "could you dim the lights" "what is it like outside" "add eggs to the list"
run edge-tune list
