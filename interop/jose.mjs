// An outside JOSE implementation (npm jose) behind two verbs, for the tests.
//   node jose.mjs encrypt PUBLIC.pem ENC KID < plaintext > compact JWE
//   node jose.mjs decrypt PRIVATE.pem        < compact JWE > {"header":…,"plaintext":base64}
import { readFileSync } from "node:fs";
import { CompactEncrypt, compactDecrypt, importPKCS8, importSPKI } from "jose";

const [verb, file, enc, kid] = process.argv.slice(2);
const input = readFileSync(0);
const pem = readFileSync(file, "utf8");
const alg = "RSA-OAEP-256";

if (verb === "encrypt") {
  const key = await importSPKI(pem, alg);
  const jwe = await new CompactEncrypt(input).setProtectedHeader({ alg, enc, kid }).encrypt(key);
  process.stdout.write(jwe);
} else if (verb === "decrypt") {
  const key = await importPKCS8(pem, alg);
  const { plaintext, protectedHeader } = await compactDecrypt(input.toString().trim(), key, {
    keyManagementAlgorithms: [alg],
  });
  process.stdout.write(JSON.stringify({ header: protectedHeader, plaintext: Buffer.from(plaintext).toString("base64") }));
} else {
  console.error("usage: node jose.mjs encrypt PUBLIC.pem ENC KID | decrypt PRIVATE.pem");
  process.exit(2);
}
