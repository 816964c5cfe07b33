#!/usr/bin/env bash
# Makes openCryptoki's software token, which there is one of on a machine: its
# files are in /var/lib/opencryptoki/swtok. As root.
#
#   eval "$(softhsm/opencryptoki.sh DIR)"     # module, token, pin_file
#   DIR/stop                                  # ends pkcsslotd, if it was started here
#
# A token that these scripts did not make is left alone.
set -euo pipefail
. "$(dirname "$0")/common.sh"
directory "$@"
[ "$(id -u)" -eq 0 ] || fail "its token can only be made by root"
module '/usr/lib/*/pkcs11/libopencryptoki.so'
state=/var/lib/opencryptoki/swtok
token=keyd
pin 8 # its PINs have 4 to 8 characters
tool() { pkcs11-tool --module "$module" --slot 3 "$@"; }

if ! runs /run/pkcsslotd.pid; then
	rm -f -- /run/pkcsslotd.socket
	# It keeps what it inherits open, and so whoever waits for our output waiting.
	quietly /usr/sbin/pkcsslotd </dev/null
	stopper /run/pkcsslotd.pid
fi
slots() { pkcs11-tool --module "$module" -L >"$dir/log" 2>&1; }
# Asked before it is there, the library stays out of order for a while.
within 60 test -S /run/pkcsslotd.socket || fail "pkcsslotd does not start"
within 60 slots || fail "pkcsslotd does not serve: $(tail -n5 -- "$dir/log")"

made() { [ -e "$state/keyd.made-by" ] && [ "$(cat -- "$state/keyd.made-by")" = "$dir" ] && [ -e "$dir/made" ]; }
if ! made; then
	[ -e "$state/keyd.made-by" ] || grep -q uninitialized "$dir/log" || fail "$state holds a token that was not made here"
	echo "$dir" >"$state/keyd.made-by"
	rm -rf -- "$state/MK_SO" "$state/MK_USER" "$state/NVTOK.DAT" "$state"/TOK_OBJ/* /dev/shm/var.lib.opencryptoki.swtok
	# Both PINs have to be changed before the token can be used.
	export KEYD_SO_DEFAULT=87654321 KEYD_SO_PIN KEYD_FIRST_PIN
	KEYD_SO_PIN=$(random 8)
	KEYD_FIRST_PIN=$(random 8)
	quietly tool --init-token --label "$token" --so-pin env:KEYD_SO_DEFAULT
	quietly tool --login --login-type so --so-pin env:KEYD_SO_DEFAULT --change-pin --new-pin env:KEYD_SO_PIN
	quietly tool --login --login-type so --so-pin env:KEYD_SO_PIN --init-pin --new-pin env:KEYD_FIRST_PIN
	quietly tool --login --pin env:KEYD_FIRST_PIN --change-pin --new-pin env:KEYD_PIN
	touch -- "$dir/made"
fi
show
