#!/usr/bin/env bash
# Installs the software tokens that the tests and the demo use: SoftHSM, NSS
# softoken, p11-kit to have a token in another process, and pkcs11-tool and
# certutil as outside tools. Does nothing when all is there.
set -euo pipefail

# One at a time: make may start several. The lock is on this file itself, so
# that nothing has to be created in a directory that others can write to.
exec 9<"$0"
flock 9

missing() {
	[ -e /usr/lib/softhsm/libsofthsm2.so ] && command -v softhsm2-util >/dev/null || echo softhsm2
	command -v pkcs11-tool >/dev/null || echo opensc
	compgen -G '/usr/lib/*/libsoftokn3.so' >/dev/null || echo libnss3
	command -v p11-kit >/dev/null || echo p11-kit
	compgen -G '/usr/lib/*/pkcs11/p11-kit-client.so' >/dev/null || echo p11-kit-modules
	command -v certutil >/dev/null || echo libnss3-tools
	[ "${1:-}" = all ] || return 0
	command -v pkcsslotd >/dev/null && compgen -G '/usr/lib/*/pkcs11/libopencryptoki.so' >/dev/null || echo opencryptoki
	command -v swtpm >/dev/null || echo swtpm
	command -v tpm2-abrmd >/dev/null || echo tpm2-abrmd
	compgen -G '/usr/lib/*/libtss2-tcti-swtpm.so.0' >/dev/null || echo libtss2-tcti-swtpm0
	compgen -G '/usr/lib/*/libtss2-tcti-tabrmd.so.0' >/dev/null || echo libtss2-tcti-tabrmd0
	compgen -G '/usr/lib/*/pkcs11/libtpm2_pkcs11.so' >/dev/null || echo libtpm2-pkcs11-1
	command -v dbus-daemon >/dev/null || echo dbus-daemon
	command -v dbus-send >/dev/null || echo dbus-bin
}

mapfile -t packages < <(missing "$@")
if [ "${#packages[@]}" -eq 0 ]; then
	exit 0
fi
command -v apt-get >/dev/null || {
	echo "softhsm/install.sh: ${packages[*]} missing, and there is no apt-get here: install them by hand" >&2
	exit 1
}
[ "$(id -u)" -eq 0 ] || {
	echo "softhsm/install.sh: ${packages[*]} missing: run this once as root (sudo $0)" >&2
	exit 1
}

export DEBIAN_FRONTEND=noninteractive
apt=(apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
"${apt[@]}" update
"${apt[@]}" install -y --no-install-recommends "${packages[@]}"

mapfile -t packages < <(missing "$@")
[ "${#packages[@]}" -eq 0 ] || {
	echo "softhsm/install.sh: ${packages[*]} installed, but not where keyd's tests look for it" >&2
	exit 1
}
