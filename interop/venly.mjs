// Venly's envelope as their own sample code makes it: WebCrypto, no library.
//   node venly.mjs open PRIVATE.pem       < envelope as JSON > plaintext
//   node venly.mjs seal PUBLIC.pem KEYID  < plaintext        > envelope as JSON
import { readFileSync } from "node:fs";

const { subtle } = globalThis.crypto;
const [verb, file, keyID] = process.argv.slice(2);
const input = readFileSync(0);
const der = Buffer.from(readFileSync(file, "utf8").replace(/-----[^-]+-----|\s/g, ""), "base64");
const oaep = { name: "RSA-OAEP", hash: "SHA-256" };
const b64 = (bytes) => Buffer.from(bytes).toString("base64");

if (verb === "open") {
  const { encryption, value } = JSON.parse(input);
  if (encryption.type !== "AES/GCM/NoPadding") throw new Error(`type ${encryption.type}`);
  const key = await subtle.importKey("pkcs8", der, oaep, false, ["decrypt"]);
  const raw = await subtle.decrypt(oaep, key, Buffer.from(encryption.key.encryptedValue, "base64"));
  const content = await subtle.importKey("raw", raw, "AES-GCM", false, ["decrypt"]);
  const iv = Buffer.from(encryption.iv, "base64");
  const plain = await subtle.decrypt({ name: "AES-GCM", iv }, content, Buffer.from(value, "base64"));
  process.stdout.write(Buffer.from(plain));
} else if (verb === "seal") {
  const key = await subtle.importKey("spki", der, oaep, false, ["encrypt"]);
  const content = await subtle.generateKey({ name: "AES-GCM", length: 256 }, true, ["encrypt"]);
  const iv = crypto.getRandomValues(new Uint8Array(12));
  const sealed = await subtle.encrypt({ name: "AES-GCM", iv }, content, input);
  const wrapped = await subtle.encrypt(oaep, key, await subtle.exportKey("raw", content));
  process.stdout.write(JSON.stringify({
    encryption: { type: "AES/GCM/NoPadding", key: { encryptedValue: b64(wrapped), encryptionKeyId: keyID }, iv: b64(iv) },
    value: b64(sealed),
  }));
} else {
  console.error("usage: node venly.mjs open PRIVATE.pem | seal PUBLIC.pem KEYID");
  process.exit(2);
}
