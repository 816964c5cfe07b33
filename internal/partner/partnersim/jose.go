package partnersim

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
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

// opened is what was in a JWE.
type opened struct {
	header    joseHeader
	plaintext []byte
	content   []byte   // the content key, of an RSA key's envelope
	key       theirKey // that opened it
}

// openRequest opens the JWE in a call's body with a Wise key still in use. Every
// way to fail is the one generic 500 to the client; the error is for the log.
func (s *Sim) openRequest(c *call) (opened, error) {
	o, err := s.open(Wise, string(c.body), jose.RSA_OAEP_256, jose.A256GCM)
	// Documented for JWS only; in a JWE, a url that is sent had better be true.
	if err == nil && o.header.URL != "" && o.header.URL != c.URL.Path {
		err = errors.New("the JOSE header names another url")
	}
	return o, err
}

// open opens a compact JWE with a key of p that is still in use.
func (s *Sim) open(p Partner, compact string, alg jose.KeyAlgorithm, enc jose.ContentEncryption) (opened, error) {
	header, err := readHeader(compact)
	if err != nil {
		return opened{}, err
	}
	jwe, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{alg}, []jose.ContentEncryption{enc})
	if err != nil {
		return opened{}, fmt.Errorf("parsing the JWE: %w", err)
	}
	for _, key := range s.openers(p) {
		plaintext, err := jwe.Decrypt(key.private)
		if err != nil {
			continue
		}
		o := opened{header: header, plaintext: plaintext, key: key}
		if rsaKey, ok := key.private.(*rsa.PrivateKey); ok {
			o.content, err = contentKey(compact, alg, rsaKey)
		}
		return o, err
	}
	return opened{}, fmt.Errorf("no key of %s in use opens the JWE", p)
}

// readHeader reads a compact JWE's protected header.
func readHeader(compact string) (joseHeader, error) {
	var header joseHeader
	if strings.ContainsAny(compact, "\r\n") { // which encoding/base64 would skip
		return header, errors.New("the JWE has a line break in it")
	}
	first, _, _ := strings.Cut(compact, ".")
	raw, err := base64.RawURLEncoding.DecodeString(first)
	var params map[string]json.RawMessage
	if err == nil {
		err = errors.Join(json.Unmarshal(raw, &params), json.Unmarshal(raw, &header))
	}
	if err != nil {
		return header, fmt.Errorf("reading the JOSE header: %w", err)
	}
	for _, name := range []string{"zip", "crit"} {
		if _, ok := params[name]; ok {
			return header, fmt.Errorf("the JOSE header has %q", name)
		}
	}
	return header, nil
}

// contentKey unwraps a compact JWE's content key, for a reply under the same.
// go-jose keeps it to itself.
func contentKey(compact string, alg jose.KeyAlgorithm, key *rsa.PrivateKey) ([]byte, error) {
	wrapped, err := base64.RawURLEncoding.DecodeString(strings.Split(compact, ".")[1])
	if err != nil {
		return nil, fmt.Errorf("reading the encrypted key: %w", err)
	}
	if alg == jose.RSA1_5 {
		return rsa.DecryptPKCS1v15(nil, key, wrapped) //nolint:staticcheck // SA1019: what the card data's guide asks for
	}
	return rsa.DecryptOAEP(sha256.New(), nil, key, wrapped, nil)
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

// sealing is how a reply is sealed.
type sealing struct {
	alg   jose.KeyAlgorithm
	key   any    // a public key or, with jose.DIRECT, the content key
	kid   string // "" for none
	enc   jose.ContentEncryption
	frame func(jwe string) any // what is JSON around the JWE; nil: it stands alone
}

// toClient seals to a key the client has uploaded.
func toClient(up Upload) *sealing {
	return &sealing{alg: jose.RSA_OAEP_256, key: up.Public, kid: up.KeyID, enc: jose.A256GCM}
}

// underSame seals under the content key of the request.
func underSame(o opened) *sealing {
	return &sealing{alg: jose.DIRECT, key: o.content, enc: jose.A256GCM}
}

// finish seals a reply that is to be sealed, with the fault f in it.
func (s *Sim) finish(rep reply, f Fault) (reply, error) {
	if rep.seal == nil || f.Kind == PlainJSON {
		return rep, nil
	}
	to := *rep.seal
	switch f.Kind {
	case WrongKID:
		to.kid = uuid.NewString()
	case WrongKey:
		to.key = decoy(to.key)
	case DirectReply:
		to.alg, to.key = jose.DIRECT, decoy([]byte(nil))
	}
	compact, err := to.seal(rep.body)
	if err != nil {
		return rep, err
	}
	switch f.Kind {
	case BadTag:
		compact = flipTag(compact)
	case StrayTail:
		compact += "02"
	}
	rep.sealedTo = to.kid
	if to.frame == nil {
		rep.kind, rep.body = joseJSON, []byte(compact)
		return rep, nil
	}
	rep.body, err = json.Marshal(to.frame(compact))
	return rep, err
}

func (to *sealing) seal(plaintext []byte) (string, error) {
	encrypter, err := jose.NewEncrypter(to.enc, jose.Recipient{Algorithm: to.alg, Key: to.key, KeyID: to.kid}, nil)
	if err != nil {
		return "", fmt.Errorf("preparing the encrypter: %w", err)
	}
	jwe, err := encrypter.Encrypt(plaintext)
	if err != nil {
		return "", fmt.Errorf("encrypting: %w", err)
	}
	compact, err := jwe.CompactSerialize()
	if err != nil {
		return "", fmt.Errorf("serializing: %w", err)
	}
	return compact, nil
}

// decoy is a key like the one given that nobody holds.
func decoy(like any) any {
	switch like.(type) {
	case *rsa.PublicKey:
		return newRSA().Public()
	case *ecdsa.PublicKey:
		return newEC().Public()
	}
	content := make([]byte, 32)
	_, _ = rand.Read(content) // never fails (crypto/rand)
	return content
}

// flipTag changes one bit of a compact JWE's authentication tag: of its first
// character, all of whose bits count.
func flipTag(compact string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.LastIndexByte(compact, '.') + 1
	flipped := alphabet[strings.IndexByte(alphabet, compact[i])^1]
	return compact[:i] + string(flipped) + compact[i+1:]
}
