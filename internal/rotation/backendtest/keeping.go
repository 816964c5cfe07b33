package backendtest

import (
	"context"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// discardAfter cleans up even when the test's context has ended.
func discardAfter(t *testing.T, b rotation.Backend, s boundary.Spec) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.Discard(ctx, s); err != nil {
			t.Errorf("cleaning up: Discard: %v", err)
		}
	})
}

// standing returns what stands under a kid.
func standing(t *testing.T, b rotation.Backend, kid string) []boundary.Found {
	t.Helper()
	all, err := b.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return slices.DeleteFunc(all, func(f boundary.Found) bool { return f.KID != kid })
}

func (s suite) regenerates(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	_, _ = generate(t, b, sp)
	g, pub := generate(t, b, sp)
	if found := standing(t, b, sp.KID); len(found) != 1 || found[0].Handle != g.Handle {
		t.Fatalf("after two runs there stand %+v, want one key under %s", found, g.Handle)
	}
	opened, err := b.Open(t.Context(), g.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil))
	if err != nil || string(opened.Plaintext) != "x" {
		t.Errorf("Open with the second run's key = %v, %v", opened, err)
	}
}

func (s suite) refusesSpecs(t *testing.T) {
	b := s.open(t)
	good := spec(2048)
	for name, change := range map[string]func(*boundary.Spec){
		"no algorithm":      func(s *boundary.Spec) { s.Algorithm = "" },
		"unknown algorithm": func(s *boundary.Spec) { s.Algorithm = "RSA1_5" },
		"no bits":           func(s *boundary.Spec) { s.Bits = 0 },
		"too few bits":      func(s *boundary.Spec) { s.Bits = 1024 },
		"odd bits":          func(s *boundary.Spec) { s.Bits = 2049 },
		"no kid":            func(s *boundary.Spec) { s.KID = "" },
		"kid not a UUID":    func(s *boundary.Spec) { s.KID = "../" + s.KID },
		"kid in upper case": func(s *boundary.Spec) { s.KID = strings.ToUpper("a" + s.KID[1:]) },
		"no key name":       func(s *boundary.Spec) { s.Key = "" },
	} {
		sp := good
		sp.KID = uuid.NewString()
		change(&sp)
		if g, err := b.Generate(t.Context(), sp); err == nil {
			t.Errorf("%s: Generate = %+v, want an error", name, g)
			discardAfter(t, b, sp)
		}
		if sp.KID != "" && len(standing(t, b, sp.KID)) != 0 {
			t.Errorf("%s: something was left behind", name)
		}
	}
}

func (s suite) discards(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Errorf("nothing there: Discard: %v, want no error", err)
	}
	g, _ := generate(t, b, sp)
	other, _ := generate(t, b, spec(s.opts.Bits[0]))
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Fatalf("Discard: %v", err)
	}
	if found := standing(t, b, sp.KID); len(found) != 0 {
		t.Errorf("after Discard there stand %+v", found)
	}
	if _, err := b.Public(t.Context(), g.Handle); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Public after Discard: %v, want boundary.ErrNoKey", err)
	}
	if _, err := b.Public(t.Context(), other.Handle); err != nil {
		t.Errorf("Discard touched another key: %v", err)
	}
}

func (s suite) handles(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	g, pub := generate(t, b, sp)
	env := Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)
	if err := b.Discard(t.Context(), sp); err != nil {
		t.Fatalf("Discard: %v", err)
	}
	if _, err := b.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("a handle whose key is gone: Open: %v, want boundary.ErrNoKey", err)
	}
	for _, handle := range []string{"", "x", "\x00", ";", g.Handle + "x", "pkcs11:", "pkcs11:id=%", "pkcs11:id=%zz;object=%",
		strings.Repeat("a", 1<<20)} {
		if got, err := b.Open(t.Context(), handle, env); err == nil || errors.Is(err, boundary.ErrOpen) {
			t.Errorf("handle %.40q: Open = %v, %v, want an error about the handle", handle, got, err)
		}
		if got, err := b.Public(t.Context(), handle); err == nil {
			t.Errorf("handle %.40q: Public = %v, want an error", handle, got)
		}
		// Either answer is right; what matters is that nothing else goes.
		_, _ = b.Destroy(t.Context(), handle)
	}
	// The config may have given a backend's name to another kind of backend, which
	// knows nothing of the key: above all not that it is gone.
	for kind, handle := range map[string]string{"arn:": "arn:aws:kms:eu-central-1:111122223333:key/" + uuid.NewString(), "pkcs11:": "pkcs11:id=%01;object=x"} {
		if strings.HasPrefix(g.Handle, kind) {
			continue
		}
		if gone, err := b.Destroy(t.Context(), handle); gone || err == nil {
			t.Errorf("another backend's handle %q: Destroy = %t, %v, want an error", handle, gone, err)
		}
	}
}

func (s suite) destroys(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	g, pub := generate(t, b, sp)
	other, _ := generate(t, b, spec(s.opts.Bits[0]))
	for run := range 2 {
		gone, err := b.Destroy(t.Context(), g.Handle)
		if err != nil || gone == s.opts.Waits {
			t.Errorf("run %d: Destroy = %v, %v, want %v and no error", run+1, gone, err, !s.opts.Waits)
		}
	}
	if _, err := b.Open(t.Context(), g.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil)); !errors.Is(err, boundary.ErrNoKey) {
		t.Errorf("Open after Destroy: %v, want boundary.ErrNoKey", err)
	}
	if found := standing(t, b, sp.KID); len(found) != 0 {
		t.Errorf("after Destroy there stand %+v", found)
	}
	if _, err := b.Public(t.Context(), other.Handle); err != nil {
		t.Errorf("Destroy touched another key: %v", err)
	}
}

func (s suite) finds(t *testing.T) {
	b := s.open(t)
	sp := spec(s.opts.Bits[0])
	g, pub := generate(t, b, sp)
	_, _ = generate(t, b, spec(s.opts.Bits[0]))
	found := standing(t, b, sp.KID)
	if len(found) != 1 {
		t.Fatalf("List names %+v under the kid, want one key", found)
	}
	id := uuid.MustParse(sp.KID)
	for _, query := range []string{sp.KID, hex.EncodeToString(id[:]), found[0].Label, g.Handle} {
		got, err := b.Find(t.Context(), query)
		if err != nil || got.Handle != g.Handle || got.KID != sp.KID || !got.Managed || !pub.Equal(got.Public) {
			t.Errorf("Find(%q) = %+v, %v, want the generated key", query, got, err)
		}
	}
	for _, query := range []string{uuid.NewString(), "no such label", ""} {
		if got, err := b.Find(t.Context(), query); !errors.Is(err, boundary.ErrNoKey) {
			t.Errorf("Find(%q) = %+v, %v, want boundary.ErrNoKey", query, got, err)
		}
	}
}

func (s suite) foreign(t *testing.T) {
	if s.opts.Plant == nil {
		t.Skip("no way given to put a foreign key there")
	}
	b := s.open(t)
	label, id := "foreign "+uuid.NewString(), uuid.New()
	s.opts.Plant(t, b, label, hex.EncodeToString(id[:]))
	got, err := b.Find(t.Context(), label)
	if err != nil || got.Managed || got.Label != label || got.KID != id.String() {
		t.Fatalf("Find = %+v, %v, want a key that is not managed", got, err)
	}
	pub, ok := got.Public.(*rsa.PublicKey)
	if !ok {
		t.Fatalf("its public half is %T, want *rsa.PublicKey", got.Public)
	}
	opened, err := b.Open(t.Context(), got.Handle, Seal(t, pub, s.opts.Encs[0], []byte("x"), nil))
	if err != nil || string(opened.Plaintext) != "x" {
		t.Errorf("Open with it = %v, %v", opened, err)
	}
	other := uuid.New()
	s.opts.Plant(t, b, label, hex.EncodeToString(other[:]))
	if got, err := b.Find(t.Context(), label); !errors.Is(err, boundary.ErrAmbiguous) {
		t.Errorf("two keys under one label: Find = %+v, %v, want boundary.ErrAmbiguous", got, err)
	}
}

func (s suite) lists(t *testing.T) {
	b := s.open(t)
	want := map[string]*rsa.PublicKey{}
	for range 3 {
		g, pub := generate(t, b, spec(s.opts.Bits[0]))
		want[g.Handle] = pub
	}
	all, err := b.List(t.Context())
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	seen := map[string]bool{}
	for _, f := range all {
		if seen[f.Handle] {
			t.Errorf("List names %s twice", f.Handle)
		}
		seen[f.Handle] = true
		if pub := want[f.Handle]; pub != nil {
			if !f.Managed || !pub.Equal(f.Public) {
				t.Errorf("List says of a generated key: %+v", f)
			}
			delete(want, f.Handle)
		}
	}
	if len(want) != 0 {
		t.Errorf("List leaves out %d generated keys", len(want))
	}
}

func (s suite) health(t *testing.T) {
	h := s.open(t).Health(t.Context())
	if h.Err != "" || h.Backend == "" || h.Kind == "" || h.Sessions < 1 {
		t.Errorf("Health = %+v, want a backend that works and says what it is", h)
	}
	for _, algorithm := range []string{boundary.RSAOAEP256, boundary.ECDHES, boundary.PS256} {
		if level, can := h.Levels[algorithm]; can != s.can(algorithm) || can && !level.AtLeast("") {
			t.Errorf("Health says that it works at %q with keys for %s", level, algorithm)
		}
	}
}
