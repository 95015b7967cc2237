#!/usr/bin/env bash
# Runs the tests of `pull` and `push` against nginx and a registry of containers on loopback. Installs
# them where that is possible (Debian, as root) and says so where it is not. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Without their services: this starts servers of its own.
for package in nginx-light docker-registry; do
    program=${package%-light}
    command -v "$program" >/dev/null && continue
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq >/dev/null 2>&1 || true
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$package" >/dev/null 2>&1 || true
    fi
    command -v "$program" >/dev/null || { echo "skipped: $program is missing; install $package"; exit 0; }
done

dir=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -rf "$dir"
}
trap cleanup EXIT

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
await() {
    for _ in $(seq 50); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.1
    done
    echo "error: nothing listens on port $1" >&2
    exit 1
}

port=$(free_port)
mkdir -p "$dir/site"
# Its workers are another user where this is run as root.
chmod 755 "$dir" "$dir/site"
cat > "$dir/nginx.conf" <<CONF
daemon off;
pid $dir/pid;
error_log $dir/error.log;
events {}
http {
    access_log off;
    client_body_temp_path $dir/body;
    proxy_temp_path $dir/proxy;
    fastcgi_temp_path $dir/fastcgi;
    uwsgi_temp_path $dir/uwsgi;
    scgi_temp_path $dir/scgi;
    server {
        listen 127.0.0.1:$port;
        root $dir/site;
    }
}
CONF
nginx -e "$dir/error.log" -c "$dir/nginx.conf" &
pids+=($!)
await "$port"

registry=$(free_port)
cat > "$dir/registry.yml" <<CONF
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $dir/registry}}
http: {addr: "127.0.0.1:$registry"}
CONF
docker-registry serve "$dir/registry.yml" >/dev/null 2>&1 &
pids+=($!)
await "$registry"

export EDGE_TUNE_TEST_REGISTRY="127.0.0.1:$registry"
export EDGE_TUNE_TEST_URL="http://127.0.0.1:$port" EDGE_TUNE_TEST_ROOT="$dir/site"
cargo test --features "${1:-oci}" --test suite fetch_from -- --nocapture
