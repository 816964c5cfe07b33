package partner

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
)

// KeyIDFingerprint as the KeyID of a KeySource names a key by the SHA-256 of its
// SubjectPublicKeyInfo, in hex.
const KeyIDFingerprint = "sha256"

// KeySource is where the public key of a partner comes from. The key may be a
// JWK, a set of them, PEM (a certificate too), or base64 of DER or of PEM.
type KeySource struct {
	// URL is fetched, or File is read, each time that the key is asked for.
	URL, File string
	// Authorization of fetching the URL: KeyOpen (the default), AuthService,
	// AuthBasic, AuthBearer or AuthCaller. No secret goes to another host than the
	// base URL's.
	Authorization string
	// KeyID picks the key with that kid from a set, and names a key that has
	// none; KeyIDFingerprint names it by itself.
	KeyID string
	// Choose is what to do when several keys would do and KeyID is empty:
	// ChooseOnly (the default: it is an error) or ChooseFirst.
	Choose string
	// Member and IDMember are the JSON pointers of the key and of its id in an
	// answer that is JSON of the partner's own.
	Member, IDMember string
}

func (s *KeySource) setDefaults() {
	s.Authorization = cmp.Or(s.Authorization, KeyOpen)
	s.Choose = cmp.Or(s.Choose, ChooseOnly)
}

func (s *KeySource) check(wrong *complaints, base string) {
	wrong.add((s.URL == "") == (s.File == ""), "key: want a URL or a file")
	wrong.add(s.Choose != ChooseOnly && s.Choose != ChooseFirst, "key: choose %q: want %s or %s", s.Choose, ChooseOnly, ChooseFirst)
	wrong.add(s.IDMember != "" && s.Member == "", "key: an id member without a member")
	for _, p := range []string{s.Member, s.IDMember} {
		wrong.add(p != "" && !strings.HasPrefix(p, "/"), "key: member %q is not a JSON pointer", p)
	}
	switch s.Authorization {
	case KeyOpen:
	case AuthService, AuthBasic, AuthBearer, AuthCaller:
		wrong.add(s.File != "", "key: a file needs no authorization")
	default:
		wrong.add(true, "key: authorization %q: want %s, %s, %s, %s or %s", s.Authorization, KeyOpen, AuthService, AuthBasic, AuthBearer, AuthCaller)
	}
	if s.URL == "" {
		return
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		wrong.add(true, "key: not a URL")
		return
	}
	plain := *u
	plain.RawQuery = ""
	_, err = checkBase(plain.String())
	wrong.add(err != nil, "key: %w", err)
	wrong.add(s.Authorization != KeyOpen && !sameHost(base, u), "key: a secret would go to %s, which is not the partner's host", u.Host)
}

// sameHost reports whether a URL is at the host of another, over the same scheme.
func sameHost(base string, u *url.URL) bool {
	home, err := url.Parse(base)
	return err == nil && home.Host == u.Host && home.Scheme == u.Scheme
}

// FetchKey fetches or reads the key that requests are sealed to.
func (j *JWE) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	if j.cfg.Key.Authorization == AuthCaller {
		return "", 0, "", nil, j.exchange.failed(call{op: opKey}, &answer{}, ErrNeedsCaller)
	}
	return j.fetchKey(func(c call, at *exchange) error {
		if j.cfg.Key.Authorization == AuthService {
			return j.tokens.authorized(ctx, at, c)
		}
		return at.do(ctx, c)
	})
}

// FetchKeyAs does the same with the bearer token of a caller, where the config
// says that the key is shown to those.
func (j *JWE) FetchKeyAs(ctx context.Context, authorization string) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	if j.cfg.Key.Authorization != AuthCaller {
		return j.FetchKey(ctx)
	}
	return j.fetchKey(func(c call, at *exchange) error {
		asCaller := gate{exchange: j.exchange, auth: AuthCaller}
		if _, err := asCaller.authorize(ctx, &c, authorization); err != nil {
			return err
		}
		return at.do(ctx, c)
	})
}

// fetchKey reads the key's file, or has its URL asked by do.
func (j *JWE) fetchKey(do func(c call, at *exchange) error) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	if j.cfg.Key.File != "" {
		id, public, err = j.readKeyFile()
	} else if c, at, put := j.keyCall(&id, &public); put != nil {
		err = j.exchange.failed(c, &answer{}, put)
	} else {
		err = do(c, at)
	}
	if err != nil {
		return "", 0, "", nil, err
	}
	return id, 0, j.cfg.SealAlg, public, nil
}

// keyCall asks for the key at its URL, with keyd's own authority if that is at
// the partner's host.
func (j *JWE) keyCall(id *string, public *crypto.PublicKey) (c call, at *exchange, err error) {
	u, err := url.Parse(j.cfg.Key.URL)
	if err != nil {
		return c, nil, err // check has parsed it
	}
	query := u.Query()
	header := j.GetHeaders("")
	header.Set("Accept", "*/*")
	c = call{op: opKey, method: http.MethodGet, query: query, header: header, want: []int{http.StatusOK},
		read: func(a *answer) (err error) {
			*id, *public, err = j.readKey(a.body)
			return err
		}}
	if sameHost(j.exchange.base, u) {
		own := j.cfg.standing(j.cfg.Key.Authorization)
		err = own.put(&c)
	}
	u.RawQuery = ""
	return c, j.exchange.at(u.String()), err
}

func (j *JWE) readKeyFile() (id string, public crypto.PublicKey, err error) {
	raw, err := os.ReadFile(j.cfg.Key.File)
	if err == nil && len(raw) > maxBody {
		err = fmt.Errorf("%s is larger than %d bytes", j.cfg.Key.File, maxBody)
	}
	if err == nil {
		id, public, err = j.readKey(raw)
	}
	if err != nil {
		return "", nil, j.exchange.failed(call{op: opKey}, &answer{}, fmt.Errorf("%w: the file of its key: %w", ErrAnswer, err))
	}
	return id, public, nil
}

// readKey reads a key and finds the name it goes by.
func (j *JWE) readKey(body []byte) (id string, public crypto.PublicKey, err error) {
	source := &j.cfg.Key
	if source.Member != "" {
		if body, id, err = source.inside(body); err != nil {
			return "", nil, err
		}
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		keys, err := readJWKs(body)
		if err != nil {
			return "", nil, err
		}
		k, err := chooseJWK(keys, source.wanted(keys), source.Choose)
		if err != nil {
			return "", nil, err
		}
		id = cmp.Or(id, k.KID)
		public, err = k.public()
		if err != nil {
			return "", nil, fmt.Errorf("%w: %w", ErrAnswer, err)
		}
	} else if public, err = parseKeyText(string(body)); err != nil {
		return "", nil, fmt.Errorf("%w: the key: %w", ErrAnswer, err)
	}
	return j.named(id, public)
}

// inside takes the key and its id out of an answer of the partner's own making.
func (s *KeySource) inside(body []byte) (key []byte, id string, err error) {
	var all any
	if err := decodeJSON(body, &all); err != nil {
		return nil, "", err
	}
	value, ok := at(all, s.Member)
	if !ok {
		return nil, "", fmt.Errorf("%w: nothing at %s", ErrAnswer, s.Member)
	}
	if text, isText := value.(string); isText {
		key = []byte(text)
	} else if key, err = json.Marshal(value); err != nil {
		return nil, "", err
	}
	if s.IDMember != "" {
		value, _ = at(all, s.IDMember)
		if id, ok = value.(string); !ok {
			return nil, "", fmt.Errorf("%w: no string at %s", ErrAnswer, s.IDMember)
		}
	}
	return key, id, nil
}

// wanted is the kid to look for: that of the config, if keys have names.
func (s *KeySource) wanted(keys []jwk) string {
	if s.KeyID == KeyIDFingerprint || len(keys) == 1 && keys[0].KID == "" {
		return ""
	}
	return s.KeyID
}

// named checks a key and gives it its name.
func (j *JWE) named(id string, public crypto.PublicKey) (string, crypto.PublicKey, error) {
	var err error
	if j.cfg.SealAlg == joseAlgorithm {
		_, err = asRSA(public, nil)
	} else {
		_, err = asEC(public, nil)
	}
	if err != nil {
		return "", nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	switch j.cfg.Key.KeyID {
	case KeyIDFingerprint:
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return "", nil, err
		}
		sum := sha256.Sum256(der)
		id = hex.EncodeToString(sum[:])
	default:
		id = cmp.Or(id, j.cfg.Key.KeyID)
	}
	switch {
	case id == "" && j.cfg.KID == KIDTheirs:
		return "", nil, fmt.Errorf("%w: the key has no name, and requests name it: say key_id in the config", ErrAnswer)
	case id != "" && !isKID(id):
		return "", nil, fmt.Errorf("%w: %w", ErrAnswer, errors.New("an id that cannot name a key"))
	}
	return id, public, nil
}
