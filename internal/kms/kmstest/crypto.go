package kmstest

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // RSAES_OAEP_SHA_1 is one of KMS's algorithms
	"crypto/sha256"
	_ "crypto/sha512" // RSASSA_PSS_SHA_512
	"crypto/x509"
	"hash"
	"slices"
	"strings"
)

func (s *Server) getPublicKey(in *keyInput) (any, error) {
	k, err := s.toUse(in.KeyID, false)
	if err != nil {
		return nil, err
	}
	der, err := k.public()
	if err != nil {
		return nil, err
	}
	answer := map[string]any{"KeyId": k.arn, "PublicKey": der, "KeySpec": k.spec, "CustomerMasterKeySpec": k.spec, "KeyUsage": k.usage}
	encryption, agreement, signing := k.algorithms()
	for name, list := range map[string][]string{"EncryptionAlgorithms": encryption, "KeyAgreementAlgorithms": agreement, "SigningAlgorithms": signing} {
		if list != nil {
			answer[name] = list
		}
	}
	return answer, nil
}

// toUse finds a key that may be used now, and counts the cryptographic
// operations that share a quota. What is read of it afterwards never changes, so
// the lock is not held for the operation itself.
func (s *Server) toUse(name string, cryptographic bool) (*key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byName(name)
	if err != nil {
		return nil, err
	}
	if cryptographic {
		shared := "RSA"
		if k.ecdh != nil {
			shared = "ECC"
		}
		if err := s.within(shared); err != nil {
			return nil, err
		}
	}
	return k, k.usable()
}

type signInput struct {
	KeyID            string `json:"KeyId"`
	Message          []byte
	MessageType      string
	SigningAlgorithm string
}

// hashes are what the last part of a signing algorithm's name means.
var hashes = map[string]crypto.Hash{"SHA_256": crypto.SHA256, "SHA_384": crypto.SHA384, "SHA_512": crypto.SHA512}

// sign signs with an RSA key. The salt of RSASSA-PSS is as long as the digest.
func (s *Server) sign(in *signInput) (any, error) {
	if len(in.Message) == 0 || len(in.Message) > 4096 {
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'message' failed to satisfy constraint: "+
			"Member must have length between 1 and 4096")
	}
	k, err := s.toUse(in.KeyID, true)
	if err != nil {
		return nil, err
	}
	if _, _, signing := k.algorithms(); k.usage != signVerify || !slices.Contains(signing, in.SigningAlgorithm) {
		return nil, refuse("InvalidKeyUsageException", "%s key usage is %s which is not valid for Sign with %q.", k.arn, k.usage, in.SigningAlgorithm)
	}
	if k.rsa == nil {
		return nil, refuse("UnsupportedOperationException", "kmstest does not sign with elliptic curves")
	}
	hash := hashes[in.SigningAlgorithm[len(in.SigningAlgorithm)-len("SHA_256"):]]
	digest := in.Message
	switch in.MessageType {
	case "", "RAW":
		h := hash.New()
		h.Write(in.Message)
		digest = h.Sum(nil)
	case "DIGEST":
		if len(digest) != hash.Size() {
			return nil, refuse("ValidationException", "Digest is invalid length for algorithm %s.", in.SigningAlgorithm)
		}
	default:
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'messageType' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [RAW, DIGEST, EXTERNAL_MU]")
	}
	signature, err := rsa.SignPKCS1v15(rand.Reader, k.rsa, hash, digest)
	if strings.HasPrefix(in.SigningAlgorithm, "RSASSA_PSS_") {
		signature, err = rsa.SignPSS(rand.Reader, k.rsa, hash, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyId": k.arn, "Signature": signature, "SigningAlgorithm": in.SigningAlgorithm}, nil
}

type decryptInput struct {
	KeyID               string `json:"KeyId"`
	CiphertextBlob      []byte
	EncryptionAlgorithm string
}

func (s *Server) decrypt(in *decryptInput) (any, error) {
	if len(in.CiphertextBlob) == 0 || len(in.CiphertextBlob) > 6144 {
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'ciphertextBlob' failed to satisfy constraint: "+
			"Member must have length between 1 and 6144")
	}
	if in.KeyID == "" {
		// Only a symmetric ciphertext says which key it is for.
		return nil, refuse("InvalidCiphertextException", "the ciphertext names no key")
	}
	k, err := s.toUse(in.KeyID, true)
	if err != nil {
		return nil, err
	}
	var h func() hash.Hash
	switch in.EncryptionAlgorithm {
	case "RSAES_OAEP_SHA_256":
		h = sha256.New
	case "RSAES_OAEP_SHA_1":
		h = sha1.New
	}
	if h == nil || k.usage != encryptDecrypt {
		// Left out, the algorithm is SYMMETRIC_DEFAULT.
		return nil, refuse("InvalidKeyUsageException", "%s key usage is %s which is not valid for Decrypt with %q.",
			k.arn, k.usage, in.EncryptionAlgorithm)
	}
	plaintext, err := rsa.DecryptOAEP(h(), rand.Reader, k.rsa, in.CiphertextBlob, nil)
	if err != nil {
		return nil, refuse("InvalidCiphertextException", "")
	}
	return map[string]any{"KeyId": k.arn, "Plaintext": plaintext, "EncryptionAlgorithm": in.EncryptionAlgorithm}, nil
}

type deriveSharedSecretInput struct {
	KeyID                 string `json:"KeyId"`
	KeyAgreementAlgorithm string
	PublicKey             []byte
}

// deriveSharedSecret answers the x coordinate of the shared point and nothing
// more: the key derivation is the caller's.
func (s *Server) deriveSharedSecret(in *deriveSharedSecretInput) (any, error) {
	k, err := s.toUse(in.KeyID, true)
	if err != nil {
		return nil, err
	}
	if k.usage != keyAgreement {
		return nil, refuse("InvalidKeyUsageException", "%s key usage is %s which is not valid for DeriveSharedSecret.", k.arn, k.usage)
	}
	if in.KeyAgreementAlgorithm != "ECDH" {
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'keyAgreementAlgorithm' failed to satisfy constraint: "+
			"Member must satisfy enum value set: [ECDH]")
	}
	parsed, err := x509.ParsePKIXPublicKey(in.PublicKey)
	if err != nil {
		return nil, refuse("ValidationException", "The public key is not valid")
	}
	peer, err := asECDH(parsed)
	if err != nil || peer.Curve() != k.ecdh.Curve() {
		return nil, refuse("ValidationException", "The public key is not on the curve of the KMS key")
	}
	secret, err := k.ecdh.ECDH(peer)
	if err != nil {
		return nil, refuse("ValidationException", "The public key is not valid")
	}
	return map[string]any{"KeyId": k.arn, "SharedSecret": secret, "KeyAgreementAlgorithm": in.KeyAgreementAlgorithm, "KeyOrigin": "AWS_KMS"}, nil
}

func asECDH(pub crypto.PublicKey) (*ecdh.PublicKey, error) {
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		return pub.ECDH()
	case *ecdh.PublicKey:
		return pub, nil
	}
	return nil, refuse("ValidationException", "not an elliptic curve key")
}
