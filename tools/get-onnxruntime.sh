#!/usr/bin/env bash
# Gets the library of ONNX Runtime out of its Python package, for the engine `ort`, and prints its
# path:
#
#     export ORT_DYLIB_PATH=$(tools/get-onnxruntime.sh)
#
# Takes a folder to put it in; target/onnxruntime by default. Needs python3 with pip, and no
# compiler. What is there already is not fetched again.
set -euo pipefail

VERSION=1.32.0
cd "$(dirname "${BASH_SOURCE[0]}")/.."
into=${1:-target/onnxruntime}
mkdir -p "$into"
into=$(cd "$into" && pwd)

find_library() {
    find "$into/$VERSION" -name 'libonnxruntime.so.*' -o -name 'libonnxruntime.*.dylib' \
        -o -name 'onnxruntime.dll' 2>/dev/null | head -n 1
}

library=$([ -d "$into/$VERSION" ] && find_library || true)
if [ -z "$library" ]; then
    command -v python3 >/dev/null || {
        echo "error: python3 is missing; install it with the package manager of the system" >&2
        exit 1
    }
    partial=$(mktemp -d "$into/partial.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
        --dest "$partial" "onnxruntime==$VERSION" >&2
    python3 -m zipfile -e "$partial"/onnxruntime-*.whl "$partial/wheel"
    mv "$partial/wheel/onnxruntime/capi" "$into/$VERSION"
    library=$(find_library)
fi
[ -n "$library" ] || {
    echo "error: the package holds no library of ONNX Runtime" >&2
    exit 1
}
echo "$library"
