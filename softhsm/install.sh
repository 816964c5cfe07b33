#!/usr/bin/env bash
# Installs the software tokens that the tests and the demo use: SoftHSM, NSS
# softoken, p11-kit to have a token in another process, and pkcs11-tool as an
# outside check. Does nothing when all is there.
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
}

mapfile -t packages < <(missing)
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

mapfile -t packages < <(missing)
[ "${#packages[@]}" -eq 0 ] || {
	echo "softhsm/install.sh: ${packages[*]} installed, but not where keyd's tests look for it" >&2
	exit 1
}
