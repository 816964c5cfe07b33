package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"keyd/internal/api"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// A partner must not learn which kids another one has.
func TestAnotherPartnersKIDIsUnknown(t *testing.T) {
	r := newRig(t)
	unknown := r.decrypt(r.seal(r.active, []byte("x"), map[string]any{"alg": boundary.RSAOAEP256, "enc": enc, "kid": uuid.NewString()})).wants(t, 404, "unknown_kid")
	for _, state := range []registry.State{registry.Active, registry.Compromised, registry.Pending} {
		name := "venly-" + string(state)
		check(t, r.reg.PutKey(theKey(name, "venly")))
		v := r.version(name, state)
		if len(v.Public) == 0 {
			v.Public = r.active.Public
		}
		theirs := r.decrypt(r.seal(v, []byte("x"), nil))
		if d := cmp.Diff(visible(t, unknown), visible(t, theirs)); d != "" {
			t.Errorf("a kid of another partner, %s, can be told from one that is not there:\n%s", state, d)
		}
	}
	r.send(r.client, "POST", "/v1/partners/venly/decrypt", r.seal(r.active, []byte("x"), nil)).wants(t, 404, "unknown_kid")
}

// visible is all that can be seen of an answer but its request id and date.
func visible(t testing.TB, a answer) string {
	t.Helper()
	p := a.problem(t)
	h := a.header.Clone()
	h.Del("Keyd-Request-Id")
	h.Del("Date")
	return fmt.Sprintf("%d\n%v\n%s", a.status, h, bytes.ReplaceAll(a.body, []byte(p.RequestID), []byte("ID")))
}

// RFC 7516 §11.5: every cryptographic failure is one answer.
func TestEveryCryptographicFailureLooksTheSame(t *testing.T) {
	r := newRig(t)
	good := r.seal(r.active, []byte("plaintext of some length"), nil)
	parts := strings.Split(good, ".")
	damage := func(part, at int) string {
		b, err := base64.RawURLEncoding.DecodeString(parts[part])
		check(t, err)
		if at < 0 {
			at += len(b)
		}
		b[at] ^= 1
		changed := slices.Clone(parts)
		changed[part] = base64.RawURLEncoding.EncodeToString(b)
		return strings.Join(changed, ".")
	}
	put := func(part int, b []byte) string {
		changed := slices.Clone(parts)
		changed[part] = base64.RawURLEncoding.EncodeToString(b)
		return strings.Join(changed, ".")
	}
	other := r.seal(registry.Version{KID: r.active.KID, Public: r.otherPublic()}, []byte("plaintext of some length"), nil)
	bad := map[string]string{
		"first byte of the key":        damage(1, 0),
		"last byte of the key":         damage(1, -1),
		"key of zeros":                 put(1, make([]byte, 256)),
		"key above the modulus":        put(1, bytes.Repeat([]byte{0xff}, 256)),
		"key of another size":          put(1, make([]byte, 384)),
		"iv":                           damage(2, 0),
		"first byte of the ciphertext": damage(3, 0),
		"last byte of the ciphertext":  damage(3, -1),
		"no ciphertext":                put(3, nil),
		"tag":                          damage(4, -1),
		"sealed to another key":        other,
		"another header":               base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"`+r.active.KID+`","x":1}`)) + good[len(parts[0]):],
	}
	want := ""
	for name, envelope := range bad {
		a := r.decrypt(envelope).wants(t, 422, "open_failed")
		if p := a.problem(t); p.Detail != "" {
			t.Errorf("%s: the answer goes into detail: %q", name, p.Detail)
		}
		if got := visible(t, a); want == "" {
			want = got
		} else if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s can be told apart:\n%s", name, d)
		}
	}
	r.decrypt(good).wants(t, 200, "")
}

// otherPublic is the public key of a version that no other test names.
func (r *rig) otherPublic() []byte {
	r.t.Helper()
	check(r.t, r.reg.PutKey(theKey("other", "venly")))
	return r.version("other", registry.Active).Public
}

func TestEveryWayABackendFailsHasItsAnswer(t *testing.T) {
	r := newRig(t)
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
		retry  string
	}{
		"busy":      {boundary.ErrBusy, 503, "backend_busy", "1"},
		"down":      {boundary.ErrUnavailable, 503, "backend_unavailable", "5"},
		"no key":    {boundary.ErrNoKey, 503, "backend_unavailable", "5"},
		"its own":   {errors.New("CKR_VENDOR_DEFINED with a secret"), 503, "backend_unavailable", "5"},
		"in time":   {context.DeadlineExceeded, 504, "timeout", ""},
		"cannot":    {boundary.ErrUnsupported, 503, "backend_unavailable", "5"},
		"not opens": {boundary.ErrOpen, 422, "open_failed", ""},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			inject(r, c.err)
			a := r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, c.status, c.code)
			if got := a.header.Get("Retry-After"); got != c.retry || bytes.Contains(a.body, []byte("secret")) {
				t.Errorf("got Retry-After %q and %s, want %q", got, a.body, c.retry)
			}
		})
	}
}

func TestABackendThatIsNotConfiguredIsUnavailable(t *testing.T) {
	r := newRig(t)
	check(t, r.reg.PutKey(theKey("elsewhere", "wise")))
	v, err := r.reg.Adopt(registry.Version{KID: uuid.NewString(), Key: "elsewhere", Backend: "gone", Handle: "h", Public: r.active.Public, Algorithm: boundary.RSAOAEP256, Bits: 2048, TestedAt: time.Now(), ValidFrom: time.Now(), ValidTill: time.Now().Add(time.Hour)}, "test", "test", 1)
	check(t, err)
	r.decrypt(r.seal(v, []byte("x"), nil)).wants(t, 503, "backend_unavailable")
}

func TestAnOpenerRefusesAConfigThatCannotWork(t *testing.T) {
	if _, err := api.NewOpener(api.OpenerConfig{Backends: map[string]api.Backend{"b": nil},
		Partners: []api.Partner{{Name: "", SealEnc: "x", Encs: []string{"y"}}, {Name: "a"}, {Name: "a"}}}); err == nil {
		t.Error("got no error")
	} else if n := strings.Count(err.Error(), "\n"); n < 10 {
		t.Errorf("got %d problems of more than ten:\n%v", n, err)
	}
	if _, err := api.New(api.Config{Opener: nil, Client: api.Socket{Path: "relative"}, Admin: api.Socket{Path: filepath.Join(os.TempDir(), "x"), Mode: os.ModeSetuid},
		Rules: []api.Rule{{Role: "king"}, {Role: api.RoleClient}, {Role: api.RoleOperator, Partner: "wise"}}, HeaderTimeout: -1}); err == nil {
		t.Error("got no error")
	} else if n := strings.Count(err.Error(), "\n"); n < 13 {
		t.Errorf("got %d problems of more than thirteen:\n%v", n, err)
	}
}

// patient is an error that says when to come back.
type patient struct{ error }

func (p patient) Unwrap() error           { return p.error }
func (patient) RetryAfter() time.Duration { return 6500 * time.Millisecond }

func TestABusyBackendSaysWhenToComeBack(t *testing.T) {
	r := newRig(t)
	for err, want := range map[error]string{boundary.ErrBusy: "1", patient{boundary.ErrBusy}: "7"} {
		inject(r, err)
		a := r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 503, "backend_busy")
		if got := a.header.Get("Retry-After"); got != want {
			t.Errorf("%v: Retry-After %q, want %q", err, got, want)
		}
	}
}
