package partner

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	uploadPath = "/v1/auth/jose/request/public-keys"
	fetchPath  = "/v1/auth/jose/response/public-keys"

	wiseAlgorithm = "RSA_OAEP_256" // Wise's spelling, with underscores
	joseAlgorithm = "RSA-OAEP-256" // RFC 7518 §4.1
	wiseScope     = "PAYLOAD_ENCRYPTION"
	// UTC, whole seconds, a space and no zone: not RFC 3339.
	wiseTime = "2006-01-02 15:04:05"
)

// wiseMaterial is a public key as Wise writes it: standard base64 of the DER
// SubjectPublicKeyInfo.
type wiseMaterial struct {
	Algorithm   string `json:"algorithm"`
	KeyMaterial string `json:"keyMaterial"`
}

// wiseUpload is both the announcement of a key and the answer to it.
type wiseUpload struct {
	KeyID     string       `json:"keyId"`
	Scope     string       `json:"scope"`
	ValidFrom string       `json:"validFrom"`
	ValidTill string       `json:"validTill"`
	Material  wiseMaterial `json:"publicKeyMaterial"`
}

// Announce uploads one of our public keys. Repeating it sends the same bytes.
// Whether Wise takes the same key twice is not documented, so after a lost
// answer the repetition may fail with ErrDuplicate or another error; nothing
// in Wise's API can be asked what it holds. ErrEcho is an alarm: the key was
// taken, but as something else.
func (w *Wise) Announce(ctx context.Context, kid string, public crypto.PublicKey, validFrom, validTill time.Time) error {
	up, err := newUpload(kid, public, validFrom, validTill)
	if err != nil {
		return fmt.Errorf("announcing %q to %s: %w", kid, w.cfg.Name, err)
	}
	body, err := json.Marshal(up)
	if err != nil {
		return fmt.Errorf("announcing %q to %s: %w", kid, w.cfg.Name, err)
	}
	c := call{
		op:      opAnnounce,
		method:  http.MethodPost,
		path:    uploadPath,
		header:  http.Header{"Content-Type": {"application/json"}, "Accept": {"application/json"}},
		body:    body,
		want:    []int{http.StatusCreated},
		refused: map[int]error{http.StatusConflict: ErrDuplicate},
		read:    func(a *answer) error { return w.readUpload(ctx, a, up) },
	}
	if w.cfg.OnDuplicate == DuplicateAccepted {
		c.want = append(c.want, http.StatusConflict)
	}
	return w.call(ctx, c)
}

// newUpload checks what is about to be announced: a key in the wrong form is
// the one mistake that no call can take back.
func newUpload(kid string, public crypto.PublicKey, from, till time.Time) (wiseUpload, error) {
	if !isUUID(kid) {
		return wiseUpload{}, errors.New("the kid is not a UUID")
	}
	key, ok := public.(*rsa.PublicKey)
	if !ok {
		return wiseUpload{}, fmt.Errorf("a public key of type %T, Wise takes RSA", public)
	}
	if err := checkRSA(key); err != nil {
		return wiseUpload{}, err
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return wiseUpload{}, err
	}
	if from, till = from.UTC().Truncate(time.Second), till.UTC().Truncate(time.Second); !from.Before(till) {
		return wiseUpload{}, fmt.Errorf("it would be valid from %s till %s", from.Format(time.RFC3339), till.Format(time.RFC3339))
	}
	return wiseUpload{
		KeyID:     kid,
		Scope:     wiseScope,
		ValidFrom: from.Format(wiseTime),
		ValidTill: till.Format(wiseTime),
		Material:  wiseMaterial{Algorithm: wiseAlgorithm, KeyMaterial: base64.StdEncoding.EncodeToString(der)},
	}, nil
}

// readUpload compares what Wise says it holds with what was sent.
func (w *Wise) readUpload(ctx context.Context, a *answer, sent wiseUpload) error {
	if a.status == http.StatusConflict {
		// An error body names a key only if Wise is kind; one that names
		// another key than ours is no duplicate of ours.
		var echo wiseUpload
		if json.Unmarshal(a.body, &echo) == nil {
			if echo.KeyID != "" && !strings.EqualFold(echo.KeyID, sent.KeyID) ||
				echo.Material.KeyMaterial != "" && !sameMaterial(echo.Material, sent.Material) {
				return fmt.Errorf("%w, and names another key", ErrDuplicate)
			}
		}
		w.logger.WarnContext(ctx, "the partner already has this key; taken as told, as on_duplicate says", "kid", sent.KeyID)
		return nil
	}
	var echo struct {
		wiseUpload
		Deactivated json.RawMessage `json:"deactivationTimestamp"`
	}
	if err := decodeJSON(a.body, &echo); err != nil {
		return err
	}
	var wrong []string
	if !strings.EqualFold(echo.KeyID, sent.KeyID) {
		wrong = append(wrong, "keyId")
	}
	if echo.Scope != sent.Scope {
		wrong = append(wrong, "scope")
	}
	if !sameMaterial(echo.Material, sent.Material) {
		wrong = append(wrong, "publicKeyMaterial")
	}
	// A sample in Wise's documentation has the two dates in each other's place.
	switch swapped := sameTime(echo.ValidFrom, sent.ValidTill) && sameTime(echo.ValidTill, sent.ValidFrom); {
	case swapped:
		w.logger.WarnContext(ctx, "the partner repeats validFrom and validTill in each other's place", "kid", sent.KeyID)
	case !sameTime(echo.ValidFrom, sent.ValidFrom), !sameTime(echo.ValidTill, sent.ValidTill):
		wrong = append(wrong, "validFrom or validTill")
	}
	if s := string(echo.Deactivated); s != "" && s != "null" {
		wrong = append(wrong, "deactivationTimestamp")
	}
	if wrong != nil {
		return fmt.Errorf("%w: %s", ErrEcho, strings.Join(wrong, ", "))
	}
	return nil
}

// sameMaterial compares keys as bytes, whatever line breaks the base64 has.
func sameMaterial(a, b wiseMaterial) bool {
	x, errX := decodeBase64(a.KeyMaterial)
	y, errY := decodeBase64(b.KeyMaterial)
	return errX == nil && errY == nil && a.Algorithm == b.Algorithm && bytes.Equal(x, y)
}

// sameTime compares instants: Wise's own form, or RFC 3339 should it move.
func sameTime(got, sent string) bool {
	want, err := time.Parse(wiseTime, sent)
	if err != nil {
		return false
	}
	for _, layout := range []string{wiseTime, time.RFC3339} {
		if at, err := time.Parse(layout, got); err == nil {
			return at.Equal(want)
		}
	}
	return false
}

// FetchKey fetches the public key that requests to Wise are sealed to, in its
// latest version. The id is "" where Wise does not say it; algorithm is the
// JOSE name.
func (w *Wise) FetchKey(ctx context.Context) (id string, version int, algorithm string, public crypto.PublicKey, err error) {
	err = w.call(ctx, call{
		op:     opKey,
		method: http.MethodGet,
		path:   fetchPath,
		query:  url.Values{"algorithm": {wiseAlgorithm}, "scope": {wiseScope}},
		header: http.Header{"Accept": {"application/json"}},
		want:   []int{http.StatusOK},
		read: func(a *answer) (err error) {
			id, version, public, err = readKey(a.body)
			return err
		},
	})
	if err != nil {
		return "", 0, "", nil, err
	}
	return id, version, joseAlgorithm, public, nil
}

// readKey reads the answer to a fetch. Wise documents an object; a list of one
// has been reported and means the same.
func readKey(body []byte) (id string, version int, public crypto.PublicKey, err error) {
	type answer struct {
		KeyID    string       `json:"keyId"`
		Version  int32        `json:"version"`
		Scope    string       `json:"scope"`
		Material wiseMaterial `json:"keyMaterial"`
	}
	list := make([]answer, 1)
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		err = decodeJSON(body, &list)
	} else {
		err = decodeJSON(body, &list[0])
	}
	if err != nil {
		return "", 0, nil, err
	}
	if len(list) != 1 {
		return "", 0, nil, fmt.Errorf("%w: a list of %d keys", ErrAnswer, len(list))
	}
	k := list[0]
	switch {
	case k.Scope != wiseScope:
		return "", 0, nil, fmt.Errorf("%w: a key of scope %q, want %s", ErrAnswer, k.Scope, wiseScope)
	case k.Material.Algorithm != wiseAlgorithm:
		return "", 0, nil, fmt.Errorf("%w: a key for %q, want %s", ErrAnswer, k.Material.Algorithm, wiseAlgorithm)
	case k.Version < 0:
		return "", 0, nil, fmt.Errorf("%w: key version %d", ErrAnswer, k.Version)
	case k.KeyID != "" && !isUUID(k.KeyID):
		return "", 0, nil, fmt.Errorf("%w: a keyId that is not a UUID", ErrAnswer)
	}
	key, err := parseSPKI(k.Material.KeyMaterial)
	if err != nil {
		return "", 0, nil, fmt.Errorf("%w: keyMaterial: %w", ErrAnswer, err)
	}
	return k.KeyID, int(k.Version), key, nil
}
