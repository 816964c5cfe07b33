// Verifies a client assertion (RFC 7523) with npm jose, as a token endpoint would.
//   node assertion.mjs PUBLIC.pem CLIENT_ID AUDIENCE < JWT > {"header":…,"payload":…}
import { readFileSync } from "node:fs";
import { importSPKI, jwtVerify } from "jose";

const [file, client, audience] = process.argv.slice(2);
const key = await importSPKI(readFileSync(file, "utf8"), "PS256");
const { payload, protectedHeader } = await jwtVerify(readFileSync(0, "utf8"), key, {
  algorithms: ["PS256"], issuer: client, subject: client, audience, requiredClaims: ["exp", "jti"], typ: "JWT",
});
if (payload.exp > Date.now() / 1000 + 300) throw new Error(`exp ${payload.exp} is far ahead: not in seconds?`);
process.stdout.write(JSON.stringify({ header: protectedHeader, payload }));
