"""Many envelopes at once through jwcrypto: the same cases as batch.mjs.

jwcrypto takes no apu and apv where it seals, and reads them where it opens.
"""
import base64
import json
import sys

from jwcrypto import jwe, jwk

ALGS = ["RSA-OAEP-256", "RSA1_5", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW", "dir",
        "A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A256CBC-HS512"]


def raw(text):
    return base64.b64decode(text)


def seal(header, key, text):
    token = jwe.JWE(plaintext=raw(text), protected=json.dumps(header), algs=ALGS)
    token.add_recipient(key)
    return {"compact": token.serialize(compact=True)}


def one(c):
    if c["do"] == "seal":
        return seal({"alg": c["alg"], "enc": c["enc"], "kid": c["kid"]}, jwk.JWK.from_pem(c["public"].encode()), c["text"])
    if c["do"] == "open":
        token = jwe.JWE(algs=ALGS)
        token.deserialize(c["compact"], jwk.JWK.from_pem(c["private"].encode()))
        return {"header": json.loads(token.objects["protected"]), "text": base64.b64encode(token.payload).decode()}
    if c["do"] == "direct":
        key = jwk.JWK(kty="oct", k=base64.urlsafe_b64encode(raw(c["key"])).decode().rstrip("="))
        return seal({"alg": "dir", "enc": c["enc"]}, key, c["text"])
    keys = jwk.JWKSet.from_json(json.dumps(c["set"]))
    return {"kids": [k.key_id for k in keys]}


def attempt(c):
    try:
        return one(c)
    except Exception as e:  # whatever it is belongs into the result
        return {"error": f"{type(e).__name__}: {e}"}


json.dump([attempt(c) for c in json.load(sys.stdin)], sys.stdout)
