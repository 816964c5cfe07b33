package partnersim

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// Wise's words for the one kind of key a Sim deals in, and the layout of its
// dates: UTC, whole seconds, no T and no Z.
const (
	scopeEncryption = "PAYLOAD_ENCRYPTION"
	keyAlgorithm    = "RSA_OAEP_256"
	dateLayout      = "2006-01-02 15:04:05"
)

type keyMaterial struct {
	Algorithm   *string `json:"algorithm"`
	KeyMaterial *string `json:"keyMaterial"`
}

// uploadBody is the body of an upload; pointers tell "missing" from "empty".
type uploadBody struct {
	KeyID     *string      `json:"keyId"`
	Scope     *string      `json:"scope"`
	ValidFrom *string      `json:"validFrom"`
	ValidTill *string      `json:"validTill"`
	Material  *keyMaterial `json:"publicKeyMaterial"`
}

// uploadAnswer is the body of a 201: the request's fields and two that are
// documented to be null always.
type uploadAnswer struct {
	ClientID *string `json:"clientId"`
	uploadBody
	DeactivationTimestamp *string `json:"deactivationTimestamp"`
}

// upload is POST /v1/auth/jose/request/public-keys.
func (s *Sim) upload(c *call) reply {
	if !hasType(c.Header, plainJSON) {
		return unsupported(plainJSON)
	}
	var body uploadBody
	dec := json.NewDecoder(bytes.NewReader(c.body))
	// Stricter than Jackson usually is: whatever else is in an upload of a
	// *public* key, a test should hear about it.
	dec.DisallowUnknownFields()
	if err := dec.Decode(&body); err != nil {
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "", "the body is not the JSON of an upload: "+err.Error())
	}
	if _, err := dec.Token(); err != io.EOF {
		return invalid(http.StatusBadRequest, "BAD_REQUEST", "", "the body goes on after its JSON")
	}
	if body.KeyID != nil {
		c.note(func(e *Request) { e.KeyID = *body.KeyID })
	}
	up, rep := body.check()
	if rep.status != 0 {
		return rep
	}
	return s.accept(c, body, up)
}

// accept stores an upload, or answers one whose keyId is taken.
func (s *Sim) accept(c *call, body uploadBody, up Upload) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	up.UploadedAt = s.now()
	if !up.ValidTill.After(up.UploadedAt) {
		return wrong("validTill", "must be in the future")
	}
	i := slices.IndexFunc(s.uploads, func(u Upload) bool { return u.KeyID == up.KeyID })
	if i < 0 {
		s.uploads = append(s.uploads, up)
		c.entry.Effect = true
		return s.answer(http.StatusCreated, uploadAnswer{uploadBody: body})
	}
	old := s.uploads[i]
	same := old.Material == up.Material && old.ValidFrom.Equal(up.ValidFrom) && old.ValidTill.Equal(up.ValidTill)
	switch {
	case !same:
		return invalid(s.opt.ConflictUpload, "NOT_UNIQUE", "keyId", "the keyId is in use for another key")
	case s.opt.DuplicateUpload == http.StatusConflict:
		return invalid(http.StatusConflict, "NOT_UNIQUE", "keyId", "the key has been added before")
	case s.opt.DuplicateUpload == http.StatusInternalServerError:
		return unexpected("duplicate upload")
	}
	return s.answer(http.StatusCreated, uploadAnswer{uploadBody: body})
}

// check holds an upload against the documented formats. A reply without a
// status is no objection.
func (b uploadBody) check() (Upload, reply) {
	none := Upload{}
	for _, f := range []struct {
		name   string
		absent bool
	}{
		{"keyId", b.KeyID == nil}, {"scope", b.Scope == nil},
		{"validFrom", b.ValidFrom == nil}, {"validTill", b.ValidTill == nil},
		{"publicKeyMaterial", b.Material == nil},
		{"publicKeyMaterial.algorithm", b.Material != nil && b.Material.Algorithm == nil},
		{"publicKeyMaterial.keyMaterial", b.Material != nil && b.Material.KeyMaterial == nil},
	} {
		if f.absent {
			return none, missing(f.name)
		}
	}
	from, fromOK := parseDate(*b.ValidFrom)
	till, tillOK := parseDate(*b.ValidTill)
	pub, problem := parseMaterial(*b.Material.KeyMaterial)
	switch {
	case len(*b.KeyID) != 36 || uuid.Validate(*b.KeyID) != nil:
		return none, wrong("keyId", "must be a UUID")
	case *b.Scope != scopeEncryption:
		return none, wrong("scope", "must be "+scopeEncryption)
	case *b.Material.Algorithm != keyAlgorithm:
		return none, wrong("publicKeyMaterial.algorithm", "must be "+keyAlgorithm)
	case !fromOK:
		return none, wrong("validFrom", "must be a date in the format yyyy-MM-dd HH:mm:ss")
	case !tillOK:
		return none, wrong("validTill", "must be a date in the format yyyy-MM-dd HH:mm:ss")
	case !till.After(from):
		return none, wrong("validTill", "must be after validFrom")
	case problem != "":
		return none, wrong("publicKeyMaterial.keyMaterial", problem)
	}
	return Upload{KeyID: *b.KeyID, ValidFrom: from, ValidTill: till, Material: *b.Material.KeyMaterial, Public: pub}, reply{}
}

// parseDate reads a date that is in Wise's format to the letter. time.Parse
// alone would also take fractions of a second.
func parseDate(s string) (time.Time, bool) {
	t, err := time.Parse(dateLayout, s)
	return t, err == nil && t.Format(dateLayout) == s
}

// parseMaterial reads base64 of a DER SubjectPublicKeyInfo, and says what is
// wrong with anything else.
func parseMaterial(s string) (*rsa.PublicKey, string) {
	der, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(der) != s {
		return nil, "must be base64 without line breaks or armour"
	}
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, "must be a DER SubjectPublicKeyInfo"
	}
	pub, ok := key.(*rsa.PublicKey)
	switch {
	case !ok:
		return nil, "must be an RSA key"
	case pub.N.BitLen() < 2048:
		return nil, "must have 2048 bits or more"
	}
	return pub, ""
}

// usable reports whether Wise seals to the key at the time now: from ValidFrom
// on, until just before ValidTill. The documents name no side of either edge.
func (u Upload) usable(now time.Time, lag time.Duration) bool {
	return !u.Revoked && !now.Before(u.ValidFrom) && now.Before(u.ValidTill) && !now.Before(u.UploadedAt.Add(lag))
}
