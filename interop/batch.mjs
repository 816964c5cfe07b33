// Many envelopes at once through npm jose: node batch.mjs < cases > results
//   {"do":"seal","alg","enc","kid","public":PEM,"text":base64[,"apu","apv"]} -> {"compact"}
//   {"do":"open","alg","private":PEM,"compact"}                              -> {"header","text":base64}
//   {"do":"direct","enc","key":base64,"text":base64}                         -> {"compact"}
//   {"do":"jwks","set":JWK set}                                              -> {"kids":[…]}
// What goes wrong in one is its {"error"}.
import { readFileSync } from "node:fs";
import { CompactEncrypt, compactDecrypt, importJWK, importPKCS8, importSPKI } from "jose";

const raw = (base64) => new Uint8Array(Buffer.from(base64, "base64"));
const b64 = (bytes) => Buffer.from(bytes).toString("base64");

async function one(c) {
  if (c.do === "seal") {
    const sealing = new CompactEncrypt(raw(c.text)).setProtectedHeader({ alg: c.alg, enc: c.enc, kid: c.kid });
    if (c.apu) sealing.setKeyManagementParameters({ apu: raw(c.apu), apv: raw(c.apv) });
    return { compact: await sealing.encrypt(await importSPKI(c.public, c.alg)) };
  }
  if (c.do === "open") {
    const opened = await compactDecrypt(c.compact, await importPKCS8(c.private, c.alg), { keyManagementAlgorithms: [c.alg] });
    return { header: opened.protectedHeader, text: b64(opened.plaintext) };
  }
  if (c.do === "direct") {
    return { compact: await new CompactEncrypt(raw(c.text)).setProtectedHeader({ alg: "dir", enc: c.enc }).encrypt(raw(c.key)) };
  }
  const kids = [];
  for (const jwk of c.set.keys) {
    await importJWK(jwk, jwk.alg);
    kids.push(jwk.kid);
  }
  return { kids };
}

const results = [];
for (const c of JSON.parse(readFileSync(0, "utf8"))) {
  results.push(await one(c).catch((e) => ({ error: String(e) })));
}
process.stdout.write(JSON.stringify(results));
