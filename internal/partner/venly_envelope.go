package partner

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/google/uuid"
)

// SigningMethod is a PIN, emergency code, password or biometric value with which
// a user of Venly's allows a request.
type SigningMethod struct {
	// ID is the UUID of the signing method.
	ID string
	// Value is the secret, in UTF-8. It is the caller's to wipe.
	Value []byte
	// IdempotencyKey is a UUID that Venly takes once; a new one when empty.
	IdempotencyKey string
	// PhysicalDeviceID is for biometric signing methods.
	PhysicalDeviceID string
}

// venlyEnvelope is what Venly has in place of a JWE. All of it is standard
// base64, the tag stands at the end of value, and there is no additional data.
type venlyEnvelope struct {
	Encryption struct {
		Type string `json:"type"`
		Key  struct {
			EncryptedValue  []byte `json:"encryptedValue"`
			EncryptionKeyID string `json:"encryptionKeyId"`
		} `json:"key"`
		IV []byte `json:"iv"`
	} `json:"encryption"`
	Value []byte `json:"value"`
}

// SealHeader seals a signing method for a request with the given body, and
// returns the value of its Encrypted-Signing-Method header. body must be the
// exact bytes that are sent, for Venly compares their hash; id is that of the
// key.
func (v *Venly) SealHeader(public crypto.PublicKey, id string, m SigningMethod, body []byte) (string, error) {
	if m.ID == "" || len(m.Value) == 0 || !utf8.Valid(m.Value) {
		return "", errors.New("a signing method needs an id, and a value in UTF-8")
	}
	if m.IdempotencyKey == "" {
		m.IdempotencyKey = uuid.NewString()
	}
	if !isUUID(m.IdempotencyKey) {
		return "", errors.New("the idempotency key of a signing method is not a UUID")
	}
	plaintext := v.methodJSON(m, sha256.Sum256(body))
	defer clear(plaintext)
	envelope, err := sealVenly(public, id, plaintext)
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(envelope), nil
}

// methodJSON writes a signing method into a buffer of its own, so that it can
// be wiped.
func (v *Venly) methodJSON(m SigningMethod, sum [sha256.Size]byte) []byte {
	hash := base64.StdEncoding.EncodeToString(sum[:])
	if v.cfg.Hash == HashHex {
		hash = hex.EncodeToString(sum[:])
	}
	// Never grown: a buffer left behind could not be wiped. A byte of the value
	// takes six at most.
	out := make([]byte, 0, 512+6*(len(m.ID)+len(m.Value)+len(m.PhysicalDeviceID)))
	out = appendQuoted(append(out, `{"id":`...), []byte(m.ID))
	out = appendQuoted(append(out, `,"value":`...), m.Value)
	out = appendQuoted(append(out, `,"idempotencyKey":`...), []byte(m.IdempotencyKey))
	out = appendQuoted(append(out, `,"signature":{"type":"sha256","value":`...), []byte(hash))
	out = append(out, '}')
	if m.PhysicalDeviceID != "" {
		out = appendQuoted(append(out, `,"physicalDeviceId":`...), []byte(m.PhysicalDeviceID))
	}
	return append(out, '}')
}

// appendQuoted writes text in UTF-8 as a JSON string (RFC 8259 §7).
func appendQuoted(to, text []byte) []byte {
	to = append(to, '"')
	for _, b := range text {
		switch {
		case b == '"' || b == '\\':
			to = append(to, '\\', b)
		case b < ' ':
			to = fmt.Appendf(to, `\u%04x`, b)
		default:
			to = append(to, b)
		}
	}
	return append(to, '"')
}

// SealBody seals a JSON object and returns the body to send in its place. id is
// that of the key. The plaintext is the caller's to wipe.
func (v *Venly) SealBody(public crypto.PublicKey, id string, plaintext []byte) ([]byte, error) {
	if !json.Valid(plaintext) || !bytes.HasPrefix(bytes.TrimLeft(plaintext, " \t\r\n"), []byte("{")) {
		return nil, errors.New("the plaintext is not a JSON object")
	}
	if v.cfg.Body == BodyString {
		if !utf8.Valid(plaintext) {
			return nil, errors.New("the plaintext is not UTF-8")
		}
		plaintext = appendQuoted(make([]byte, 0, 2+6*len(plaintext)), plaintext)
		defer clear(plaintext)
	}
	return sealVenly(public, id, plaintext)
}

// sealVenly makes an envelope under a new content key and IV.
func sealVenly(public crypto.PublicKey, id string, plaintext []byte) ([]byte, error) {
	key, err := asRSA(public, nil)
	if err != nil {
		return nil, err
	}
	if err := checkRSA(key); err != nil {
		return nil, err
	}
	content := make([]byte, 32)
	defer clear(content)
	iv := make([]byte, 12) // NIST SP 800-38D §8.2.2
	_, _ = rand.Read(content)
	_, _ = rand.Read(iv) // neither ever fails (crypto/rand)
	block, err := aes.NewCipher(content)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	var e venlyEnvelope
	e.Encryption.Type = "AES/GCM/NoPadding"
	e.Encryption.IV = iv
	e.Encryption.Key.EncryptionKeyID = id
	// SHA-256 in MGF1 too, as WebCrypto and AWS KMS have it.
	if e.Encryption.Key.EncryptedValue, err = rsa.EncryptOAEP(sha256.New(), rand.Reader, key, content, nil); err != nil {
		return nil, err
	}
	e.Value = gcm.Seal(nil, iv, plaintext, nil)
	return json.Marshal(e)
}
