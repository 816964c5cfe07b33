package partnersim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// joseHeader is what a request's protected header may hold.
type joseHeader struct {
	KID string `json:"kid"`
	URL string `json:"url"`
}

// joseCall checks the documented headers of a JWE call. A reply without a
// status is no objection. Content-Type is asked for where there is a body: the
// documents disagree about a GET. The statuses are guesses.
func joseCall(c *call) reply {
	accepts := slices.ContainsFunc(strings.Split(strings.Join(c.Header.Values("Accept"), ","), ","), func(s string) bool {
		kind, _, _ := strings.Cut(s, ";")
		return strings.EqualFold(strings.TrimSpace(kind), joseJSON)
	})
	switch {
	case c.Method == http.MethodPost && !hasType(c.Header, joseJSON):
		return unsupported(joseJSON)
	case !accepts:
		return invalid(http.StatusNotAcceptable, "BAD_REQUEST", "Accept", "Accept must name "+joseJSON)
	case c.Header.Get("X-TW-JOSE-Method") != "jwe":
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "X-TW-JOSE-Method", "X-TW-JOSE-Method must be jwe")
	case c.Method == http.MethodGet && len(c.body) > 0:
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "", "a GET has no body")
	}
	return reply{}
}

// openRequest opens the JWE in a call's body with a Wise key still in use. Every
// way to fail is the one generic 500 to the client; the error is for the log.
func (s *Sim) openRequest(c *call) (joseHeader, []byte, error) {
	var header joseHeader
	compact := string(c.body)
	if strings.ContainsAny(compact, "\r\n") { // which encoding/base64 would skip
		return header, nil, errors.New("the JWE has a line break in it")
	}
	first, _, _ := strings.Cut(compact, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var params map[string]json.RawMessage
	if err == nil {
		err = errors.Join(json.Unmarshal(raw, &params), json.Unmarshal(raw, &header))
	}
	if err != nil {
		return header, nil, fmt.Errorf("reading the JOSE header: %w", err)
	}
	for _, name := range []string{"zip", "crit"} {
		if _, ok := params[name]; ok {
			return header, nil, fmt.Errorf("the JOSE header has %q", name)
		}
	}
	// Documented for JWS only; in a JWE, a url that is sent had better be true.
	if header.URL != "" && header.URL != c.URL.Path {
		return header, nil, errors.New("the JOSE header names another url")
	}
	jwe, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return header, nil, fmt.Errorf("parsing the JWE: %w", err)
	}
	for _, key := range s.openers() {
		if plaintext, err := jwe.Decrypt(key.private); err == nil {
			return header, plaintext, nil
		}
	}
	return header, nil, errors.New("no Wise key in use opens the JWE")
}

// openers returns the Wise keys that still open requests.
func (s *Sim) openers() []wiseKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	keys := slices.Clone(s.wise)
	return slices.DeleteFunc(keys, func(k wiseKey) bool {
		if k.rotatedAt.IsZero() || s.opt.WiseOverlap == 0 {
			return false
		}
		return !now.Before(k.rotatedAt.Add(s.opt.WiseOverlap))
	})
}

// replyKey picks the client key the reply to c is sealed to.
func (s *Sim) replyKey(c *call, header joseHeader) (Upload, error) {
	named, can := "", false
	if name, ok := strings.CutPrefix(s.opt.ResponseKID, NamedInHeader); ok {
		named, can = c.Header.Get(name), true
	} else if s.opt.ResponseKID == NamedInJOSE && c.Method == http.MethodPost {
		named, can = header.KID, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.entry.KeyID = named
	now := s.now()
	usable := slices.DeleteFunc(slices.Clone(s.uploads), func(u Upload) bool { return !u.usable(now, s.opt.ActivationLag) })
	if named != "" {
		i := slices.IndexFunc(usable, func(u Upload) bool { return u.KeyID == named })
		if i < 0 {
			return Upload{}, fmt.Errorf("the key named for the reply, %q, is not usable", named)
		}
		return usable[i], nil
	}
	switch n := len(usable); {
	case can && s.opt.RequireKID:
		return Upload{}, errors.New("the request names no key for the reply")
	case n == 0:
		return Upload{}, errors.New("the client has no usable key")
	case s.opt.Unnamed == UseOldest:
		return usable[0], nil
	case s.opt.Unnamed == UseRandom:
		return usable[mathrand.IntN(n)], nil
	default:
		return usable[n-1], nil
	}
}

// finish seals a reply that is to be sealed, with the fault f in it.
func (s *Sim) finish(rep reply, f Fault) (reply, error) {
	if rep.seal == nil || f.Kind == PlainJSON {
		return rep, nil
	}
	to := jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: rep.seal.Public, KeyID: rep.seal.KeyID}
	switch f.Kind {
	case WrongKID:
		to.KeyID = uuid.NewString()
	case WrongKey:
		to.Key = &s.decoy().PublicKey
	case DirectReply:
		content := make([]byte, 32)
		_, _ = rand.Read(content) // never fails (crypto/rand)
		to.Algorithm, to.Key = jose.DIRECT, content
	}
	encrypter, err := jose.NewEncrypter(jose.A256GCM, to, nil)
	if err != nil {
		return rep, fmt.Errorf("preparing the encrypter: %w", err)
	}
	jwe, err := encrypter.Encrypt(rep.body)
	if err != nil {
		return rep, fmt.Errorf("encrypting: %w", err)
	}
	compact, err := jwe.CompactSerialize()
	if err != nil {
		return rep, fmt.Errorf("serializing: %w", err)
	}
	switch f.Kind {
	case BadTag:
		compact = flipTag(compact)
	case StrayTail:
		compact += "02"
	}
	rep.kind, rep.body, rep.sealedTo = joseJSON, []byte(compact), to.KeyID
	return rep, nil
}

// flipTag changes one bit of a compact JWE's authentication tag: of its first
// character, all of whose bits count.
func flipTag(compact string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.LastIndexByte(compact, '.') + 1
	flipped := alphabet[strings.IndexByte(alphabet, compact[i])^1]
	return compact[:i] + string(flipped) + compact[i+1:]
}
