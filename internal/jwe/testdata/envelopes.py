"""Seals one envelope under each content encryption with joserfc, an
implementation that shares no code with keyd or go-jose, and prints
envelopes.json. The key is made for this file and opens nothing else:

    pip install joserfc==1.6.5 && python envelopes.py > envelopes.json
"""
import json

import joserfc
from joserfc.jwe import encrypt_compact
from joserfc.jwk import RSAKey

ENCS = ["A128GCM", "A192GCM", "A256GCM", "A128CBC-HS256", "A256CBC-HS512"]
ALG = "RSA-OAEP-256"

keys = {bits: RSAKey.generate_key(bits, private=True) for bits in (2048, 3072, 4096)}
out = {
    "made_by": f"envelopes.py with joserfc {joserfc.__version__}",
    "keys": {bits: {n: key.as_dict(private=True)[n] for n in ("n", "e", "d", "p", "q")} for bits, key in keys.items()},
    "envelopes": [],
}
for bits, key in keys.items():
    for enc in ENCS:
        plaintext = f"Grüße from {bits} bits and {enc}"
        header = {"alg": ALG, "enc": enc, "kid": f"test-{bits}", "typ": "JOSE"}
        compact = encrypt_compact(header, plaintext.encode(), key, algorithms=[ALG, enc])
        out["envelopes"].append({"bits": bits, "enc": enc, "plaintext": plaintext, "compact": compact})
print(json.dumps(out, indent=1, ensure_ascii=False))
