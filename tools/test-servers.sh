#!/usr/bin/env bash
# Runs the tests of `pull` against nginx on loopback. Installs it where that is possible (Debian, as
# root) and says so where it is not. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v nginx >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        # Without its service: this starts a server of its own.
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends nginx-light >/dev/null 2>&1 || true
    fi
    command -v nginx >/dev/null || { echo "skipped: nginx is missing; install nginx-light"; exit 0; }
fi

dir=$(mktemp -d)
pid=
cleanup() {
    [ -z "$pid" ] || { kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; }
    rm -rf "$dir"
}
trap cleanup EXIT

port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
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
pid=$!
for _ in $(seq 50); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && break
    sleep 0.1
done

export EDGE_TUNE_TEST_URL="http://127.0.0.1:$port" EDGE_TUNE_TEST_ROOT="$dir/site"
cargo test --test suite fetch_from -- --nocapture
