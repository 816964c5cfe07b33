package hsm

import (
	"context"
	"crypto"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"

	"keyd/internal/boundary"
)

// publicExponent is 65537 (FIPS 186-5 §5.1 wants it odd and above 2^16).
var publicExponent = []byte{1, 0, 1}

// template describes a key pair to C_GenerateKeyPair. Every usage flag is
// given: SoftHSM sets the ones it is not told to true.
type template struct {
	bits   int
	token  bool // a token object, which lasts; else one of the session
	name   name
	noSign bool // leave CKA_SIGN and CKA_SIGN_RECOVER out
}

func (k template) public() []*pkcs11.Attribute {
	return []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, k.token),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, false),
		pkcs11.NewAttribute(pkcs11.CKA_ID, k.name.id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.name.label),
		pkcs11.NewAttribute(pkcs11.CKA_MODULUS_BITS, k.bits),
		pkcs11.NewAttribute(pkcs11.CKA_PUBLIC_EXPONENT, publicExponent),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, false),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY_RECOVER, false),
		pkcs11.NewAttribute(pkcs11.CKA_WRAP, false),
	}
}

func (k template) private() []*pkcs11.Attribute {
	attributes := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, k.token),
		pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),      // not without the PIN
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true),    // never shown in plain text
		pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), // never wrapped to be taken out
		pkcs11.NewAttribute(pkcs11.CKA_ID, k.name.id),
		pkcs11.NewAttribute(pkcs11.CKA_LABEL, k.name.label),
		pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_UNWRAP, false),
	}
	if k.noSign {
		return attributes
	}
	return append(attributes,
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, false),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN_RECOVER, false))
}

// generatePair calls C_GenerateKeyPair. tpm2-pkcs11 refuses a template in which
// CKA_SIGN is false; such a token is asked again without it.
func (t *Token) generatePair(s pkcs11.SessionHandle, k template) (public, private pkcs11.ObjectHandle, err error) {
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil)}
	public, private, err = t.module.ctx.GenerateKeyPair(s, mechanism, k.public(), k.private())
	if is(err, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT) {
		k.noSign = true
		public, private, err = t.module.ctx.GenerateKeyPair(s, mechanism, k.public(), k.private())
	}
	if err != nil {
		return 0, 0, meaning("C_GenerateKeyPair", err)
	}
	return public, private, nil
}

// Generate makes an RSA key pair that cannot be taken out. What stands under
// the same name is destroyed first: it was never announced, and may be half
// made. A pair whose attributes are not as asked is destroyed again.
func (t *Token) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	if err := spec.Check(); err != nil {
		return boundary.Generated{}, fmt.Errorf("generating %w", err)
	}
	if spec.Algorithm != boundary.RSAOAEP256 {
		return boundary.Generated{}, fmt.Errorf("generating a key for %s: %w", spec.Algorithm, boundary.ErrUnsupported)
	}
	n, err := t.named(spec)
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("generating a key: %w", err)
	}
	g, err := managed(ctx, t, "generate", func(ctx context.Context, u *use) (boundary.Generated, error) {
		return t.generate(ctx, u.session, n, spec.Bits)
	})
	if err != nil {
		return boundary.Generated{}, fmt.Errorf("generating key %s: %w", n.label, err)
	}
	return g, nil
}

func (t *Token) generate(ctx context.Context, s pkcs11.SessionHandle, n name, bits int) (_ boundary.Generated, err error) {
	if err := t.destroyNamed(s, n); err != nil {
		return boundary.Generated{}, fmt.Errorf("clearing the way: %w", err)
	}
	defer func() {
		if err == nil {
			// Whoever asked is gone: nobody would know of the key.
			err = ctx.Err()
		}
		if err != nil {
			err = errors.Join(err, t.destroyNamed(s, n))
		}
	}()
	_, private, err := t.generatePair(s, template{bits: bits, token: true, name: n})
	if err != nil {
		return boundary.Generated{}, err
	}
	o, err := t.read(s, private)
	if err != nil {
		return boundary.Generated{}, err
	}
	e, err := t.evidence(s, o)
	if err != nil {
		return boundary.Generated{}, err
	}
	if err := t.asAsked(s, o, e, n, bits); err != nil {
		return boundary.Generated{}, fmt.Errorf("the token made something else than it was asked for: %w", err)
	}
	t.keys.put(n.handle(), []object{o})
	return boundary.Generated{Handle: n.handle(), Public: o.public, Evidence: e}, nil
}

// asAsked holds a new key pair against what was asked for.
func (t *Token) asAsked(s pkcs11.SessionHandle, o object, e boundary.Evidence, n name, bits int) error {
	var errs []error
	if o.name != n {
		errs = append(errs, fmt.Errorf("it is named %q, not %q", o.name.handle(), n.handle()))
	}
	for attribute, want := range map[string]string{"CKA_SENSITIVE": "true", "CKA_EXTRACTABLE": "false", "CKA_TOKEN": "true"} {
		if got := e.Attributes[attribute]; got != want {
			errs = append(errs, fmt.Errorf("%s is %q, not %s", attribute, got, want))
		}
	}
	switch {
	case o.public == nil:
		errs = append(errs, errors.New("the private key has no whole public half"))
	case o.public.N.BitLen() != bits || o.public.E != 65537:
		errs = append(errs, fmt.Errorf("the modulus has %d bits and the public exponent is %d", o.public.N.BitLen(), o.public.E))
	default:
		publics, err := t.findNamed(s, pkcs11.CKO_PUBLIC_KEY, n)
		errs = append(errs, err, halvesMatch(o, publics))
	}
	return errors.Join(errs...)
}

// halvesMatch holds public key objects against the private key of their name.
func halvesMatch(private object, publics []object) error {
	for _, p := range publics {
		if p.public == nil || !p.public.Equal(private.public) {
			return errors.New("the public key object of the same name does not belong to the private key")
		}
	}
	return nil
}

// Public reads a private key's public half from the private key in the token.
func (t *Token) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	n, err := parseHandle(handle)
	if err != nil {
		return nil, err
	}
	pub, err := managed(ctx, t, "public", func(_ context.Context, u *use) (crypto.PublicKey, error) {
		// The object handle, if it is known, saves a search.
		if k, err := t.keys.get(handle); err == nil {
			if o, err := t.read(u.session, k.object); err == nil && o.name == n && k.public.Equal(o.public) {
				return o.public, nil
			}
		}
		o, err := t.one(u.session, n)
		if err != nil {
			return nil, err
		}
		return o.public, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the public key of %s: %w", handle, err)
	}
	return pub, nil
}
