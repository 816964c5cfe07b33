package api_test

import (
	"crypto/x509"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// keysOf are the kids and uses in a partner's set, read by go-jose.
func (r *rig) keysOf(partner, listener string) map[string]jose.JSONWebKey {
	r.t.Helper()
	a := r.send(r.where(listener), "GET", "/v1/partners/"+partner+"/jwks", "").wants(r.t, 200, "")
	if a.header.Get("Content-Type") != "application/jwk-set+json" {
		r.t.Errorf("got the type %s", a.header.Get("Content-Type"))
	}
	var set jose.JSONWebKeySet
	check(r.t, json.Unmarshal(a.body, &set))
	keys := map[string]jose.JSONWebKey{}
	for _, k := range set.Keys {
		if !k.Valid() || !k.IsPublic() {
			r.t.Errorf("%s is no public key", k.KeyID)
		}
		keys[k.KeyID] = k
	}
	return keys
}

func TestThePublicKeysThatMayBeUsedAreInTheSet(t *testing.T) {
	r, _ := newBankRig(t, true, "", false)
	old := r.reg.Versions("bank-response")[0]
	now, closed := r.onCurve(registry.Active), r.onCurve(registry.Compromised)
	next := r.onCurve()
	check(t, r.reg.PutKey(registry.Key{Name: "bank-assertion", Partner: "bank", Backend: backendName, Algorithm: boundary.PS256, Bits: 2048,
		NextDue: time.Now().Add(time.Hour), Policy: theKey("x", "bank").Policy}))
	// The first drains when the second is active; the third is announced.
	signing := []registry.Version{r.signing(registry.Active), r.signing(registry.Active), r.signing()}
	for _, listener := range []string{"client", "admin"} {
		keys := r.keysOf("bank", listener)
		want := map[string][2]string{now.KID: {"ECDH-ES", "enc"}, next.KID: {"ECDH-ES", "enc"}}
		for _, v := range signing {
			want[v.KID] = [2]string{"PS256", "sig"}
		}
		for kid, w := range want {
			k, ok := keys[kid]
			if !ok || k.Algorithm != w[0] || k.Use != w[1] {
				t.Errorf("%s: got %v, %s, %s, want %v", kid, ok, k.Algorithm, k.Use, w)
				continue
			}
			der, err := x509.MarshalPKIXPublicKey(k.Key)
			check(t, err)
			if v := r.now(kid); !slices.Equal(der, v.Public) {
				t.Errorf("%s: another key", kid)
			}
		}
		if len(keys) != len(want) {
			t.Errorf("%d keys, want %d: neither %s nor %s", len(keys), len(want), old.KID, closed.KID)
		}
	}
	if keys := r.keysOf("wise", "client"); len(keys) != 1 || keys[r.active.KID].Algorithm != "RSA-OAEP-256" {
		t.Errorf("Wise's set is %v", keys)
	}
	if keys := r.keysOf("venly", "client"); len(keys) != 0 {
		t.Errorf("of no keys the set is %v", keys)
	}
	r.send(r.client, "GET", "/v1/partners/nobody/jwks", "").wants(t, 404, "not_found")
}

// signing makes a version that signs.
func (r *rig) signing(states ...registry.State) registry.Version {
	r.t.Helper()
	kid, now := uuid.NewString(), time.Now()
	_, err := r.reg.Begin(registry.Version{KID: kid, Key: "bank-assertion", Backend: backendName, Algorithm: boundary.PS256, Bits: 2048,
		ValidFrom: now.Add(-time.Minute), ValidTill: now.Add(time.Hour)}, "test", "test", 1, now.Add(time.Hour))
	check(r.t, err)
	_, err = r.reg.Amend(kid, func(v *registry.Version) error {
		v.Handle, v.Public, v.GeneratedAt, v.TestedAt, v.ToldAt = kid, r.active.Public, now, now, now
		return nil
	})
	check(r.t, err)
	r.move(kid, registry.Announced, now)
	for _, to := range states {
		r.move(kid, to, now)
	}
	return r.now(kid)
}

// move moves a version; what was active before it drains.
func (r *rig) move(kid string, to registry.State, now time.Time) {
	r.t.Helper()
	moves := []registry.Move{{KID: kid, To: to}}
	for _, v := range r.reg.Versions(r.now(kid).Key) {
		if v.State == registry.Active && to == registry.Active {
			moves = append(moves, registry.Move{KID: v.KID, To: registry.Draining, DrainUntil: now.Add(time.Hour)})
		}
	}
	_, err := r.reg.Move(moves, "test", "test", 1, now)
	check(r.t, err)
}
