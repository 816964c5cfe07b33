package api_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/registry"
)

func TestAnEnvelopeOpens(t *testing.T) {
	r := newRig(t)
	for _, plaintext := range []string{"statement", "", strings.Repeat("x", 20_000)} {
		a := r.decrypt(r.seal(r.active, []byte(plaintext), nil)).wants(t, 200, "")
		if string(a.body) != plaintext || a.header.Get("Keyd-Kid") != r.active.KID || a.header.Get("Keyd-Boundary") != "unwrap" ||
			a.header.Get("Cache-Control") != "no-store" || a.header.Get("Content-Type") != "application/octet-stream" || a.header.Get("Keyd-Request-Id") == "" {
			t.Errorf("%d bytes: got %q %v", len(plaintext), a.body, a.header)
		}
	}
	entries := r.entries()
	last := entries[len(entries)-1]
	want := audit.Entry{Phase: "event", Action: "decrypt", Key: keyName, KID: r.active.KID, Partner: "wise", Result: "ok"}
	want.Seq, want.At, want.Actor, want.Raw = last.Seq, last.At, last.Actor, last.Raw
	want.Detail = map[string]string{"boundary": "unwrap", "request": last.Detail["request"]}
	if d := cmp.Diff(want, last); d != "" {
		t.Error(d)
	}
	if a := last.Actor; a.UID != os.Getuid() || a.PID != os.Getpid() || a.Role != "client" || a.User == "" {
		t.Errorf("the actor is %+v", a)
	}
}

func TestOnlyVersionsThatMayOpenDo(t *testing.T) {
	r := newRig(t)
	for state, want := range map[registry.State]struct {
		status int
		code   string
	}{
		registry.Pending:     {409, "key_not_open"},
		registry.Announced:   {200, ""},
		registry.Draining:    {200, ""},
		registry.Compromised: {410, "key_compromised"},
		registry.Destroying:  {410, "key_destroyed"},
		registry.Destroyed:   {410, "key_destroyed"},
	} {
		// Registry alone: of a key that is in use the last version stays open.
		name := "key-" + string(state)
		check(t, r.reg.PutKey(theKey(name, "wise")))
		if state == registry.Draining {
			r.version(name, registry.Active)
		}
		v := r.version(name, map[bool]registry.State{true: registry.Announced, false: state}[state == registry.Draining])
		if state == registry.Draining {
			versions := r.reg.Versions(name)
			_, err := r.reg.Move([]registry.Move{{KID: versions[0].KID, To: registry.Draining, DrainUntil: time.Now().Add(time.Hour)}, {KID: v.KID, To: registry.Active}}, "test", "test", 1, time.Now())
			check(t, err)
			v = r.now(versions[0].KID)
		}
		if v.State != state {
			t.Fatalf("the rig made a version that is %s, want %s", v.State, state)
		}
		before := r.token.Calls("open")
		sealTo := v
		if len(v.Public) == 0 {
			sealTo.Public = r.active.Public
		}
		a := r.decrypt(r.seal(sealTo, []byte("x"), nil)).wants(t, want.status, want.code)
		if want.status == 200 && string(a.body) != "x" {
			t.Errorf("%s: got %q", state, a.body)
		}
		if asked := r.token.Calls("open") - before; (asked > 0) != (want.status == 200) {
			t.Errorf("%s: the backend was asked %d times", state, asked)
		}
	}
}

// Whatever can be refused is refused before a private key is touched.
func TestWhatIsWrongInPlainSightNeverReachesTheBackend(t *testing.T) {
	r := newRig(t)
	good := r.seal(r.active, []byte("x"), nil)
	with := func(change func(h map[string]any)) string {
		h := map[string]any{"alg": boundary.RSAOAEP256, "enc": enc, "kid": r.active.KID}
		change(h)
		return r.seal(r.active, []byte("x"), h)
	}
	before := r.token.Calls("open")
	for name, c := range map[string]struct {
		envelope string
		status   int
		code     string
	}{
		"nothing":           {"", 400, "malformed_envelope"},
		"four parts":        {good[:strings.LastIndexByte(good, '.')], 400, "malformed_envelope"},
		"a line break":      {good + "\n", 400, "malformed_envelope"},
		"no base64":         {good + "%", 400, "malformed_envelope"},
		"a header too long": {with(func(h map[string]any) { h["x"] = strings.Repeat("x", 5000) }), 413, "too_large"},
		"dir":               {with(func(h map[string]any) { h["alg"] = "dir" }), 400, "algorithm_not_allowed"},
		"RSA1_5":            {with(func(h map[string]any) { h["alg"] = "RSA1_5" }), 400, "algorithm_not_allowed"},
		"another enc":       {with(func(h map[string]any) { h["enc"] = "A128GCM" }), 400, "algorithm_not_allowed"},
		"zip":               {with(func(h map[string]any) { h["zip"] = "DEF" }), 400, "algorithm_not_allowed"},
		"crit":              {with(func(h map[string]any) { h["crit"] = []string{"exp"}; h["exp"] = 1 }), 400, "algorithm_not_allowed"},
		"no kid":            {with(func(h map[string]any) { delete(h, "kid") }), 400, "missing_kid"},
		"an empty kid":      {with(func(h map[string]any) { h["kid"] = "" }), 400, "missing_kid"},
		"an unknown kid":    {with(func(h map[string]any) { h["kid"] = uuid.NewString() }), 404, "unknown_kid"},
		"the kid in capitals": {with(func(h map[string]any) { h["kid"] = strings.ToUpper(r.active.KID) }),
			404, "unknown_kid"},
		"a key of 4096 bits": {compact(&boundary.Envelope{AAD: []byte(good[:strings.IndexByte(good, '.')]), EncryptedKey: make([]byte, 512),
			IV: make([]byte, 12), Tag: make([]byte, 16)}), 422, "open_failed"},
	} {
		t.Run(name, func(t *testing.T) { r.decrypt(c.envelope).wants(t, c.status, c.code) })
	}
	if asked := r.token.Calls("open") - before; asked != 0 {
		t.Errorf("the backend was asked %d times", asked)
	}
	r.decrypt(good).wants(t, 200, "")
}

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

// levelled is a backend that works at a level of the test's choosing.
type levelled struct {
	api.Backend
	says, does boundary.Level
	err        string
	last       atomic.Pointer[boundary.Opened]
}

func (l *levelled) Health(ctx context.Context) boundary.Health {
	h := l.Backend.Health(ctx)
	h.Level, h.Err = l.says, l.err
	return h
}

func (l *levelled) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	opened, err := l.Backend.Open(ctx, handle, env)
	if err == nil {
		opened.Level = l.does
		l.last.Store(opened)
	}
	return opened, err
}

func TestNothingIsOpenedBelowTheFloor(t *testing.T) {
	b := &levelled{says: boundary.Raw, does: boundary.Raw}
	r := newRig(t, func(s *setup) { b.Backend = s.backend; s.backend = b })
	key := theKey(keyName, "wise")
	key.Policy.MinBoundary = "sealed"
	check(t, r.reg.PutKey(key))
	envelope := r.seal(r.active, []byte("secret"), nil)

	before := r.token.Calls("open")
	r.decrypt(envelope).wants(t, 503, "below_floor")
	if r.token.Calls("open") != before {
		t.Error("it was opened before the level was looked at")
	}

	b.says, b.does = boundary.Sealed, boundary.Unwrap // it lies
	r.decrypt(envelope).wants(t, 503, "below_floor")
	if last := b.last.Load(); last == nil || bytes.Contains(last.Plaintext, []byte("secret")) {
		t.Error("the plaintext was not wiped")
	}

	b.does = boundary.Sealed
	r.decrypt(envelope).wants(t, 200, "")
	b.says = boundary.Raw // what it does counts, and is not asked for again
	r.decrypt(envelope).wants(t, 200, "")
}

// broken is an audit log on a full disk.
type broken struct {
	api.AuditLog
	now atomic.Bool
}

func (b *broken) Record(ctx context.Context, e audit.Entry) error {
	if b.now.Load() {
		return fmt.Errorf("writing: %w", audit.ErrFailed)
	}
	return b.AuditLog.Record(ctx, e)
}

func (b *broken) Append(ctx context.Context, e audit.Entry) (audit.Head, error) {
	if b.now.Load() {
		return audit.Head{}, fmt.Errorf("writing: %w", audit.ErrFailed)
	}
	return b.AuditLog.Append(ctx, e)
}

func TestWhatCannotBeRecordedIsNotAnswered(t *testing.T) {
	log, backend := &broken{}, &levelled{says: boundary.Raw, does: boundary.Raw}
	r := newRig(t, func(s *setup) {
		log.AuditLog, s.audit = s.audit, log
		backend.Backend, s.backend = s.backend, backend
	})
	envelope := r.seal(r.active, []byte("secret"), nil)
	log.now.Store(true)
	a := r.decrypt(envelope).wants(t, 503, "audit_unavailable")
	if bytes.Contains(a.body, []byte("secret")) || bytes.Contains(backend.last.Load().Plaintext, []byte("secret")) {
		t.Error("the plaintext was not wiped")
	}
	r.decrypt("garbage").wants(t, 503, "audit_unavailable")
	r.send(r.admin, "POST", "/v1/keys/"+keyName+"/rotate", "").wants(t, 503, "audit_unavailable")
	r.send(r.admin, "GET", "/v1/backup", "").wants(t, 503, "audit_unavailable")
	if n := len(r.reg.Versions(keyName)); n != 1 {
		t.Errorf("there are %d versions", n)
	}
	ready := r.send(http.DefaultClient, "GET", "/readyz", "")
	if ready.status != 503 || !bytes.Contains(ready.body, []byte(`"code":"audit"`)) {
		t.Errorf("/readyz says %d %s", ready.status, ready.body)
	}
}

func TestDecryptsAreRecordedAsTheConfigSays(t *testing.T) {
	for mode, want := range map[string][2]int{api.AuditAll: {1, 1}, api.AuditFailures: {0, 1}, api.AuditOff: {0, 0}} {
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, func(s *setup) { s.opener.Decrypts = mode })
			r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
			r.decrypt("garbage").wants(t, 400, "malformed_envelope")
			var got [2]int
			for _, e := range r.entries() {
				switch {
				case e.Action != "decrypt":
				case e.Result == "ok":
					got[0]++
				case e.Result == "failed" && e.Code == "malformed_envelope":
					got[1]++
				}
			}
			if got != want {
				t.Errorf("got %v entries of openings and failures, want %v", got, want)
			}
		})
	}
}

func TestAnOpeningLeavesItsMark(t *testing.T) {
	r := newRig(t)
	r.decrypt(r.seal(r.active, []byte("x"), nil)).wants(t, 200, "")
	for range 100 {
		if !r.now(r.active.KID).LastOpenAt.IsZero() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Error("the version was never marked")
}

// The canary of a rotation opens the same way, without HTTP.
func TestTheOpenerWorksWithoutHTTP(t *testing.T) {
	r := newRig(t)
	opened, err := r.opener.Open(t.Context(), audit.System, "wise", []byte(r.seal(r.active, []byte("x"), nil)))
	if err != nil || opened.KID != r.active.KID || opened.Key != keyName || string(opened.Plaintext) != "x" || opened.Level != boundary.Unwrap {
		t.Errorf("got %+v, %v", opened, err)
	}
	if _, err := r.opener.Open(t.Context(), audit.System, "nobody", nil); err == nil {
		t.Error("an unknown partner's envelope was opened")
	}
	if _, err := r.opener.Open(t.Context(), audit.System, "wise", []byte("x")); err == nil {
		t.Error("garbage was opened")
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
