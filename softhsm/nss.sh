#!/usr/bin/env bash
# Makes a database of NSS softoken in DIR/db:
#
#   eval "$(softhsm/nss.sh DIR)"     # module, token, pin_file, init_args
#
# NSS decrypts a private key's attributes for every operation, with a key that it
# derives from the PIN; NSS_MAX_MP_PBE_ITERATION_COUNT=1 while keys are made saves
# 45 ms of each.
set -euo pipefail
. "$(dirname "$0")/common.sh"
directory "$@"
module '/usr/lib/*/libsoftokn3.so'
command -v certutil >/dev/null || fail "certutil is missing: make tokens-install installs it"
token=keyd
pin 32
export NSS_MAX_MP_PBE_ITERATION_COUNT=1
[ -e "$dir/made" ] || {
	rm -rf -- "$dir/db"
	mkdir -- "$dir/db"
	quietly certutil -N -d "sql:$dir/db" -f "$dir/pin"
	touch -- "$dir/made"
}
init_args="configdir='sql:$dir/db' certPrefix='' keyPrefix='' secmod='secmod.db' dbTokenDescription='$token'"
echo "export NSS_MAX_MP_PBE_ITERATION_COUNT=1"
show
