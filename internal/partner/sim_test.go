package partner_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/partner"
	"keyd/internal/partner/partnersim"
)

// simulate makes a client on a simulator, which was written from Wise's
// documents and not from this client.
func simulate(t *testing.T, opt partnersim.Options, changes ...func(*partner.WiseConfig)) (*partnersim.Sim, *partner.Wise) {
	t.Helper()
	sim := partnersim.New(opt)
	cfg := config(io.Discard)
	cfg.ClientID = partnersim.DemoClientID
	cfg.ClientSecret = func() ([]byte, error) { return []byte(partnersim.DemoClientSecret), nil }
	cfg.HTTP = sim.Transport()
	for _, change := range changes {
		change(&cfg)
	}
	w, err := partner.NewWise(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return sim, w
}

func tell(t *testing.T, w *partner.Wise, kid string) error {
	t.Helper()
	now := time.Now()
	return w.Announce(t.Context(), kid, &rsaKey().PublicKey, now.Add(-time.Minute), now.Add(90*24*time.Hour))
}

// opened opens an answer as keyd's hardware would, and returns its kid.
func opened(t *testing.T, compact []byte, want string) string {
	t.Helper()
	e, err := jose.ParseEncryptedCompact(string(compact), []jose.KeyAlgorithm{jose.RSA_OAEP_256}, []jose.ContentEncryption{jose.A256GCM})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := e.Decrypt(rsaKey())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(plain), want) {
		t.Errorf("got %s, want %q in it", plain, want)
	}
	return e.Header.KeyID
}

func sealTo(key crypto.PublicKey, kid string) func(string) (string, error) {
	return func(url string) (string, error) {
		opts := (&jose.EncrypterOptions{}).WithHeader("url", url)
		enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP_256, Key: key, KeyID: kid}, opts)
		if err != nil {
			return "", err
		}
		e, err := enc.Encrypt([]byte(`{"message":"hello"}`))
		if err != nil {
			return "", err
		}
		return e.CompactSerialize()
	}
}

const secondKID = "8d3c2b1a-0f9e-4d8c-b7a6-958473625140"

func TestWholeConversationWithTheSimulator(t *testing.T) {
	for name, tc := range map[string]struct {
		opt partnersim.Options
		kid partner.ResponseKID
	}{
		"as documented":  {partnersim.Options{}, partner.ResponseKID{}},
		"UUID tokens":    {partnersim.Options{TokenFormat: partnersim.TokenUUID}, partner.ResponseKID{}},
		"odd key answer": {partnersim.Options{ArrayReply: true, MaterialNewlines: true, OmitWiseKeyID: true, ExtraFields: true}, partner.ResponseKID{}},
		"kid in a header": {partnersim.Options{ResponseKID: partnersim.NamedInHeader + "X-Kid", RequireKID: true},
			partner.ResponseKID{In: partner.KIDInHeader, Header: "X-Kid"}},
		"kid nowhere":      {partnersim.Options{ResponseKID: partnersim.NamedNowhere, Unnamed: partnersim.UseOldest}, partner.ResponseKID{In: partner.KIDNowhere}},
		"kid must be said": {partnersim.Options{RequireKID: true}, partner.ResponseKID{}},
	} {
		t.Run(name, func(t *testing.T) {
			sim, w := simulate(t, tc.opt, func(c *partner.WiseConfig) { c.ResponseKID = tc.kid })
			for _, kid := range []string{secondKID, testKID} {
				if err := tell(t, w, kid); err != nil {
					t.Fatal(err)
				}
			}
			if err := tell(t, w, testKID); err != nil {
				t.Errorf("repeating: %v", err)
			}
			if n := len(sim.Uploads()); n != 2 {
				t.Errorf("the partner holds %d keys, want 2", n)
			}
			want := testKID // the newest, or the one named
			if tc.opt.Unnamed == partnersim.UseOldest {
				want = secondKID
			}
			compact, err := w.Playground(t.Context(), testKID)
			if err != nil {
				t.Fatal(err)
			}
			if got := opened(t, compact, `"method":"GET"`); got != want {
				t.Errorf("GET answered to %s, want %s", got, want)
			}
			_, version, alg, key, err := w.FetchKey(t.Context())
			if err != nil || version != 1 || alg != "RSA-OAEP-256" {
				t.Fatalf("got version %d, %s, %v", version, alg, err)
			}
			named := ""
			if w.NamesKIDInJOSE() {
				named = testKID
			}
			compact, err = w.PlaygroundPost(t.Context(), testKID, sealTo(key, named))
			if err != nil {
				t.Fatal(err)
			}
			if got := opened(t, compact, "jose-playground-response-hello"); got != want {
				t.Errorf("POST answered to %s, want %s", got, want)
			}
			if n := sim.Count(partnersim.EndpointToken); n != 1 {
				t.Errorf("%d tokens asked for, want 1", n)
			}
		})
	}
}

func TestSimulatedPartnerRotatesItsKey(t *testing.T) {
	sim, w := simulate(t, partnersim.Options{KeyOverlap: -1})
	if err := tell(t, w, testKID); err != nil {
		t.Fatal(err)
	}
	var stored crypto.PublicKey
	load := func(ctx context.Context, fresh bool) (crypto.PublicKey, error) {
		if stored != nil && !fresh {
			return stored, nil
		}
		_, _, _, key, err := w.FetchKey(ctx)
		stored = key
		return key, err
	}
	hello := func(ctx context.Context, key crypto.PublicKey) error {
		compact, err := w.PlaygroundPost(ctx, testKID, sealTo(key, testKID))
		if err == nil {
			opened(t, compact, "hello")
		}
		return err
	}
	for range 3 {
		if err := partner.RetryStale(t.Context(), load, hello, partner.StaleKey); err != nil {
			t.Error(err)
		}
	}
	sim.Rotate(partnersim.Wise)
	if err := partner.RetryStale(t.Context(), load, hello, partner.StaleKey); err != nil {
		t.Errorf("after the partner's rotation: %v", err)
	}
	if n := sim.Count(partnersim.EndpointWiseKey); n != 2 {
		t.Errorf("the key was fetched %d times, want 2", n)
	}
	// Our own key is gone there: the same 500, one repetition, then the error.
	sim.Revoke(testKID)
	err := partner.RetryStale(t.Context(), load, hello, partner.StaleKey)
	wantError(t, err, "playground", 500)
	if n := sim.Count(partnersim.EndpointPlayground); n != 7 {
		t.Errorf("%d playground calls, want 7", n)
	}
}

// Failed, and failed but happened, one and two at a time.
func TestSimulatedFaultsLeaveOneKeyAtThePartner(t *testing.T) {
	faults := map[string]partnersim.Fault{
		"closed before":    {Kind: partnersim.Close},
		"closed after":     {Kind: partnersim.Close, After: true},
		"error before":     {Kind: partnersim.Error, Status: 500},
		"error after":      {Kind: partnersim.Error, Status: 502, After: true},
		"limited":          {Kind: partnersim.RateLimit},
		"limited after":    {Kind: partnersim.RateLimit, After: true},
		"token lost":       {Kind: partnersim.ExpiredToken},
		"token lost twice": {Kind: partnersim.ExpiredToken, Times: 2},
		"cut":              {Kind: partnersim.Cut},
		"truncated":        {Kind: partnersim.Truncated},
		"empty":            {Kind: partnersim.Empty},
		"garbage":          {Kind: partnersim.Garbage},
		"slow":             {Kind: partnersim.Delay, Delay: time.Minute},
		"slow after":       {Kind: partnersim.Delay, Delay: time.Minute, After: true},
	}
	for _, status := range []int{http.StatusCreated, http.StatusConflict} {
		synctest.Test(t, func(t *testing.T) {
			// One simulator for all pairs: making its RSA key is what takes time.
			sim, w := simulate(t, partnersim.Options{DuplicateUpload: status}, func(c *partner.WiseConfig) {
				if status == http.StatusConflict {
					c.OnDuplicate = partner.DuplicateAccepted
				}
			})
			n := 0
			for name1, first := range faults {
				for name2, second := range faults {
					first.Endpoint, second.Endpoint = partnersim.EndpointUpload, partnersim.EndpointUpload
					if err := errors.Join(sim.Fail(first), sim.Fail(second)); err != nil {
						t.Fatal(err)
					}
					n++
					if err := announceThrough(t, sim, w, fmt.Sprintf("%08d-0000-4000-8000-000000000000", n)); err != nil {
						t.Errorf("%s, then %s, repetitions answered %d: %v", name1, name2, status, err)
					}
					sim.ClearFaults()
				}
			}
		})
	}
}

// announceThrough announces a key until it is taken, and says whether the
// partner then holds it once, with the right end.
func announceThrough(t *testing.T, sim *partnersim.Sim, w *partner.Wise, kid string) error {
	t.Helper()
	from, till := time.Now(), time.Now().Add(24*time.Hour)
	var err error
	for range 6 {
		if err = w.Announce(t.Context(), kid, &rsaKey().PublicKey, from, till); err == nil {
			break
		}
		e, ok := errors.AsType[*partner.Error](err)
		if !ok {
			return fmt.Errorf("%T: %w", err, err)
		}
		time.Sleep(max(e.RetryAfter(), time.Second))
	}
	if err != nil {
		return err
	}
	time.Sleep(5 * time.Minute) // what was slow has happened by now
	held := slices.DeleteFunc(sim.Uploads(), func(u partnersim.Upload) bool { return u.KeyID != kid })
	if len(held) != 1 || !held[0].ValidTill.Equal(till) || !held[0].Public.Equal(&rsaKey().PublicKey) {
		return fmt.Errorf("the partner holds %v", held)
	}
	return nil
}
