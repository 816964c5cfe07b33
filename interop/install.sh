#!/usr/bin/env bash
# Installs what the tests check keyd against from outside: npm's jose beside
# this script; jwcrypto, curl, openssl and systemd-analyze from the distribution.
# Idempotent.
set -euo pipefail
cd "$(dirname "$0")"
exec 9<install.sh
flock 9

packages=()
command -v npm >/dev/null || packages+=(nodejs npm)
command -v curl >/dev/null || packages+=(curl)
command -v openssl >/dev/null || packages+=(openssl)
/usr/bin/python3 -c 'import jwcrypto' 2>/dev/null || packages+=(python3-jwcrypto)
command -v systemd-analyze >/dev/null || packages+=(systemd)
if [ ${#packages[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "missing: ${packages[*]}; run make outside once as root" >&2; exit 1; }
  export DEBIAN_FRONTEND=noninteractive
  apt-get -q update
  apt-get -q -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "${packages[@]}"
fi

if [ ! -f node_modules/.package-lock.json ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
  npm ci --no-audit --no-fund --silent
  touch node_modules/.package-lock.json
fi
