#!/usr/bin/env bash
# Makes a TPM in software (swtpm) and a token of tpm2-pkcs11 on it, in DIR:
#
#   eval "$(softhsm/tpm2.sh DIR)"     # exports; module, token, pin_file
#   DIR/stop                          # ends what was started
#
# tpm2-abrmd stands before the TPM, as the kernel's resource manager does before a
# real one: a TPM has room for three objects, and the module leaves more there.
set -euo pipefail
. "$(dirname "$0")/common.sh"
directory "$@"
module '/usr/lib/*/pkcs11/libtpm2_pkcs11.so'
command -v swtpm >/dev/null || fail "swtpm is missing: make tokens-install installs it"
token=keyd
pin 16
mkdir -p -- "$dir/tpm" "$dir/store"
# Below the ports that Linux gives to outgoing connections (32768 and up).
[ -s "$dir/port" ] || echo "$((12000 + RANDOM % 20000 / 2 * 2))" >"$dir/port"
port=$(cat -- "$dir/port")
bus=unix:path=$dir/bus
export DBUS_SESSION_BUS_ADDRESS=$bus TPM2_PKCS11_TCTI=tabrmd:bus_type=session TPM2_PKCS11_STORE=$dir/store TSS2_LOG=all+none

starts() { # PIDFILE COMMAND...
	local pidfile=$1
	shift
	"$@" </dev/null >>"$dir/daemons.log" 2>&1 &
	echo $! >"$pidfile"
	disown
}
# proc_net_tcp(5): addresses in hexadecimal, and 0A is LISTEN. To connect would be to
# use it.
listens() { grep -q "^ *[0-9]*: 0100007F:$(printf %04X "$1") [0-9A-F:]* 0A " /proc/net/tcp; }
serves() { dbus-send --session --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.GetNameOwner string:com.intel.tss2.Tabrmd >/dev/null 2>&1; }

if ! runs "$dir/abrmd.pid"; then
	runs "$dir/swtpm.pid" || starts "$dir/swtpm.pid" swtpm socket --tpm2 --tpmstate "dir=$dir/tpm" \
		--server "type=tcp,port=$port,bindaddr=127.0.0.1" --ctrl "type=tcp,port=$((port + 1)),bindaddr=127.0.0.1" --flags not-need-init,startup-clear
	runs "$dir/bus.pid" || { rm -f -- "$dir/bus"; starts "$dir/bus.pid" dbus-daemon --session --nofork --address="$bus"; }
	within 60 test -S "$dir/bus" || fail "no bus for tpm2-abrmd: $(tail -n5 -- "$dir/daemons.log")"
	# It looks for the TPM once, when it starts.
	within 60 listens "$port" && within 60 listens "$((port + 1))" || fail "no TPM for tpm2-abrmd: $(tail -n5 -- "$dir/daemons.log")"
	starts "$dir/abrmd.pid" tpm2-abrmd --session --allow-root --max-transients=100 --tcti="swtpm:host=127.0.0.1,port=$port"
	stopper "$dir/abrmd.pid" "$dir/swtpm.pid" "$dir/bus.pid"
fi
within 60 serves || fail "tpm2-abrmd does not serve: $(tail -n5 -- "$dir/daemons.log")"

tool() { pkcs11-tool --module "$module" "$@"; }
[ -e "$dir/made" ] || {
	export KEYD_SO_PIN
	KEYD_SO_PIN=$(random 16)
	quietly tool --slot-index 0 --init-token --label "$token" --so-pin env:KEYD_SO_PIN
	quietly tool --token-label "$token" --login --login-type so --so-pin env:KEYD_SO_PIN --init-pin --new-pin env:KEYD_PIN
	touch -- "$dir/made"
}
printf 'export DBUS_SESSION_BUS_ADDRESS=%q TPM2_PKCS11_TCTI=%q TPM2_PKCS11_STORE=%q TSS2_LOG=%q\n' \
	"$DBUS_SESSION_BUS_ADDRESS" "$TPM2_PKCS11_TCTI" "$TPM2_PKCS11_STORE" "$TSS2_LOG"
show
