package kms_test

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/rotation/backendtest"
)

// forger is a KMS, or somebody on the way to it, that answers what was not
// asked.
type forger struct {
	next   http.RoundTripper
	op     string
	change func(answer map[string]any)
}

func (f *forger) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := f.next.RoundTrip(r)
	if err != nil || f.op == "" || !strings.HasSuffix(r.Header.Get("X-Amz-Target"), "."+f.op) {
		return res, err
	}
	var answer map[string]any
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return nil, err
	}
	f.change(answer)
	body, err := json.Marshal(answer)
	res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return res, err
}

func TestAnAnswerToSomethingElseIsNoAnswer(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	f := &forger{next: s.Transport()}
	b := open(t, s, func(c *kms.Config) { c.HTTPClient = &http.Client{Transport: f} })
	other := generate(t, b, spec())
	use := map[string]func(context.Context) error{}
	for op, prepare := range uses {
		use[op] = prepare(t, b)
	}
	for name, c := range map[string]struct {
		op     string
		change func(map[string]any)
	}{
		"another key's content key":   {"Decrypt", func(a map[string]any) { a["KeyId"] = other.Handle }},
		"OAEP with another hash":      {"Decrypt", func(a map[string]any) { a["EncryptionAlgorithm"] = "RSAES_OAEP_SHA_1" }},
		"no key named":                {"Decrypt", func(a map[string]any) { delete(a, "KeyId") }},
		"another key's secret":        {"DeriveSharedSecret", func(a map[string]any) { a["KeyId"] = other.Handle }},
		"a secret of another kind":    {"DeriveSharedSecret", func(a map[string]any) { delete(a, "KeyAgreementAlgorithm") }},
		"a shorter secret":            {"DeriveSharedSecret", func(a map[string]any) { a["SharedSecret"] = "AAAA" }},
		"no secret":                   {"DeriveSharedSecret", func(a map[string]any) { delete(a, "SharedSecret") }},
		"another key's signature":     {"Sign", func(a map[string]any) { a["KeyId"] = other.Handle }},
		"a signature of another kind": {"Sign", func(a map[string]any) { a["SigningAlgorithm"] = "RSASSA_PKCS1_V1_5_SHA_256" }},
	} {
		f.op, f.change = c.op, c.change
		if err := use[c.op](t.Context()); !errors.Is(err, kms.ErrUnreachable) || errors.Is(err, boundary.ErrOpen) {
			t.Errorf("%s: %v, want ErrUnreachable", name, err)
		}
		f.op = ""
		if err := use[c.op](t.Context()); err != nil {
			t.Errorf("%s, then the true answer: %v", name, err)
		}
	}
	for name, change := range map[string]func(map[string]any){
		"for another use":      func(a map[string]any) { a["KeyUsage"] = "SIGN_VERIFY" },
		"of another size":      func(a map[string]any) { a["KeySpec"] = "RSA_4096" },
		"without an algorithm": func(a map[string]any) { delete(a, "EncryptionAlgorithms") },
		"that is none":         func(a map[string]any) { a["PublicKey"] = "AAAA" },
	} {
		f.op, f.change = "GetPublicKey", change
		if public, err := b.Public(t.Context(), other.Handle); err == nil {
			t.Errorf("a public key %s: Public = %v, want an error", name, public)
		}
	}
}

// Above all no such answer says that a key is gone.
func TestADescriptionOfNoKeyIsNoAnswer(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	f := &forger{next: s.Transport()}
	b := open(t, s, func(c *kms.Config) { c.HTTPClient = &http.Client{Transport: f} })
	g := generate(t, b, spec())
	for name, change := range map[string]func(map[string]any){
		"nothing": func(a map[string]any) { delete(a, "KeyMetadata") },
		"no ARN":  func(a map[string]any) { delete(a["KeyMetadata"].(map[string]any), "Arn") },
		"no id":   func(a map[string]any) { delete(a["KeyMetadata"].(map[string]any), "KeyId") },
	} {
		f.op, f.change = "DescribeKey", change
		if gone, err := b.Destroy(t.Context(), g.Handle); gone || !errors.Is(err, kms.ErrUnreachable) || alive(s) != 1 {
			t.Errorf("%s: Destroy = %t, %v, want ErrUnreachable", name, gone, err)
		}
	}
}

// The text is for people, and the request's id for AWS's support.
func TestAnErrorOfKMSSaysWhatHappenedOnce(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	g := generate(t, b, spec())
	for code, want := range map[string]string{
		"AccessDeniedException":  "reading a public key: GetPublicKey: the backend is unavailable: AWS denies access: AccessDeniedException: a fault that a test asked for (request UUID)",
		"LimitExceededException": "reading a public key: GetPublicKey: LimitExceededException: a fault that a test asked for (request UUID)",
		"ThrottlingException":    "reading a public key: GetPublicKey: the backend is busy: ThrottlingException: a fault that a test asked for (request UUID)",
	} {
		s.Inject(kmstest.Fault{Op: "GetPublicKey", Code: code, Times: 3})
		_, err := b.Public(t.Context(), g.Handle)
		if got := requestID.ReplaceAllString(fmt.Sprint(err), "request UUID"); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		s.Heal()
	}
}

var requestID = regexp.MustCompile(`request [0-9a-f]{8}-[0-9a-f-]{27}`)

// Whatever the sender got wrong about the key agreement, KMS never sees a
// point that is not on the key's curve, and the error is that of a forged tag.
func TestAnEphemeralKeyOfAnotherCurveDoesNotReachKMS(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	g := generate(t, b, specFor(boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-384"}))
	theirs := generate(t, b, specFor(materials[1]))
	b = open(t, s) // has forgotten which curve it is
	for name, public := range map[string]*ecdh.PublicKey{"its own curve": g.Public.(*ecdh.PublicKey), "another curve": theirs.Public.(*ecdh.PublicKey)} {
		env := backendtest.Agree(t, public, boundary.ECDHESA256KW, boundary.A256GCM, []byte("x"), nil)
		env.Tag[0] ^= 1
		before, asked := s.Calls("DeriveSharedSecret"), map[string]int{"its own curve": 1}[name]
		if _, err := b.Open(t.Context(), g.Handle, env); err != boundary.ErrOpen { //nolint:errorlint // the bare one
			t.Errorf("%s: Open: %v, want the bare boundary.ErrOpen", name, err)
		}
		if n := s.Calls("DeriveSharedSecret") - before; n != asked {
			t.Errorf("%s: KMS was asked %d times, want %d", name, n, asked)
		}
	}
	if n := s.Calls("GetPublicKey"); n != 3 { // two by Generate
		t.Errorf("the public key was read %d times, want once more than by Generate: a curve never changes", n)
	}
}

func TestTheLevelIsThatOfTheKindOfKey(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	b := open(t, s)
	health := b.Health(t.Context())
	for algorithm, want := range map[string]boundary.Level{boundary.RSAOAEP256: boundary.Unwrap, boundary.ECDHES: boundary.Raw, boundary.PS256: boundary.Sealed} {
		g := generate(t, b, specFor(boundary.Material{Algorithm: algorithm}.Usual()))
		found, err := b.Find(t.Context(), g.Handle)
		if err != nil || health.Levels[algorithm] != want || g.Evidence.Level != want || found.Evidence.Level != want {
			t.Errorf("%s: health %q, evidence %q, found %q, %v, want %q", algorithm, health.Levels[algorithm], g.Evidence.Level, found.Evidence.Level, err, want)
		}
		if algorithm != boundary.ECDHES {
			continue
		}
		opened, err := b.Open(t.Context(), g.Handle, backendtest.Agree(t, g.Public.(*ecdh.PublicKey), boundary.ECDHES, boundary.A128CBCHS256, []byte("x"), nil))
		if err != nil || opened.Level != want || string(opened.Plaintext) != "x" {
			t.Errorf("%s: Open = %+v, %v", algorithm, opened, err)
		}
	}
}

// The defaults leave the rest of the account its share, and KMS nothing to
// throttle, however many ask at once.
func TestTheDefaultBudgetKeepsToAWSsQuotas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := kmstest.New(kmstest.Options{Quotas: kmstest.Quotas})
		b := open(t, s, func(c *kms.Config) { c.Budget, c.Concurrency = kms.Budget{}, 10_000 })
		g := generate(t, b, specFor(materials[1]))
		public := g.Public.(*ecdh.PublicKey)
		var served, busy atomic.Int64
		var wg sync.WaitGroup
		end := time.Now().Add(3 * time.Second)
		for range 1000 { // far more than there is room for
			wg.Go(func() {
				env := backendtest.Agree(t, public, boundary.ECDHES, boundary.A256GCM, []byte("x"), nil)
				for time.Now().Before(end) {
					switch _, err := b.Open(t.Context(), g.Handle, env); {
					case err == nil:
						served.Add(1)
					case errors.Is(err, boundary.ErrBusy):
						busy.Add(1)
						time.Sleep(100 * time.Millisecond)
					default:
						t.Errorf("Open: %v", err)
						return
					}
				}
			})
		}
		for range 20 {
			wg.Go(func() {
				if _, err := b.Generate(t.Context(), specFor(materials[1])); err != nil && !errors.Is(err, boundary.ErrBusy) {
					t.Errorf("Generate: %v", err)
				}
			})
		}
		wg.Wait()
		if s.Throttled() != 0 {
			t.Errorf("KMS throttled %d requests", s.Throttled())
		}
		// 200 at once, and 800 a second.
		if n := served.Load(); n < 2500 || n > 3200 || busy.Load() == 0 {
			t.Errorf("%d were served in three seconds, %d told to come back", n, busy.Load())
		}
	})
}

func TestABackendsFloorIsForEveryKindOfKey(t *testing.T) {
	s := kmstest.New(kmstest.Options{})
	g := generate(t, open(t, s), specFor(materials[1]))
	b := open(t, s, func(c *kms.Config) { c.MinBoundary = boundary.Unwrap })
	env := backendtest.Agree(t, g.Public.(*ecdh.PublicKey), boundary.ECDHES, boundary.A256GCM, []byte("x"), nil)
	if _, err := b.Open(t.Context(), g.Handle, env); !errors.Is(err, boundary.ErrBelowFloor) || s.Calls("DeriveSharedSecret") != 0 {
		t.Errorf("Open: %v, want boundary.ErrBelowFloor and no use of the key", err)
	}
	if h := b.Health(t.Context()); h.Floor != boundary.Unwrap {
		t.Errorf("Health = %+v", h)
	}
}
