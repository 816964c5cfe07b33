package hsm_test

import (
	"context"
	"errors"
	"testing"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
	"keyd/internal/rotation/backendtest"
)

// secrets counts the secret keys that a process has in its sessions.
func secrets(t *testing.T, cfg hsm.Config) int {
	t.Helper()
	n := 0
	outside(t, cfg, func(ctx *pkcs11.Ctx, s pkcs11.SessionHandle) {
		must(t, ctx.FindObjectsInit(s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY)}))
		found, _, err := ctx.FindObjects(s, 1000)
		must(t, errors.Join(err, ctx.FindObjectsFinal(s)))
		n = len(found)
	})
	return n
}

func TestNoSecretStaysInTheToken(t *testing.T) {
	for name, make := range map[string]func(testing.TB) hsm.Config{"SoftHSM": softHSM, "NSS": nss} {
		t.Run(name, func(t *testing.T) {
			cfg := make(t)
			f := withFaults(t, &cfg)
			token := open(t, cfg)
			before := secrets(t, cfg)
			g := generate(t, token)
			onP, pub := onCurve(t, token, "P-256")
			settled := func(what string) {
				t.Helper()
				eventually(t, "the sessions to be given back", func() bool { return token.Health(t.Context()).InUse == 0 })
				if got := secrets(t, cfg); got != before {
					t.Errorf("%s: %d secret keys, want the %d of before", what, got, before)
				}
			}
			for _, fault := range []string{"", "C_Decrypt 0x30", "C_DecryptInit 0x30", "C_UnwrapKey after 0x30", "C_DigestKey 0x30", "C_DeriveKey 0x30", "C_DestroyObject 0x30"} {
				f.fail(fault)
				for _, env := range []*boundary.Envelope{seal(t, g), seal(t, g)} {
					env.Tag[0] ^= 1
					_, _ = token.Open(t.Context(), g.Handle, env)
					_, _ = token.Open(t.Context(), g.Handle, seal(t, g))
				}
				for _, alg := range []string{boundary.ECDHES, boundary.ECDHESA128KW} {
					_, _ = token.Open(t.Context(), onP.Handle, backendtest.Agree(t, pub, alg, boundary.A256GCM, []byte("x"), nil))
					bad := backendtest.Agree(t, pub, alg, boundary.A256GCM, []byte("x"), nil)
					bad.Tag[0] ^= 1
					_, _ = token.Open(t.Context(), onP.Handle, bad)
				}
				f.heal()
				settled(fault)
			}
		})
	}
}

// Nor of one whose caller went in the middle.
func TestNoSecretStaysOfACallThatNobodyWaitsFor(t *testing.T) {
	cfg := nss(t)
	f := withFaults(t, &cfg)
	token := open(t, cfg)
	before := secrets(t, cfg)
	g := generate(t, token)
	onP, pub := onCurve(t, token, "P-256")
	rsa := seal(t, g)
	agreed := backendtest.Agree(t, pub, boundary.ECDHESA128KW, boundary.A256GCM, []byte("x"), nil)
	for name, c := range map[string]struct {
		in string
		do func(context.Context) error
	}{
		"RSA":    {"C_Decrypt", func(ctx context.Context) error { _, err := token.Open(ctx, g.Handle, rsa); return err }},
		"ECDH":   {"C_Decrypt", func(ctx context.Context) error { _, err := token.Open(ctx, onP.Handle, agreed); return err }},
		"unwrap": {"C_UnwrapKey", func(ctx context.Context) error { _, err := token.Open(ctx, g.Handle, rsa); return err }},
		"holding": {"C_CreateObject", func(ctx context.Context) error {
			_, err := token.Hold(ctx, boundary.A256GCM, make([]byte, 32))
			return err
		}},
	} {
		f.forget()
		f.fail(c.in + " hang")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.do(ctx) }()
		eventually(t, name+" to be in the module", func() bool { return f.calls(c.in) == 1 })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v, want context.Canceled", name, err)
		}
		f.heal()
		eventually(t, name+" to leave nothing", func() bool { return token.Health(t.Context()).InUse == 0 && secrets(t, cfg) == before })
	}
}

// A content key that is shorter or longer than its enc says opens nothing, at any
// level: tokens take it, cut it or fill it up.
func TestContentKeyOfAnotherLengthOpensNothing(t *testing.T) {
	for name, c := range map[string]struct {
		make        func(testing.TB) hsm.Config
		fault       string
		rsa, agreed boundary.Level
	}{
		"sealed": {nss, "", boundary.Sealed, boundary.Sealed},
		"unwrap": {nss, "mechanism 0x1087", boundary.Unwrap, boundary.Unwrap}, // without GCM
		"raw":    {softHSM, "C_DigestKey 0x54", boundary.Raw, boundary.Raw},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := c.make(t)
			withFaults(t, &cfg).fail(c.fault)
			token := open(t, cfg)
			g := generate(t, token)
			onP, pub := onCurve(t, token, "P-256")
			is := func(what string, enc, said string, handle string, env *boundary.Envelope, level boundary.Level) {
				t.Helper()
				env.Enc = said
				got, err := token.Open(t.Context(), handle, env)
				switch {
				case said == enc && (err != nil || got.Level != level):
					t.Errorf("%s, %s: Open = %+v, %v, want it at %s", what, enc, got, err, level)
				case said != enc && err != boundary.ErrOpen: //nolint:errorlint // the bare error: a wrapped one could be told apart
					t.Errorf("%s, %s that says to be %s: Open = %+v, %v, want boundary.ErrOpen", what, enc, said, got, err)
				}
			}
			encs := []string{boundary.A128GCM, boundary.A192GCM, boundary.A256GCM}
			for _, enc := range encs {
				for _, said := range encs {
					is("RSA", enc, said, g.Handle, backendtest.Seal(t, rsaOf(t, g), enc, []byte("x"), nil), c.rsa)
					for _, alg := range []string{boundary.ECDHESA128KW, boundary.ECDHESA256KW} {
						is(alg, enc, said, onP.Handle, backendtest.Agree(t, pub, alg, enc, []byte("x"), nil), c.agreed)
					}
				}
			}
		})
	}
}
