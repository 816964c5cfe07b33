#!/bin/sh
# wise-call.sh URL CLIENT_ID SECRET_FILE ENVELOPE [PATH]: what a payment backend
# does with a sealed request: a token, then POST /v1/cases or another PATH. Prints
# the sealed answer.
set -eu
token=$(printf 'user = "%s:%s"\n' "$2" "$(cat "$3")" | curl -fsS -K - -d grant_type=client_credentials "$1/oauth/token" |
  sed 's/.*"access_token" *: *"\([^"]*\)".*/\1/')
printf 'header = "Authorization: Bearer %s"\n' "$token" | curl -fsS -K - "$1${5:-/v1/cases}" \
  -H 'Content-Type: application/jose+json' -H 'Accept: application/jose+json' -H 'X-TW-JOSE-Method: jwe' \
  -H 'Accept-Encoding: identity' -H 'Content-Encoding: identity' --data-binary "@$4"
