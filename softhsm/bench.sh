#!/usr/bin/env bash
# Runs bin/keyd bench on a throw-away token of a kind:
#
#   softhsm/bench.sh KIND [ARGS for keyd bench...]
#
# KIND is softhsm, or one of the scripts beside this one: nss, opencryptoki, tpm2
# or p11kit.
set -euo pipefail
kind=${1:-softhsm}
[ $# -eq 0 ] || shift
here=$(cd -- "$(dirname "$0")" && pwd -P)
d=$(mktemp -d)
trap '[ ! -x "$d/token/stop" ] || "$d/token/stop"; rm -rf -- "$d"' EXIT
if [ "$kind" = softhsm ]; then
	"$here/token.sh" "$d/token" keyd >/dev/null
	export SOFTHSM2_CONF=$d/token/softhsm2.conf
	module=/usr/lib/softhsm/libsofthsm2.so token=keyd pin_file=$d/token/pin init_args=
else
	settings=$("$here/$kind.sh" "$d/token")
	eval "$settings"
fi
cat >"$d/keyd.yaml" <<YAML
backends:
  $kind:
    type: pkcs11
    module: $module
    token_label: $token
    pin: file:$pin_file
    init_args: "$init_args"
YAML
"$here/../bin/keyd" bench --config "$d/keyd.yaml" "$@"
