package conformance

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// keydChecks have keyd's own path run on the module.
var keydChecks = []check{
	{"levels", func(l *lab) Check { return l.withKeyd(levels) }},
	{"envelopes, good and bad", func(l *lab) Check { return l.withKeyd(envelopes) }},
	{"signatures", func(l *lab) Check { return l.withKeyd(signatures) }},
	{"decrypts while a key is made", func(l *lab) Check { return l.withKeyd(stall) }},
	{"memory after good envelopes", func(l *lab) Check {
		return l.withKeyd(func(l *lab, t *hsm.Token) Check { return leaks(l, t, false) })
	}},
	{"memory after bad envelopes", func(l *lab) Check {
		return l.withKeyd(func(l *lab, t *hsm.Token) Check { return leaks(l, t, true) })
	}},
}

// instance is in the labels of what keyd's path makes for us, which begin with
// keydLabels. No daemon should be called so.
const (
	instance   = "keyd-conformance"
	keydLabels = "keyd/" + instance + "/"
)

// withKeyd opens the token as the daemon does.
func (l *lab) withKeyd(f func(l *lab, t *hsm.Token) Check) Check {
	token, err := hsm.Open(l.ctx, hsm.Config{
		Name: "conformance", Instance: instance, Module: l.order.Module, TokenLabel: l.order.Token, TokenSerial: l.order.Serial,
		PIN:          func() ([]byte, error) { return slices.Clone(l.order.PIN), nil },
		PINGuardPath: filepath.Join(l.order.Dir, "pin-refused"), Sessions: 4, SessionWait: 10 * time.Second, CallTimeout: time.Minute,
		Reserved: l.order.Reserved, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fail("keyd does not open the token: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	defer func() { _ = token.Close() }() // the process ends with it
	return f(l, token)
}

func levels(l *lab, t *hsm.Token) Check {
	l.levels = map[string]string{}
	var said []string
	h := t.Health(l.ctx)
	for _, algorithm := range slices.Sorted(maps.Keys(h.Levels)) {
		l.levels[algorithm] = string(h.Levels[algorithm])
		said = append(said, algorithm+" "+l.levels[algorithm])
	}
	return pass("%s", strings.Join(said, ", "))
}

// made is a key of keyd's, for as long as f runs.
func made(l *lab, t *hsm.Token, m boundary.Material, f func(g boundary.Generated) Check) (c Check) {
	spec := boundary.Spec{Key: "probe", KID: uuid.NewString(), Material: m}
	g, err := t.Generate(l.ctx, spec)
	if errors.Is(err, boundary.ErrUnsupported) {
		return skip("no such key")
	}
	if err != nil {
		return fail("%v", err)
	}
	defer func() {
		// tpm2-pkcs11 takes a key that has refused something to be in use.
		if err := t.Discard(context.WithoutCancel(l.ctx), spec); err != nil && c.Verdict == Pass {
			c = quirk("%s", strings.TrimPrefix(c.Seen+"; its key cannot be destroyed until the module is loaded anew", "; "))
		}
	}()
	return f(g)
}

// envelopes opens what is good and is to refuse what is not, for every alg.
func envelopes(l *lab, t *hsm.Token) Check {
	var opened, quirks []string
	for algorithm := range t.Health(l.ctx).Levels {
		m := boundary.Material{Algorithm: algorithm}.Usual()
		if algorithm == boundary.PS256 {
			continue
		}
		c := made(l, t, m, func(g boundary.Generated) Check {
			for _, alg := range map[string][]string{boundary.RSAOAEP256: {boundary.RSAOAEP256}, boundary.ECDHES: {boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}}[algorithm] {
				level, err := opensAndRefuses(l, t, g, alg)
				if err != nil {
					return fail("%s: %v", alg, err)
				}
				opened = append(opened, alg+" "+string(level))
			}
			return pass("")
		})
		switch {
		case c.Verdict.Bad():
			return c
		case c.Verdict == Quirk:
			quirks = append(quirks, c.Seen)
		}
	}
	slices.Sort(opened)
	switch {
	case len(opened) == 0:
		return skip("it opens none")
	case len(quirks) > 0:
		return quirk("%s; %s", strings.Join(opened, ", "), quirks[0])
	}
	return pass("%s", strings.Join(opened, ", "))
}

func opensAndRefuses(l *lab, t *hsm.Token, g boundary.Generated, alg string) (boundary.Level, error) {
	good, err := boundary.Seal(g.Public, alg, boundary.A256GCM, []byte("plaintext"), []byte("header"))
	if err != nil {
		return "", err
	}
	opened, err := t.Open(l.ctx, g.Handle, good)
	if err != nil {
		return "", err
	}
	if string(opened.Plaintext) != "plaintext" {
		return "", errWrong
	}
	for what, part := range map[string]func(*boundary.Envelope) *[]byte{
		"encrypted key": func(e *boundary.Envelope) *[]byte { return &e.EncryptedKey }, "iv": func(e *boundary.Envelope) *[]byte { return &e.IV },
		"ciphertext": func(e *boundary.Envelope) *[]byte { return &e.Ciphertext }, "tag": func(e *boundary.Envelope) *[]byte { return &e.Tag },
		"header": func(e *boundary.Envelope) *[]byte { return &e.AAD },
	} {
		bad := *good
		field := part(&bad)
		if len(*field) == 0 {
			continue
		}
		*field = slices.Clone(*field)
		(*field)[len(*field)/2] ^= 1
		if _, err := t.Open(l.ctx, g.Handle, &bad); !errors.Is(err, boundary.ErrOpen) {
			return "", fmt.Errorf("another %s: %w", what, errors.Join(errNotRefused, err))
		}
	}
	return opened.Level, nil
}

// signatures makes one with a key that does nothing else.
func signatures(l *lab, t *hsm.Token) Check {
	level, can := t.Health(l.ctx).Levels[boundary.PS256]
	if !can {
		return skip("it does not sign")
	}
	return made(l, t, boundary.Material{Algorithm: boundary.PS256}.Usual(), func(g boundary.Generated) Check {
		digest := sha256.Sum256([]byte("message"))
		signature, err := t.Sign(l.ctx, g.Handle, digest[:])
		if err != nil {
			return fail("%v", err)
		}
		public, isRSA := g.Public.(*rsa.PublicKey)
		if !isRSA || rsa.VerifyPSS(public, crypto.SHA256, digest[:], signature, &rsa.PSSOptions{SaltLength: sha256.Size}) != nil {
			return fail("%v", errWrong)
		}
		return pass("%s %s", boundary.PS256, level)
	})
}

var errNotRefused = errors.New("it is not refused as every other")

// best is the kind of key that the token opens with.
func best(t *hsm.Token) boundary.Material {
	if _, can := t.Health(context.Background()).Levels[boundary.RSAOAEP256]; can {
		return boundary.Material{Algorithm: boundary.RSAOAEP256}.Usual()
	}
	return boundary.Material{Algorithm: boundary.ECDHES}.Usual()
}

func sealed(g boundary.Generated) (*boundary.Envelope, error) {
	switch key := g.Public.(type) {
	case *rsa.PublicKey:
		return boundary.Seal(key, boundary.RSAOAEP256, boundary.A256GCM, []byte("plaintext"), []byte("header"))
	case *ecdh.PublicKey:
		return boundary.Seal(key, boundary.ECDHES, boundary.A256GCM, []byte("plaintext"), []byte("header"))
	}
	return nil, errWrong
}
