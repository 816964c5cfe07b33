package api_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
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

// levelled is a backend that works at a level of the test's choosing.
type levelled struct {
	api.Backend
	says, does boundary.Level // what it refuses by, and what it opens at
	err        string
	last       atomic.Pointer[boundary.Opened]
}

func (l *levelled) Health(ctx context.Context) boundary.Health {
	h := l.Backend.Health(ctx)
	h.Levels, h.Err = map[string]boundary.Level{boundary.RSAOAEP256: l.says}, l.err
	return h
}

func (l *levelled) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	if err := env.CheckFloor(l.says); err != nil {
		return nil, err
	}
	asked := *env
	asked.Floor = ""
	opened, err := l.Backend.Open(ctx, handle, &asked)
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
	b.says = boundary.Raw // its device was replaced by another one
	r.decrypt(envelope).wants(t, 503, "below_floor")
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
	for range 1200 {
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
