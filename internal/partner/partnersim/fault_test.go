package partnersim_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

// TestFaultsInTheWayComeInPairs: the client sees the same failure whether or
// not the call took effect.
func TestFaultsInTheWayComeInPairs(t *testing.T) {
	for name, dial := range dials {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dial)
			for _, e := range allEndpoints {
				for _, after := range []bool{false, true} {
					r.interrupted(e, after)
				}
			}
		})
	}
}

func (r *rig) interrupted(e partnersim.Endpoint, after bool) {
	r.t.Helper()
	for _, f := range []partnersim.Fault{
		{Kind: partnersim.Error},
		{Kind: partnersim.Error, Status: 503},
		{Kind: partnersim.Error, Status: 404},
		{Kind: partnersim.RateLimit, RetryAfter: 7 * time.Second},
		{Kind: partnersim.Close},
	} {
		f.Endpoint, f.After = e, after
		must(r.t, r.sim.Fail(f))
		uploads := len(r.sim.Uploads())
		a, err := r.call(e)
		switch {
		case f.Kind == partnersim.Close:
			if !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
				r.t.Errorf("%s %+v: %d %v", e, f, a.status, err)
			}
		case err != nil:
			r.t.Errorf("%s %+v: %v", e, f, err)
		case f.Kind == partnersim.RateLimit:
			if a.status != 429 || a.header.Get("Retry-After") != "7" || a.header.Get("X-Rate-Limited-By") == "" {
				r.t.Errorf("%s %+v: %d %v", e, f, a.status, a.header)
			}
		case f.Status == 0:
			generic500(r.t, a)
		case a.status != f.Status || a.field(r.t, "errors") == nil:
			r.t.Errorf("%s %+v: %d %s", e, f, a.status, a.body)
		}
		want := after && changes(e)
		entry := r.last()
		if entry.Fault != f.Kind || entry.Effect != want || !entry.Done || entry.Status != a.status {
			r.t.Errorf("%s %+v: log %+v, want effect %t", e, f, entry, want)
		}
		if e == partnersim.EndpointUpload && (len(r.sim.Uploads()) > uploads) != want {
			r.t.Errorf("%s %+v: the key is kept: %t", e, f, !want)
		}
		r.works(e)
	}
}

func TestExpiredTokenStaysExpired(t *testing.T) {
	r := newRig(t, direct)
	for _, e := range allEndpoints[1:] {
		must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.Any, Kind: partnersim.ExpiredToken}))
		for range 2 { // the fault, then the token it has ended
			a, err := r.call(e)
			must(t, err)
			if a.status != 401 || a.field(t, "error") != "invalid_token" || a.field(t, "error_description") != r.token {
				t.Errorf("%s: %d %.200s", e, a.status, a.body)
			}
		}
		r.login()
		r.works(e)
	}
}

func TestFaultsOfTheAnswer(t *testing.T) {
	for name, dial := range dials {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, dial)
			for _, e := range allEndpoints {
				for _, kind := range []partnersim.Kind{partnersim.Empty, partnersim.Garbage, partnersim.Truncated, partnersim.Cut} {
					must(t, r.sim.Fail(partnersim.Fault{Endpoint: e, Kind: kind}))
					token := r.token
					a, err := r.call(e)
					if a.status >= 300 || (err != nil) != (kind == partnersim.Cut) {
						t.Errorf("%s %s: %d %v", e, kind, a.status, err)
					}
					if kind == partnersim.Cut && (len(a.body) == 0 || !errors.Is(err, io.ErrUnexpectedEOF)) {
						t.Errorf("%s cut: %d bytes, %v", e, len(a.body), err)
					}
					if (len(a.body) == 0) != (kind == partnersim.Empty) {
						t.Errorf("%s %s: body %q", e, kind, a.body)
					}
					if kind == partnersim.Empty && a.header.Get("Content-Type") != "" {
						t.Errorf("%s: nothing has Content-Type %s", e, a.header.Get("Content-Type"))
					}
					if _, _, err := r.open(a); err == nil || json.Valid(a.body) {
						t.Errorf("%s %s: whole after all: %q", e, kind, a.body)
					}
					if entry := r.last(); entry.Effect != changes(e) || entry.Fault != kind {
						t.Errorf("%s %s: log %+v", e, kind, entry)
					}
					r.token = token
					r.works(e)
				}
			}
		})
	}
}

func TestFaultsOfASealedAnswer(t *testing.T) {
	r := newRig(t, direct)
	for _, e := range sealedEndpoints {
		for kind, check := range map[partnersim.Kind]func(answer) bool{
			partnersim.PlainJSON: func(a answer) bool {
				return a.header.Get("Content-Type") == "application/json" && json.Valid(a.body)
			},
			partnersim.WrongKID: func(a answer) bool {
				kid, _, err := r.open(a)
				return err != nil && uuid.Validate(kid) == nil && r.opensWithAny(a)
			},
			partnersim.WrongKey: func(a answer) bool {
				kid, _, err := r.open(a)
				return errors.Is(err, jose.ErrCryptoFailure) && r.keys[kid] != nil && !r.opensWithAny(a)
			},
			partnersim.BadTag: func(a answer) bool {
				_, _, err := r.open(a)
				return errors.Is(err, jose.ErrCryptoFailure)
			},
			partnersim.StrayTail: func(a answer) bool {
				_, _, broken := r.open(a)
				a.body = bytes.TrimSuffix(a.body, []byte("02"))
				_, _, err := r.open(a)
				return broken != nil && err == nil
			},
			partnersim.DirectReply: func(a answer) bool {
				parts := strings.Split(string(a.body), ".")
				_, err := jose.ParseEncryptedCompact(string(a.body), []jose.KeyAlgorithm{jose.DIRECT}, []jose.ContentEncryption{jose.A256GCM})
				return err == nil && len(parts) == 5 && parts[1] == ""
			},
		} {
			must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.Any, Kind: kind}))
			r.works(partnersim.EndpointWiseKey) // not sealed: the fault waits
			a, err := r.call(e)
			must(t, err)
			// The newest key is the rig's only one that it holds the private half of.
			if a.status != 200 || !check(a) {
				t.Errorf("%s %s: %d %v %.300s", e, kind, a.status, a.header, a.body)
			}
			if r.last().Fault != kind {
				t.Errorf("%s %s: log %+v", e, kind, r.last())
			}
			r.works(e)
		}
	}
}

// opensWithAny reports whether one of our keys opens a sealed answer, whatever its kid.
func (r *rig) opensWithAny(a answer) bool {
	jwe, err := jose.ParseEncryptedCompact(string(a.body), []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		return false
	}
	for _, key := range r.keys {
		if _, err := jwe.Decrypt(key); err == nil {
			return true
		}
	}
	return false
}

func TestErrorsAreLeftAloneByFaultsOfTheAnswer(t *testing.T) {
	r := newRig(t, direct)
	r.token = "unknown"
	for _, kind := range []partnersim.Kind{partnersim.Empty, partnersim.Cut, partnersim.WrongKID} {
		must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointProbe, Kind: kind}))
		if a, err := r.call(partnersim.EndpointProbe); err != nil || a.status != 401 || a.field(t, "error") != "invalid_token" {
			t.Errorf("%s: %d %s %v", kind, a.status, a.body, err)
		}
	}
}

func TestFaultsAreCountedAndQueued(t *testing.T) {
	r := newRig(t, direct)
	probe := partnersim.EndpointProbe
	must(t, r.sim.Fail(partnersim.Fault{Endpoint: probe, Kind: partnersim.Error, Status: 503, Times: 2}))
	must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.Any, Kind: partnersim.Error, Status: 502, Times: -1}))
	var got []int
	for _, e := range []partnersim.Endpoint{partnersim.EndpointWiseKey, probe, probe, probe, probe} {
		a, err := r.call(e)
		must(t, err)
		got = append(got, a.status)
	}
	if want := []int{502, 503, 503, 502, 502}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if left := r.sim.Faults(); len(left) != 1 || left[0].Times != -1 {
		t.Errorf("left: %+v", left)
	}
	r.sim.ClearFaults()
	r.works(probe)
}

func TestDelayHoldsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, direct)
		for _, after := range []bool{false, true} {
			n := len(r.sim.Uploads())
			must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointUpload, Kind: partnersim.Delay, Delay: time.Minute, After: after}))
			r.http.Timeout = 30 * time.Second
			if _, err := r.call(partnersim.EndpointUpload); err == nil {
				t.Error("the client did not time out")
			}
			if got := len(r.sim.Uploads()) - n; got != map[bool]int{false: 0, true: 1}[after] {
				t.Errorf("after %t: %d keys when the client gave up", after, got)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if got := len(r.sim.Uploads()) - n; got != 1 {
				t.Errorf("after %t: %d keys in the end", after, got)
			}
			r.http.Timeout = 0
			start := time.Now()
			must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointProbe, Kind: partnersim.Delay, Delay: time.Minute, After: after}))
			r.works(partnersim.EndpointProbe)
			if got := time.Since(start); got != time.Minute {
				t.Errorf("after %t: held for %s", after, got)
			}
		}
	})
}

func TestHangLastsUntilReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, direct)
		for _, after := range []bool{false, true} {
			n := len(r.sim.Uploads())
			must(t, r.sim.Fail(partnersim.Fault{Endpoint: partnersim.EndpointUpload, Kind: partnersim.Hang, After: after}))
			done := make(chan answer, 1)
			go func() {
				a, _ := r.call(partnersim.EndpointUpload)
				done <- a
			}()
			time.Sleep(30 * time.Minute)
			synctest.Wait()
			if entry := r.last(); entry.Done || entry.Effect != after || r.sim.Hung() != 1 || len(done) != 0 {
				t.Errorf("after %t: %d hang, log %+v", after, r.sim.Hung(), entry)
			}
			if after {
				r.sim.Release()
			} else {
				r.sim.ClearFaults()
			}
			if a := <-done; a.status != 201 || len(r.sim.Uploads()) != n+1 || r.sim.Hung() != 0 {
				t.Errorf("after %t: %d %s, %d hang", after, a.status, a.body, r.sim.Hung())
			}
		}
	})
}

func TestFaultsThatCannotHappenAreRefused(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	for _, f := range []partnersim.Fault{
		{},
		{Endpoint: partnersim.Any},
		{Endpoint: "tokens", Kind: partnersim.Close},
		{Endpoint: partnersim.Any, Kind: "explode"},
		{Endpoint: partnersim.EndpointToken, Kind: partnersim.ExpiredToken},
		{Endpoint: partnersim.EndpointUpload, Kind: partnersim.ExpiredToken, After: true},
		{Endpoint: partnersim.EndpointUpload, Kind: partnersim.WrongKID},
		{Endpoint: partnersim.EndpointProbe, Kind: partnersim.WrongKID, After: true},
		{Endpoint: partnersim.EndpointProbe, Kind: partnersim.Empty, After: true},
		{Endpoint: partnersim.Any, Kind: partnersim.Close, Status: 500},
		{Endpoint: partnersim.Any, Kind: partnersim.Error, Status: 200},
		{Endpoint: partnersim.Any, Kind: partnersim.Error, Delay: time.Second},
		{Endpoint: partnersim.Any, Kind: partnersim.Delay},
		{Endpoint: partnersim.Any, Kind: partnersim.Delay, Delay: -1},
		{Endpoint: partnersim.Any, Kind: partnersim.Error, RetryAfter: time.Second},
		{Endpoint: partnersim.Any, Kind: partnersim.RateLimit, RetryAfter: time.Millisecond},
		{Endpoint: partnersim.Any, Kind: partnersim.RateLimit, RetryAfter: -time.Second},
	} {
		if err := sim.Fail(f); err == nil {
			t.Errorf("%+v was armed", f)
		}
	}
	if left := sim.Faults(); len(left) != 0 {
		t.Errorf("armed: %+v", left)
	}
}
