package baretoken

import (
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// Name is what a key pair is called.
type Name struct{ ID, Label string }

// Login does what nobody who uses a token gets around: loads the module,
// initialises it, finds the token and logs in.
func Login(module, label, pin string) error {
	_, _, err := login(module, label, pin)
	return err
}

func login(module, label, pin string) (*pkcs11.Ctx, pkcs11.SessionHandle, error) {
	ctx := pkcs11.New(module)
	if ctx == nil {
		return nil, 0, fmt.Errorf("loading %s", module)
	}
	if err := ctx.Initialize(); err != nil {
		return nil, 0, fmt.Errorf("initialising %s: %w", module, err)
	}
	slot, err := slotOf(ctx, label)
	if err != nil {
		return nil, 0, err
	}
	s, err := ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		err = ctx.Login(s, pkcs11.CKU_USER, pin)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("logging in to %s: %w", label, err)
	}
	return ctx, s, nil
}

// Fill makes key pairs on P-256 for agreements, as keyd makes them but for its
// search for what stands there already, and returns their points (SEC 1
// §2.3.3). It tells how many there are from time to time.
func Fill(module, label, pin string, names []Name, tell func(made int)) (points [][]byte, err error) {
	ctx, s, err := login(module, label, pin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ctx.Finalize()) }()
	for i, n := range names {
		point, err := agreeing(ctx, s, n)
		if err != nil {
			return nil, fmt.Errorf("making key pair %d: %w", i, err)
		}
		points = append(points, point)
		if i%500 == 499 {
			tell(i + 1)
		}
	}
	return points, nil
}

func agreeing(ctx *pkcs11.Ctx, s pkcs11.SessionHandle, n Name) ([]byte, error) {
	is := pkcs11.NewAttribute
	public, _, err := ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{is(pkcs11.CKA_TOKEN, true), is(pkcs11.CKA_ID, n.ID), is(pkcs11.CKA_LABEL, n.Label),
			is(pkcs11.CKA_EC_PARAMS, []byte{6, 8, 0x2A, 0x86, 0x48, 0xCE, 0x3D, 3, 1, 7})},
		[]*pkcs11.Attribute{is(pkcs11.CKA_TOKEN, true), is(pkcs11.CKA_ID, n.ID), is(pkcs11.CKA_LABEL, n.Label), is(pkcs11.CKA_PRIVATE, true),
			is(pkcs11.CKA_SENSITIVE, true), is(pkcs11.CKA_EXTRACTABLE, false), is(pkcs11.CKA_DERIVE, true),
			is(pkcs11.CKA_SIGN, false), is(pkcs11.CKA_DECRYPT, false), is(pkcs11.CKA_UNWRAP, false)})
	if err != nil {
		return nil, err
	}
	read, err := ctx.GetAttributeValue(s, public, []*pkcs11.Attribute{is(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, err
	}
	var point []byte
	_, err = asn1.Unmarshal(read[0].Value, &point)
	return point, err
}
