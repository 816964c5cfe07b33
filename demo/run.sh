#!/usr/bin/env bash
# The main job from nothing, step by step: a token, the pretended Wise, the
# daemon, a key's life. Exits 0 only if every step did what it says.
#   BACKEND=hsm (default): a SoftHSM token. BACKEND=kms: a pretended AWS KMS.
set -euo pipefail
cd "$(dirname "$0")/.."
BACKEND=${BACKEND:-hsm}
case $BACKEND in hsm | kms) ;; *) echo "BACKEND=$BACKEND: want hsm or kms" >&2; exit 2 ;; esac
D=$PWD/.demo
rm -rf "$D"; mkdir -p "$D/state"; chmod 700 "$D" "$D/state"
if [ -t 1 ]; then bold=$'\e[1m'; dim=$'\e[2m'; green=$'\e[32m'; red=$'\e[31m'; off=$'\e[0m'; else bold= dim= green= red= off=; fi

n=0
step()  { n=$((n+1)); printf '\n%s%2d. %s%s\n' "$bold" "$n" "$*" "$off"; }
ok()    { printf '    %s✔ %s%s\n' "$green" "$*" "$off"; }
fail()  { printf '    %s✘ %s%s\n' "$red" "$*" "$off" >&2; [ -f "$D/keyd.log" ] && tail -5 "$D/keyd.log" >&2; exit 1; }
show()  { printf '%s' "$dim"; sed 's/^/    /'; printf '%s' "$off"; }
keyd()  { "$PWD/bin/keyd" "$@"; }
field() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | head -1; }

pids=()
cleanup() { for p in "${pids[@]}"; do kill "$p" 2>/dev/null || true; done; wait 2>/dev/null || true; }
trap cleanup EXIT
await() { # await SECONDS COMMAND…: until it succeeds
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done
}

if ! command -v curl >/dev/null; then
  [ "$(id -u)" = 0 ] || { echo "curl is missing: apt-get install curl" >&2; exit 1; }
  { apt-get install -y -qq curl || { apt-get update -qq && apt-get install -y -qq curl; }; } >/dev/null 2>&1
fi

if [ "$BACKEND" = hsm ]; then
  step "A throw-away token in .demo/token; the system's tokens are not touched"
  ./softhsm/token.sh "$D/token" keyd >"$D/token.out"
  export SOFTHSM2_CONF=$D/token/softhsm2.conf
  HOME_OF_KEYS="the token"
  ok "SoftHSM token \"keyd\", random PIN in a file only its owner reads"
else
  step "AWS KMS, pretended: the real AWS SDK will speak to it"
  bin/kmssim -listen 127.0.0.1:0 -addr-file "$D/kms.addr" >"$D/kms.log" 2>&1 &
  pids+=($!)
  await 10 test -s "$D/kms.addr" || fail "the pretended KMS did not start: $(cat "$D/kms.log")"
  export AWS_ACCESS_KEY_ID=AKIADEMO AWS_SECRET_ACCESS_KEY=demo AWS_EC2_METADATA_DISABLED=true AWS_CA_BUNDLE=
  HOME_OF_KEYS=KMS
  ok "listening on $(cat "$D/kms.addr")"
fi

step "Wise, pretended: token, upload, key, playground and /v1/cases"
printf 'demo-secret' >"$D/secret"; chmod 600 "$D/secret"
bin/partnersim -listen 127.0.0.1:0 -addr-file "$D/sim.addr" -client-id demo-client -client-secret-file "$D/secret" >"$D/sim.log" 2>&1 &
pids+=($!)
await 10 test -s "$D/sim.addr" || fail "the simulator did not start: $(cat "$D/sim.log")"
SIM=$(cat "$D/sim.addr")
ok "listening on $SIM"

step "The daemon, with one key named in its config"
sed -e "s#@D@#$D#g" -e "s#@SIM@#$SIM#g" -e "s#@UID@#$(id -u)#g" demo/keyd.yaml >"$D/keyd.yaml"
if [ "$BACKEND" = kms ]; then ./demo/to-kms.sh "$(cat "$D/kms.addr")" "$D/keyd.yaml"; fi
export KEYD_SOCKET=$D/keyd.sock KEYD_ADMIN_SOCKET=$D/admin.sock
keyd check --config "$D/keyd.yaml" | show
start_daemon() { bin/keyd serve --config "$D/keyd.yaml" >>"$D/keyd.log" 2>&1 & KEYD=$!; pids+=($KEYD); disown $KEYD; await 20 keyd status --json || fail "the daemon did not start"; }
start_daemon
ok "serving on two unix sockets"

step "The key comes to exist: made in $HOME_OF_KEYS, tested, uploaded, proven by the playground"
active() { keyd keys show wise-response --json | field active_kid; }
has_active() { [ -n "$(active)" ]; }
await 40 has_active || fail "no active version"
OLD=$(active)
keyd keys list | show
ok "version $OLD is active"

step "A sealed request to Wise"
printf '{"type":"GENERAL_ENQUIRY","subject":"payout 4711 is late","externalId":"case-1"}' >"$D/request.json"
keyd encrypt wise "$D/request.json" --url /v1/cases --json >"$D/sealed.json"
field jwe <"$D/sealed.json" | tr -d '\n' >"$D/request.jwe"
head -c 96 "$D/request.jwe" | sed 's/$/…\n/' | show
ok "$(wc -c <"$D/request.json") bytes of JSON, $(wc -c <"$D/request.jwe") bytes of JWE"

step "Wise opens it and answers with an envelope for us; keyd opens that in $HOME_OF_KEYS"
./demo/wise-call.sh "$SIM" demo-client "$D/secret" "$D/request.jwe" >"$D/answer.jwe" || fail "the simulator refused the request"
keyd decrypt wise "$D/answer.jwe" --verbose >"$D/answer.json" 2>"$D/answer.how"
{ cat "$D/answer.json"; echo; cat "$D/answer.how"; } | show
grep -q "$OLD" "$D/answer.how" || fail "opened by another kid"
grep -q "boundary raw\|boundary unwrap\|boundary sealed" "$D/answer.how" || fail "no boundary level"
ok "opened under $OLD"

step "Rotation: a second version is made, uploaded and activated; the first drains"
keyd keys rotate wise-response --wait 60s | show
NEW=$(active); [ "$NEW" != "$OLD" ] || fail "still the old version"
ok "version $NEW is active"

step "The answer sealed to the old version still opens"
keyd decrypt wise "$D/answer.jwe" --verbose >"$D/again.json" 2>"$D/again.how"
cmp -s "$D/answer.json" "$D/again.json" || fail "another plaintext"
show <"$D/again.how"
ok "same plaintext, under the draining $OLD"

step "An envelope for a kid nobody knows is refused"
STRANGE=$(printf '{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"11111111-2222-4333-8444-555555555555"}' | base64 -w0 | tr '+/' '-_' | tr -d =)
printf '%s.%s' "$STRANGE" "$(cut -d. -f2- "$D/answer.jwe")" >"$D/strange.jwe"
if keyd decrypt wise "$D/strange.jwe" >/dev/null 2>"$D/strange.err"; then fail "it opened"; fi
show <"$D/strange.err"
grep -q unknown_kid "$D/strange.err" || fail "refused for another reason"
ok "refused: unknown_kid"

step "kill -9 in the middle of a rotation: the upload has happened, its answer has not arrived"
curl -fsS "$SIM/sim/faults" -d '{"endpoint":"upload","kind":"hang","after":true}' >/dev/null
keyd keys rotate wise-response >/dev/null
uploads() { curl -fsS "$SIM/sim/state" | grep -o '"uploaded_at"' | wc -l; }
three() { [ "$(uploads)" -ge 3 ]; }
await 30 three || fail "no third upload seen"
kill -9 "$KEYD"; wait "$KEYD" 2>/dev/null || true
ok "daemon killed; Wise has a key that keyd has no answer about"
curl -fsS -X DELETE "$SIM/sim/faults" >/dev/null

step "It comes back and finishes the same rotation: same kid, same dates, no orphan"
start_daemon
third() { a=$(active); [ -n "$a" ] && [ "$a" != "$NEW" ]; }
await 60 third || fail "the rotation did not finish"
LAST=$(active)
keyd decrypt wise "$D/answer.jwe" >"$D/third.json" && cmp -s "$D/answer.json" "$D/third.json" || fail "the old answer no longer opens"
keyd doctor | show
ok "version $LAST is active, everything still opens, doctor finds nothing"

if [ "$BACKEND" = kms ]; then
  step "A key of another kind: it signs, in KMS, and its self-test is a signature"
  keyd keys create wise-assertion --partner wise --backend cloud --algorithm PS256 --canary off | show
  signing() { keyd keys show wise-assertion --json | sed -n "/\"state\": \"$1\"/q0; \$q1"; }
  await 40 signing announced || fail "no signing key"
  SIGNS=$(keyd keys show wise-assertion --json | grep -o '"kid": "[^"]*"' | head -1 | cut -d'"' -f4)
  keyd keys show "$SIGNS" --public | head -2 | show
  keyd keys confirm "$SIGNS" --reason "handed over" --wait 20s >/dev/null
  await 20 signing active || fail "the signing key is not active"
  keyd backends list | show
  keyd keys list | show
  ok "made, tested, handed over by a person, as Wise has no call for it"
fi

step "The timeline"
keyd status | show

step "The audit chain, verified without the daemon"
keyd audit tail -n 8 | show
kill -TERM "$KEYD"; await 20 sh -c "! kill -0 $KEYD" || fail "the daemon did not stop"
keyd audit verify --config "$D/keyd.yaml" | show
cp "$D/state/audit.jsonl" "$D/forged.jsonl"; sed -i '3s/"ok"/"no"/; 3s/intent/Intent/' "$D/forged.jsonl"
if keyd audit verify --file "$D/forged.jsonl" >"$D/forged.out"; then fail "a forged log passed"; fi
show <"$D/forged.out"
ok "whole; a copy with one changed entry is found out"

if [ "$BACKEND" = hsm ]; then
  step "A third party's view of the token (pkcs11-tool)"
  MODULE=$(sed -n 's/^ *module: //p' "$D/keyd.yaml")
  PIN=$(cat "$D/token/pin") pkcs11-tool --module "$MODULE" --token-label keyd --login --pin env:PIN -O --type privkey 2>/dev/null >"$D/objects" || fail "pkcs11-tool"
  grep -E 'Private Key|label|ID:|Access' "$D/objects" | show
  [ "$(grep -c 'Private Key Object' "$D/objects")" = 3 ] || fail "want exactly three private keys"
  [ "$(grep -c 'sensitive, always sensitive, never extractable, local' "$D/objects")" = 3 ] || fail "a key could leave the token"
  ok "three private keys, all generated there, none extractable"
fi

if [ "$BACKEND" = kms ]; then
  step "A third party's view of KMS (curl)"
  kms() { curl -fsS "$(cat "$D/kms.addr")" -H 'Content-Type: application/x-amz-json-1.1' -H "X-Amz-Target: TrentService.$1" -H 'X-Amz-Date: 20260101T000000Z' \
    -H "Authorization: AWS4-HMAC-SHA256 Credential=A/20260101/eu-central-1/kms/aws4_request, SignedHeaders=host;x-amz-date;x-amz-target, Signature=$(printf '0%.0s' $(seq 64))" -d "$2"; }
  kms ListAliases '{}' | grep -o 'alias/keyd/demo/[^"]*' | sort -u >"$D/aliases"
  while read -r alias; do
    kms DescribeKey "{\"KeyId\":\"$alias\"}" | grep -oE '"(KeySpec|KeyUsage|KeyState|Origin)":"[^"]*"' | tr -d '"' | tr '\n' ' '; echo "$alias"
  done <"$D/aliases" >"$D/objects"
  show <"$D/objects"
  [ "$(grep -c 'KeyUsage:ENCRYPT_DECRYPT' "$D/objects")" = 3 ] && [ "$(grep -c 'KeyUsage:SIGN_VERIFY' "$D/objects")" = 1 ] || fail "want three keys that decrypt and one that signs"
  [ "$(grep -c 'Origin:AWS_KMS' "$D/objects")" = 4 ] || fail "a key was not made in KMS"
  ok "four keys, all made in KMS, which has no call that returns a private one"
fi

step "The other partners, each in one call: keyd seals, sends with the caller's own token, and opens"
mkdir -m 700 "$D/tour" "$D/tour/state"
cp "$D/secret" "$D/tour/secret"
# None of these needs a key of ours here, so there is no backend either.
sed -e '/^backends:/,/^partners:/{/^partners:/!d}' -e '/^  wise:/,/^  wise-card:/{/^  wise-card:/!d}' -e '/^keys:/,$d' \
  -e "s#@D@#$D/tour#g" -e "s#@SIM@#$SIM#g" -e "s#@UID@#$(id -u)#g" demo/partners.yaml >"$D/tour/keyd.yaml"
export KEYD_SOCKET=$D/tour/keyd.sock KEYD_ADMIN_SOCKET=$D/tour/admin.sock
bin/keyd serve --config "$D/tour/keyd.yaml" >>"$D/keyd.log" 2>&1 & KEYD=$!; pids+=($KEYD)
await 20 keyd status --json || [ -S "$KEYD_SOCKET" ] || fail "the daemon did not start"
token() { curl -fsS -X POST "$SIM/sim/user-token/$1" | field access_token >"$D/tour/token"; chmod 600 "$D/tour/token"; }
called() { # called PARTNER METHOD PATH BODY WANT [FLAGS…]
  local partner=$1 method=$2 path=$3 body=$4 want=$5; shift 5
  printf '%s' "$body" | keyd call "$partner" "$method" "$path" - "$@" >"$D/tour/answer" 2>"$D/tour/how" || { show <"$D/tour/how"; fail "$partner"; }
  { printf '%-10s %s %s\n' "$partner" "$method" "$path"; cut -c1-110 "$D/tour/answer"; echo; } | show
  grep -q "$want" "$D/tour/answer" || fail "another answer from $partner"
}
token wise
called wise-card POST /twcard-data/v1/sensitive-card-data/details '{}' '"pan"' --token "file:$D/tour/token" --header 'X-Tw-Twcard-Card-Token: 0190a0c4-6f0e-7cc0-8c0f-0123456789ab'
token jackhenry
called jackhenry POST /api/card-mgmt/v1/inst-1/card-credentials/search-by-pan \
  '{"encryptedPrimaryAccountNumber":{"primaryAccountNumber":"4396910000012345"},"expiration":{"month":10}}' primaryAccountNumber \
  --token "file:$D/tour/token" --query includePrimaryAccountNumber=true --open-json /encryptedCardCredentials
token powens
called powens POST /users/me/connections '{"id_connector":59,"login":"somebody","password":"a secret"}' '"id":17' --token "file:$D/tour/token"
called venly POST /api/users '{"reference":"r-1","signingMethod":{"type":"PIN","value":"123456"}}' r-1
keyd audit tail -n 8 | show
kill -TERM "$KEYD"; await 20 sh -c "! kill -0 $KEYD" || fail "the daemon did not stop"
if grep -q 4396910000012345 "$D/keyd.log" "$D/tour/state/audit.jsonl"; then fail "a card number is on record"; fi
ok "a reply under the request's own key, one under a key made for it, values and bodies sealed; no card number on record"

printf '\n%sEvery step did what it says.%s (%d seconds)\n' "$bold" "$off" "$SECONDS"
