package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Digest is how an entry commits to a JSON document that is kept elsewhere: the
// SHA-256, in hex, of the document without insignificant space, as `jq -c`
// prints it. What is no JSON is taken as it is.
func Digest(document []byte) string {
	var compact bytes.Buffer
	if json.Compact(&compact, document) == nil {
		document = compact.Bytes()
	}
	sum := sha256.Sum256(document)
	return hex.EncodeToString(sum[:])
}
