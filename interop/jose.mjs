// An outside JOSE implementation (npm jose) behind two verbs, for the tests.
//   node jose.mjs encrypt PUBLIC.pem ENC KID [ALG] < plaintext > compact JWE
//   node jose.mjs decrypt PRIVATE.pem        < compact JWE > {"header":…,"plaintext":base64}
import { readFileSync } from "node:fs";
import { CompactEncrypt, compactDecrypt, importPKCS8, importSPKI } from "jose";

const [verb, file, enc, kid, alg = "RSA-OAEP-256"] = process.argv.slice(2);
const input = readFileSync(0);
const pem = readFileSync(file, "utf8");

if (verb === "encrypt") {
  const key = await importSPKI(pem, alg);
  const sealing = new CompactEncrypt(input).setProtectedHeader({ alg, enc, kid });
  if (alg.startsWith("ECDH-ES")) {
    sealing.setKeyManagementParameters({ apu: new TextEncoder().encode("Alice"), apv: new TextEncoder().encode("Bob") });
  }
  const jwe = await sealing.encrypt(key);
  process.stdout.write(jwe);
} else if (verb === "decrypt") {
  const key = await importPKCS8(pem, alg);
  const { plaintext, protectedHeader } = await compactDecrypt(input.toString().trim(), key, {
    keyManagementAlgorithms: [alg],
  });
  process.stdout.write(JSON.stringify({ header: protectedHeader, plaintext: Buffer.from(plaintext).toString("base64") }));
} else {
  console.error("usage: node jose.mjs encrypt PUBLIC.pem ENC KID [ALG] | decrypt PRIVATE.pem");
  process.exit(2);
}
