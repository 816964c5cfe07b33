package hsm_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

// refusing is a token that opens the envelopes of one alg at one level. Why it
// refuses one must not show (RFC 7516 §11.5): whoever can tell a bad padding from
// a bad tag, by time or by what the device is busy with, decrypts with the key.
type refusing struct {
	make   func(testing.TB) hsm.Config
	faults []string
	alg    string
	gcm    boundary.Level // at which it opens contents under GCM
}

var refusals = map[string]refusing{
	"RSA at sealed":      {nss, nil, boundary.RSAOAEP256, boundary.Sealed},
	"RSA at unwrap":      {nss, []string{"mechanism 0x1087"}, boundary.RSAOAEP256, boundary.Unwrap}, // no GCM
	"RSA at raw":         {softHSM, nil, boundary.RSAOAEP256, boundary.Raw},
	"key wrap at sealed": {nss, nil, boundary.ECDHESA256KW, boundary.Sealed},
	"key wrap at unwrap": {softHSM, nil, boundary.ECDHESA128KW, boundary.Unwrap},
	"key wrap at raw":    {softHSM, []string{"C_DigestKey 0x54"}, boundary.ECDHESA256KW, boundary.Raw},
}

// refuser is such a token with a key. The good envelope is one of them all.
type refuser struct {
	refusing
	*faulty
	token  *hsm.Token
	handle string
	rsa    *rsa.PublicKey // where that is the alg
	good   func(enc string, plaintext []byte) *boundary.Envelope
}

func (r refusing) start(t *testing.T) *refuser {
	t.Helper()
	cfg := r.make(t)
	cfg.Sessions, cfg.CallTimeout = 8, 10*time.Minute
	d := &refuser{refusing: r, faulty: withFaults(t, &cfg)}
	d.fail(r.faults...)
	d.token = open(t, cfg)
	if r.alg != boundary.RSAOAEP256 {
		g, pub := onCurve(t, d.token, "P-256")
		d.handle = g.Handle
		d.good = func(enc string, plaintext []byte) *boundary.Envelope {
			return backendtest.Agree(t, pub, r.alg, enc, plaintext, []byte("header"))
		}
		return d
	}
	g := generate(t, d.token)
	d.handle, d.rsa = g.Handle, rsaOf(t, g)
	d.good = func(enc string, plaintext []byte) *boundary.Envelope {
		return backendtest.Seal(t, d.rsa, enc, plaintext, []byte("header"))
	}
	return d
}

// bad are envelopes that differ from a good one in one thing each. "tag" is the
// one that all the others are to look like.
func (d *refuser) bad(t *testing.T, good *boundary.Envelope) map[string]*boundary.Envelope {
	t.Helper()
	all := map[string]*boundary.Envelope{}
	edit := func(name string, edit func(env *boundary.Envelope)) {
		env := *good
		env.Tag, env.EncryptedKey = slices.Clone(good.Tag), slices.Clone(good.EncryptedKey)
		edit(&env)
		all[name] = &env
	}
	edit("tag", func(env *boundary.Envelope) { env.Tag[0] ^= 1 })
	edit("encrypted key", func(env *boundary.Envelope) { env.EncryptedKey[7] ^= 1 })
	if d.rsa != nil {
		edit("length of the content key", func(env *boundary.Envelope) {
			short, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, d.rsa, make([]byte, 16), nil)
			must(t, err)
			env.EncryptedKey = short
		})
	}
	return all
}

func TestRefusalsShowNobodyWhatWasBad(t *testing.T) {
	for name, r := range refusals {
		t.Run(name, func(t *testing.T) {
			d := r.start(t)
			t.Run("what the token is asked", d.asksTheSame)
			t.Run("how long the content takes", d.takesAsLong)
		})
	}
}

// asksTheSame: a device that is asked for less after a bad padding answers
// sooner, whatever the host does.
func (d *refuser) asksTheSame(t *testing.T) {
	eventually(t, "the session that the key was made in to be closed", func() bool { return !hsm.Managing(d.token) })
	good := d.good(boundary.A256GCM, []byte("plaintext"))
	// What is left in the token is destroyed after the answer, for there is more of
	// it where the encrypted key was good.
	d.fail(append(slices.Clone(d.faults), "C_DestroyObject hang")...)
	defer d.fail(d.faults...)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	ask := func(env *boundary.Envelope) (got *boundary.Opened, calls []string, err error) {
		d.forget()
		got, err = d.token.Open(ctx, d.handle, env)
		return got, slices.DeleteFunc(d.Made(), func(call string) bool { return call == "C_DestroyObject" }), err
	}
	got, want, err := ask(good)
	if err != nil || got.Level != d.gcm || len(want) == 0 {
		t.Fatalf("Open = %+v, %v, want level %s; calls %v", got, err, d.gcm, want)
	}
	for name, env := range d.bad(t, good) {
		if got, calls, err := ask(env); !errors.Is(err, boundary.ErrOpen) || !slices.Equal(calls, want) {
			t.Errorf("a bad %s: Open = %v, %v, calls %v, want those of a good envelope, %v", name, got, err, calls, want)
		}
	}
}

// takesAsLong: a content of many megabytes takes longer than all the rest, so who
// leaves it alone after a bad padding needs a fraction of the time. Finer
// differences are for the timing tests of the boundary package.
func (d *refuser) takesAsLong(t *testing.T) {
	for _, enc := range []string{boundary.A256GCM, boundary.A128CBCHS256} {
		all := d.bad(t, d.good(enc, make([]byte, 32<<20)))
		if enc == boundary.A128CBCHS256 { // on the host always, so that one that never reaches the token compares
			cut := *all["encrypted key"]
			cut.EncryptedKey = cut.EncryptedKey[1:]
			all["length of the encrypted key"] = &cut
		}
		least := map[string]time.Duration{}
		short := func() (names []string) {
			for name, took := range least {
				if took < least["tag"]/3 {
					names = append(names, name)
				}
			}
			return names
		}
		for round := range 10 { // noise goes away, and work that is left out does not come back
			for name, env := range all {
				took := d.refusal(t, env)
				if round == 0 || took < least[name] {
					least[name] = took
				}
			}
			if round >= 2 && len(short()) == 0 {
				break
			}
		}
		t.Logf("%s: %v", enc, least)
		for _, name := range short() {
			t.Errorf("%s: a bad %s is refused after %s, and a bad tag after %s", enc, name, least[name], least["tag"])
		}
	}
}

// refusal is the processor's time that the refusal of an envelope takes, in
// which the load of the machine does not show.
func (d *refuser) refusal(t *testing.T, env *boundary.Envelope) time.Duration {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	start := threadTime(t)
	_, err := d.token.Open(hsm.Unhurried(t.Context()), d.handle, env) // in this goroutine
	took := threadTime(t) - start
	if !errors.Is(err, boundary.ErrOpen) {
		t.Fatalf("Open: %v, want boundary.ErrOpen", err)
	}
	return took
}

func threadTime(t *testing.T) time.Duration {
	t.Helper()
	var now unix.Timespec
	must(t, unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &now))
	return time.Duration(now.Nano())
}
