package boundary

import "hash"

// Forget exposes forget.
func Forget(v any) bool { return forget(v) }

// HMACSum exposes hmacSum.
func HMACSum(newHash func() hash.Hash, key []byte, parts ...[]byte) []byte {
	return hmacSum(newHash, key, parts...)
}
