package main

import (
	"context"
	"crypto"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"keyd/internal/api"
	"keyd/internal/audit"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// silent is a partner that needs no telling and asks for nothing special.
type silent struct{ api.Remote }

func (silent) Announce(context.Context, string, crypto.PublicKey, time.Time, time.Time) error {
	return nil
}

// TestKeysInKMSOpenWhatIsSealedToThem takes a key of each kind that opens from
// the engine to the opener, with KMS at the wire between, and holds the level
// that is told to the one that it is.
func TestKeysInKMSOpenWhatIsSealedToThem(t *testing.T) {
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDTEST", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		t.Setenv(name, value)
	}
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	backend, err := kms.Open(t.Context(), kms.Config{Name: "cloud", Instance: "test", Region: "eu-central-1", Logger: log,
		HTTPClient: &http.Client{Transport: kmstest.New(kmstest.Options{Region: "eu-central-1"}).Transport()}})
	fatal(t, err)
	reg, err := registry.Open(filepath.Join(dir, "keyd.db"), registry.Options{})
	fatal(t, err)
	defer reg.Close()
	trail, err := audit.Open(audit.Config{Path: filepath.Join(dir, auditFile), Logger: log})
	fatal(t, err)
	defer trail.Close()
	engine, err := rotation.New(rotation.Config{Registry: reg, Audit: trail, Instance: "test", Logger: log,
		Backends: map[string]rotation.Backend{"cloud": backend}, Partners: map[string]rotation.Partner{"rsa": {Announcer: silent{}}, "ecdh": {Announcer: silent{}}}})
	fatal(t, err)
	opener, err := api.NewOpener(api.OpenerConfig{Registry: reg, Backends: map[string]api.Backend{"cloud": backend}, Audit: trail,
		Decrypts: api.AuditAll, MaxEnvelope: 1 << 16, Exchanges: api.ExchangeLimits{TTL: time.Minute, PerPartner: 1, PerUser: 1}, Meters: api.NewMetrics(), Logger: log,
		Partners: []api.Partner{
			{Name: "rsa", Form: api.FormBody, Seal: jwe.SealRSAOAEP256, SealEnc: boundary.A256GCM, KID: api.KIDNone, Algs: []string{boundary.RSAOAEP256}, Encs: []string{boundary.A256GCM}, Remote: silent{}},
			{Name: "ecdh", Form: api.FormBody, Seal: jwe.SealECDHES, SealEnc: boundary.A256GCM, KID: api.KIDNone, Algs: []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW},
				Encs: []string{boundary.A256GCM, boundary.A128CBCHS256}, Remote: silent{}}}})
	fatal(t, err)
	for _, c := range []struct {
		partner  string
		material boundary.Material
		algs     []string
		level    boundary.Level
	}{
		{"rsa", boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}, []string{boundary.RSAOAEP256}, boundary.Unwrap},
		{"ecdh", boundary.Material{Algorithm: boundary.ECDHES, Curve: "P-256"}, []string{boundary.ECDHES, boundary.ECDHESA128KW, boundary.ECDHESA256KW}, boundary.Raw},
	} {
		_, err := engine.Create(t.Context(), audit.System, registry.Key{Name: c.partner, Partner: c.partner, Backend: "cloud", Algorithm: c.material.Algorithm,
			Bits: c.material.Bits, Curve: c.material.Curve, Policy: registry.Policy{Rotate: "0 3 1 * *", ValidFor: 90 * day, DrainFor: 14 * day, Canary: rotation.CanaryOff}}, false)
		fatal(t, err)
		engine.Reconcile(t.Context())
		v := reg.Versions(c.partner)[0]
		if v.State != registry.Active {
			t.Fatalf("%s: %+v", c.partner, v)
		}
		public, err := boundary.ParsePublic(v.Public)
		fatal(t, err)
		for _, alg := range c.algs {
			header := jwe.SealHeader{Alg: jwe.SealAlg(alg), Enc: boundary.A256GCM, KID: v.KID}
			if c.level == boundary.Raw {
				header.APU, header.APV = []byte("them"), []byte("us")
			}
			sealed, err := jwe.Seal(public, header, []byte("statement"))
			fatal(t, err)
			opened, err := opener.Open(t.Context(), audit.System, c.partner, []byte(sealed))
			if err != nil || string(opened.Plaintext) != "statement" || opened.Level != c.level {
				t.Errorf("%s: Open = %+v, %v, want it opened at %s", alg, opened, err, c.level)
			}
		}
	}
	for _, f := range engine.Check(t.Context()) {
		t.Errorf("doctor: %+v", f)
	}
}

func fatal(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
