package partnersim

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// wiseAlgorithms is what the documents let a client ask for, by scope. A Sim
// holds keys for encryption only.
func wiseAlgorithms(scope string) []string {
	switch scope {
	case scopeEncryption:
		return []string{keyAlgorithm}
	case "PAYLOAD_SIGNING":
		return []string{"ES256", "ES384", "ES512", "PS256", "PS384", "PS512"}
	}
	return nil
}

// wiseKey is GET /v1/auth/jose/response/public-keys.
func (s *Sim) wiseKey(c *call) reply {
	query := c.URL.Query()
	scope, algorithm := query.Get("scope"), query.Get("algorithm")
	for _, name := range []string{"algorithm", "scope"} {
		if query.Get(name) == "" {
			return missing(name)
		}
	}
	if wiseAlgorithms(scope) == nil {
		return wrong("scope", "must be PAYLOAD_SIGNING or PAYLOAD_ENCRYPTION")
	}
	if !slices.Contains(wiseAlgorithms(scope), algorithm) {
		return wrong("algorithm", "must be an algorithm of the scope")
	}
	version := s.newest(Wise).version
	if query.Has("version") {
		v, err := strconv.ParseInt(query.Get("version"), 10, 32)
		if err != nil {
			return wrong("version", "must be a number")
		}
		if v < 1 || v > int64(version) {
			return notFound("no such version")
		}
		version = int(v)
	}
	if scope != scopeEncryption {
		return notFound("no such key")
	}
	s.mu.Lock()
	key := s.keys[Wise][version-1]
	s.mu.Unlock()
	return s.answer(http.StatusOK, s.describe(key))
}

// describe is the documented form of Wise's public key, with the variations
// asked for.
func (s *Sim) describe(key theirKey) any {
	type material struct {
		Algorithm   string `json:"algorithm"`
		KeyMaterial string `json:"keyMaterial"`
	}
	type public struct {
		KeyID       string   `json:"keyId,omitempty"`
		Version     int      `json:"version"`
		KeyMaterial material `json:"keyMaterial"`
		Scope       string   `json:"scope"`
	}
	p := public{key.id, key.version, material{keyAlgorithm, spki(key.private.Public())}, scopeEncryption}
	if s.opt.OmitWiseKeyID {
		p.KeyID = ""
	}
	if s.opt.MaterialNewlines {
		var lines []string
		for line := range slices.Chunk([]byte(p.KeyMaterial.KeyMaterial), 64) {
			lines = append(lines, string(line))
		}
		p.KeyMaterial.KeyMaterial = strings.Join(lines, "\n") + "\n"
	}
	if s.opt.ArrayReply {
		return []public{p}
	}
	return p
}
