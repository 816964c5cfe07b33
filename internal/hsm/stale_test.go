package hsm_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

// held puts a content key into a token, and returns its name and an envelope
// under it.
func held(t *testing.T, token *hsm.Token, first byte) (ref string, env *boundary.Envelope) {
	t.Helper()
	cek := bytes.Repeat([]byte{first}, 32)
	env = gcmEnvelope(t, cek, nil)
	env.Alg = boundary.Direct
	ref, err := token.Hold(t.Context(), boundary.A256GCM, cek)
	must(t, err)
	got, err := token.OpenHeld(t.Context(), ref, env)
	if err != nil || string(got.Plaintext) != "from outside" || got.Level != boundary.Sealed {
		t.Fatalf("OpenHeld = %+v, %v, want it at sealed", got, err)
	}
	return ref, env
}

// What was held in a session goes with it: its object handle, which the module may
// give out again, is not used any more, and nothing is destroyed under it.
func TestContentKeysGoWithTheirSession(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		for what, lose := range map[string]func(t *testing.T, cfg hsm.Config, f *faulty, token *hsm.Token){
			"the token logs keyd out": func(t *testing.T, cfg hsm.Config, _ *faulty, token *hsm.Token) {
				outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.Logout(s)) })
				foundWell(t, token)
			},
			"their session is lost": func(t *testing.T, _ hsm.Config, f *faulty, token *hsm.Token) {
				f.fail("C_CreateObject first 1 0xb3") // CKR_SESSION_HANDLE_INVALID
				_, _ = held(t, token, 9)
				f.heal()
			},
		} {
			t.Run(name+", "+what, func(t *testing.T) {
				cfg := make(t)
				f := withFaults(t, &cfg)
				broken := brokenTo(&cfg)
				token := open(t, cfg)
				g := generate(t, token)
				ref, env := held(t, token, 7)
				lose(t, cfg, f, token)
				if got, err := token.OpenHeld(t.Context(), ref, env); !errors.Is(err, boundary.ErrNoKey) {
					t.Errorf("OpenHeld = %+v, %v, want boundary.ErrNoKey", got, err)
				}
				f.forget()
				must(t, token.Release(t.Context(), ref))
				if n := f.calls("C_DestroyObject"); n != 0 {
					t.Errorf("%d objects were destroyed for one that is gone", n)
				}
				another, env := held(t, token, 8)
				if _, err := token.OpenHeld(t.Context(), another, env); err != nil {
					t.Errorf("one that was held since: %v", err)
				}
				opens(t, token, g)
				isWell(t, broken)
			})
		}
	}
}

// It may be lost while somebody waits to release it.
func TestReleaseDestroysNothingInAnotherSession(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	ref, _ := held(t, token, 7)
	f.forget()
	f.fail("C_CreateObject hang")
	done := make(chan error, 2)
	go func() {
		_, err := token.Hold(t.Context(), boundary.A256GCM, make([]byte, 32))
		done <- err
	}()
	eventually(t, "another one to be in the module", func() bool { return f.calls("C_CreateObject") == 1 })
	go func() { done <- token.Release(t.Context(), ref) }()
	time.Sleep(100 * time.Millisecond)    // until that waits for the session
	f.fail("C_CreateObject first 1 0xb3") // CKR_SESSION_HANDLE_INVALID
	must(t, errors.Join(<-done, <-done))
	if n := f.calls("C_DestroyObject"); n != 0 {
		t.Errorf("%d objects were destroyed for one that is gone", n)
	}
}

// A login renumbers objects. One that comes in the middle of a destruction, or of
// whatever else works with object handles that it has found, must not make it work
// on other objects.
func TestObjectHandlesOfBeforeALoginAreNotUsedAfterIt(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	victim, kept := generate(t, token), generate(t, token)
	logOut := func() {
		outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.Logout(s)) })
	}
	inside := func(call, op string, do func() error) {
		t.Helper()
		f.forget()
		f.fail(call + " hang")
		done := make(chan error, 1)
		go func() { done <- do() }()
		eventually(t, op+" to be in the module", func() bool { return f.calls(call) > 0 })
		logOut()
		f.forget()
		in := make(chan struct{})
		go func() {
			defer close(in)
			token.Health(context.WithoutCancel(t.Context()))
		}()
		eventually(t, "the other one to see that", func() bool { return f.calls("C_GetSessionInfo") > 0 })
		if call == "C_DestroyObject" {
			time.Sleep(100 * time.Millisecond)
			if f.calls("C_GetTokenInfo") > 2 { // the third one is where a login begins
				t.Error("a login in the middle of a destruction")
			}
		}
		f.heal()
		if err := <-done; err != nil {
			t.Errorf("%s: %v", op, err)
		}
		<-in // which waits no longer than Health does
		eventually(t, "health to be well", func() bool { return token.Health(t.Context()).Err == "" })
	}
	inside("C_DestroyObject", "Destroy", func() error {
		gone, err := token.Destroy(t.Context(), victim.Handle)
		if !gone {
			t.Error("Destroy: it is not gone")
		}
		return err
	})
	inside("C_FindObjectsFinal", "Find", func() error {
		found, err := token.Find(t.Context(), kept.Handle)
		if err == nil && (found.Handle != kept.Handle || len(found.Evidence.Attributes) < 10) {
			t.Errorf("Find = %+v", found)
		}
		return err
	})
	all, err := token.List(t.Context())
	if err != nil || len(all) != 1 || all[0].Handle != kept.Handle {
		t.Errorf("List = %d keys, %v, want the other one", len(all), err)
	}
	opens(t, token, kept)
	isWell(t, broken)
}

// After every login it is found out anew what the token can do: what comes back
// may be another device.
func TestLevelIsFoundAnewAfterALogin(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	onP, pub := onCurve(t, token, "P-256")
	for _, c := range []struct {
		fault string
		want  boundary.Level
	}{{"C_DigestKey 0x54", boundary.Raw}, {"", boundary.Unwrap}} {
		f.fail(c.fault)
		outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) { must(t, ctx.Logout(s)) })
		eventually(t, fmt.Sprintf("%s: Health to say %s", c.fault, c.want), func() bool { return token.Health(t.Context()).Levels[boundary.ECDHES] == c.want })
		env := backendtest.Agree(t, pub, boundary.ECDHES, boundary.A256GCM, []byte("plaintext"), nil)
		env.Floor = c.want
		got, err := token.Open(t.Context(), onP.Handle, env)
		if err != nil || got.Level != c.want {
			t.Errorf("%s: Open = %+v, %v, want level %s", c.fault, got, err, c.want)
		}
		env.Floor = boundary.Unwrap
		if _, err := token.Open(t.Context(), onP.Handle, env); errors.Is(err, boundary.ErrBelowFloor) != (c.want == boundary.Raw) {
			t.Errorf("%s: with the floor unwrap: %v", c.fault, err)
		}
	}
}

// A module may give a number out again. One that stood for a session which went
// with all the others is not used for whose it is now: two operations in one
// session crash some modules, and get each other's answers in others.
func TestSessionNumbersOfBeforeTheLossOfAllAreNotUsedAfterIt(t *testing.T) {
	cfg := softHSM(t)
	f := withFaults(t, &cfg)
	f.fail("renumber")
	broken := brokenTo(&cfg)
	token := open(t, cfg)
	g := generate(t, token)
	ctx, slot, _ := initialised(t, cfg)
	_, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	settled := func() bool { return hsm.Settled(token) }
	eventually(t, "the session of the generation to be closed", settled)
	must(t, ctx.CloseAllSessions(slot))
	foundWell(t, token)
	eventually(t, "the session of the health check to be closed", settled)
	f.forget()
	f.fail("C_Decrypt hang")
	env := seal(t, g)
	done := make(chan error, cfg.Sessions)
	for n := range cfg.Sessions { // one after the other, in the order of the pool
		go func() {
			_, err := token.Open(t.Context(), g.Handle, env)
			done <- err
		}()
		eventually(t, "it to be in the module", func() bool { return f.calls("C_Decrypt") > n })
	}
	again := 0
	for number := range 256 {
		n := f.calls(fmt.Sprintf("C_Decrypt@%d", number))
		if n > 1 {
			t.Errorf("%d operations at once in session %d", n, number)
		}
		if n > 0 && number <= 1+cfg.Sessions { // the first of all is that of the login
			again++
		}
	}
	if again == 0 {
		t.Error("no number was given out again, so this says nothing")
	}
	if n := f.calls("C_CloseSession"); n != 0 {
		t.Errorf("%d sessions were closed under others", n)
	}
	f.heal()
	for range cfg.Sessions {
		if err := <-done; err != nil {
			t.Errorf("Open: %v", err)
		}
	}
	isWell(t, broken)
}

// Nor is an object handle that was found before a login, in a module which gives it
// to another key afterwards: what is said of the one would be the other's, and the
// cache would open with the other.
func TestObjectHandleOfBeforeALoginIsNotTakenForAnotherKey(t *testing.T) {
	for name, number := range map[string]string{"another key has it": "renumber", "nobody has it": "as it is"} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			f.fail(number)
			broken := brokenTo(&cfg)
			token := open(t, cfg)
			hsm.LimitLogins(token, time.Nanosecond)
			opening := makeOf(t, token, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048})
			signing := makeOf(t, token, boundary.Material{Algorithm: boundary.PS256, Bits: 2048})
			ctx, slot, _ := initialised(t, cfg)
			s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			must(t, err)
			check := func(what string, found boundary.Found, want boundary.Generated) {
				t.Helper()
				for _, use := range []string{"CKA_DECRYPT", "CKA_SIGN"} {
					if got, want := found.Evidence.Attributes[use], want.Evidence.Attributes[use]; got != want {
						t.Errorf("%s says that %s is %s, want %s", what, use, got, want)
					}
				}
			}
			// loggedOut has a logout and what login does take place while something is in
			// the module.
			loggedOut := func(call string, login func(), do func() error) {
				t.Helper()
				f.forget()
				f.fail(call)
				done := make(chan error, 1)
				go func() { done <- do() }()
				eventually(t, "it to be in the module", func() bool { return f.calls("C_FindObjectsFinal") == hangs(call) })
				must(t, ctx.Logout(s))
				login()
				f.heal()
				if err := <-done; err != nil {
					t.Errorf("%s: %v", call, err)
				}
				opens(t, token, opening)
			}
			for what, login := range map[string]func(){"logged in": func() { foundWell(t, token) }, "not yet": func() {}} {
				find := func() error {
					found, err := token.Find(t.Context(), opening.Handle)
					check("Find, "+what, found, opening)
					return err
				}
				loggedOut("C_FindObjectsFinal only 2 hang", login, find) // the private key was found
				loggedOut("C_FindObjectsFinal only 3 hang", login, find) // and read
				loggedOut("C_FindObjectsFinal only 2 hang", login, func() error {
					all, err := token.List(t.Context())
					if len(all) != 2 {
						t.Errorf("List, %s = %d keys, want 2", what, len(all))
					}
					for _, found := range all {
						check("List, "+what, found, map[string]boundary.Generated{opening.Handle: opening, signing.Handle: signing}[found.Handle])
					}
					return err
				})
			}
			isWell(t, broken)
		})
	}
}

// What a turn of management has found before a login is not remembered: until it
// has looked again, envelopes would be opened with another key, or none.
func TestWhatWasFoundBeforeALoginIsNotRemembered(t *testing.T) {
	for name, look := range map[string]func(*hsm.Token, boundary.Generated) error{
		"Find": func(token *hsm.Token, g boundary.Generated) error {
			_, err := token.Find(t.Context(), g.Handle)
			return err
		},
		"List": func(token *hsm.Token, _ boundary.Generated) error {
			_, err := token.List(t.Context())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := softHSM(t)
			f := withFaults(t, &cfg)
			f.fail("renumber")
			token := open(t, cfg)
			opening := makeOf(t, token, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048})
			makeOf(t, token, boundary.Material{Algorithm: boundary.PS256, Bits: 2048})
			ctx, slot, _ := initialised(t, cfg)
			s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			must(t, err)
			f.forget()
			f.fail("C_FindObjectsFinal only 2 hang")
			done := make(chan error, 1)
			go func() { done <- look(token, opening) }()
			eventually(t, "it to have found the key", func() bool { return f.calls("C_FindObjectsFinal") == 2 })
			must(t, ctx.Logout(s))
			foundWell(t, token)
			f.forget()
			f.fail("C_FindObjectsInit only 1 hang")
			eventually(t, "it to look again", func() bool { return f.calls("C_FindObjectsInit") > 0 })
			opens(t, token, opening)
			f.heal()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// hangs is the call that a fault of the kind "only 2 hang" holds up.
func hangs(fault string) (n int) {
	_, _ = fmt.Sscanf(fault, "C_FindObjectsFinal only %d", &n)
	return n
}
