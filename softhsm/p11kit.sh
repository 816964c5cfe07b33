#!/usr/bin/env bash
# Makes a SoftHSM token in DIR/token and serves it from another process, with
# p11-kit server:
#
#   eval "$(softhsm/p11kit.sh DIR)"     # exports; module, token, pin_file
#   DIR/stop                            # ends the server
set -euo pipefail
. "$(dirname "$0")/common.sh"
directory "$@"
module '/usr/lib/*/pkcs11/p11-kit-client.so'
command -v p11-kit >/dev/null || fail "p11-kit is missing: make tokens-install installs it"
token=keyd
"$(dirname "$0")/token.sh" "$dir/token" "$token" >/dev/null
export SOFTHSM2_CONF=$dir/token/softhsm2.conf
ln -sf -- token/pin "$dir/pin"
socket=$dir/p11.sock
if ! runs "$dir/server.pid"; then
	rm -f -- "$socket"
	quietly p11-kit server -n "$socket" --provider /usr/lib/softhsm/libsofthsm2.so "pkcs11:token=$token"
	sed -n 's/.*P11_KIT_SERVER_PID=\([0-9]*\).*/\1/p' "$dir/log" >"$dir/server.pid"
	stopper "$dir/server.pid"
fi
# proc(5): 00010000 is a socket that is listened to. Asked before, p11-kit has no tokens.
listens() { grep -F -- " $socket" /proc/net/unix | grep -q ' 00010000 '; }
within 60 listens || fail "p11-kit server does not serve"
printf 'export P11_KIT_SERVER_ADDRESS=unix:path=%q\n' "$socket"
show
