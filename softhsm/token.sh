#!/usr/bin/env bash
# Makes a throw-away SoftHSM token in a directory of its own:
#
#   softhsm/token.sh DIR [LABEL]
#
#   DIR/softhsm2.conf   what SOFTHSM2_CONF must name
#   DIR/tokens/         the token's files
#   DIR/pin             its user PIN, random, mode 0600
#
# The system's own tokens are never touched. Run again on the same DIR, it
# changes nothing and prints the same.
set -euo pipefail

fail() {
	echo "softhsm/token.sh: $*" >&2
	exit 1
}

if [ $# -lt 1 ] || [ $# -gt 2 ] || [ -z "$1" ]; then
	echo "usage: softhsm/token.sh DIR [LABEL]" >&2
	exit 2
fi
label=${2:-keyd}
module=/usr/lib/softhsm/libsofthsm2.so

# PKCS #11 v2.40 §3.2: a label is 32 bytes, padded with blanks.
[[ $label =~ ^[A-Za-z0-9._-]{1,32}$ ]] || fail "label '$label': want 1 to 32 letters, digits, dots, dashes"
[ -e "$module" ] || fail "$module is missing: make softhsm installs it"
command -v pkcs11-tool >/dev/null || fail "pkcs11-tool is missing: make softhsm installs it"

umask 077
mkdir -p -- "$1"
dir=$(cd -- "$1" && pwd -P)
# softhsm2.conf has no quoting.
[[ $dir != *[[:space:]=#]* ]] || fail "$dir: SoftHSM does not read paths with a blank, = or # in them"

show() {
	cat <<-OUT
		export SOFTHSM2_CONF=$dir/softhsm2.conf
		# module $module, token $label, PIN in $dir/pin
	OUT
}

# The PIN is put in place last: where it stands, the token is whole.
if [ -e "$dir/pin" ]; then
	[ "$(cat -- "$dir/label")" = "$label" ] || fail "$dir holds the token '$(cat -- "$dir/label")', not '$label'"
	show
	exit 0
fi
[ -z "$(ls -A -- "$dir")" ] || fail "$dir is not empty and holds no whole token: name a new directory, or remove this one"

mkdir -- "$dir/tokens"
cat >"$dir/softhsm2.conf" <<CONF
directories.tokendir = $dir/tokens
objectstore.backend = file
slots.removable = false
log.level = ERROR
CONF
export SOFTHSM2_CONF=$dir/softhsm2.conf

# pkcs11-tool takes a PIN from the environment, which unlike argv only the same
# user can read; softhsm2-util would want it in argv. Nobody needs the SO PIN
# again.
random() { od -An -N16 -tx1 /dev/urandom | tr -d ' \n'; }
KEYD_SO_PIN=$(random)
KEYD_PIN=$(random)
export KEYD_SO_PIN KEYD_PIN
{
	pkcs11-tool --module "$module" --slot-index 0 --init-token --label "$label" --so-pin env:KEYD_SO_PIN &&
		pkcs11-tool --module "$module" --token-label "$label" --login --login-type so --so-pin env:KEYD_SO_PIN \
			--init-pin --new-pin env:KEYD_PIN
} >"$dir/log" 2>&1 || fail "making the token: $(cat -- "$dir/log")"

rm -- "$dir/log"
printf '%s\n' "$label" >"$dir/label"
printf '%s\n' "$KEYD_PIN" >"$dir/pin.new"
mv -- "$dir/pin.new" "$dir/pin"
show
