package partnersim_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

func TestUploadIsEchoedWithTwoNulls(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	body := uploadJSON(uuid.NewString(), &keyPool()[0].PublicKey, time.Now(), time.Now().Add(time.Hour))
	a, err := c.tryUpload(body)
	must(t, err)
	var got, want map[string]any
	must(t, json.Unmarshal(a.body, &got))
	must(t, json.Unmarshal([]byte(body), &want))
	want["clientId"], want["deactivationTimestamp"] = nil, nil
	if diff := cmp.Diff(want, got); a.status != 201 || diff != "" {
		t.Errorf("status %d (-want +got):\n%s", a.status, diff)
	}
	up := sim.Uploads()
	if len(up) != 1 || up[0].KeyID != want["keyId"] || !up[0].Public.Equal(&keyPool()[0].PublicKey) {
		t.Errorf("uploads: %+v", up)
	}
}

// material returns base64(DER) of keys that are none for this purpose.
func material(t *testing.T) (ec, small, pkcs1, armoured string) {
	t.Helper()
	ecKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	ecDER, err := x509.MarshalPKIXPublicKey(&ecKey.PublicKey)
	must(t, err)
	smallKey, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	smallDER, err := x509.MarshalPKIXPublicKey(&smallKey.PublicKey)
	must(t, err)
	good, err := x509.MarshalPKIXPublicKey(&keyPool()[0].PublicKey)
	must(t, err)
	b64 := base64.StdEncoding.EncodeToString
	return b64(ecDER), b64(smallDER), b64(x509.MarshalPKCS1PublicKey(&keyPool()[0].PublicKey)),
		string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: good}))
}

func TestUploadRefusesWhatTheDocumentsDoNotDescribe(t *testing.T) {
	t.Setenv("GODEBUG", "rsa1024min=0") // to have a key that is too small
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	ec, small, pkcs1, armoured := material(t)
	from := time.Now().UTC().Format(wiseDate)
	good := map[string]any{}
	must(t, json.Unmarshal([]byte(uploadJSON(uuid.NewString(), &keyPool()[0].PublicKey, time.Now(), time.Now().Add(time.Hour))), &good))
	spki := good["publicKeyMaterial"].(map[string]any)["keyMaterial"].(string)
	key := func(algorithm, material any) any {
		return map[string]any{"algorithm": algorithm, "keyMaterial": material}
	}
	const absent = "<absent>"
	for name, tc := range map[string]struct {
		field  string
		value  any
		status int
		path   string
	}{
		"no keyId":              {"keyId", absent, 400, "keyId"},
		"null keyId":            {"keyId", nil, 400, "keyId"},
		"keyId no UUID":         {"keyId", "signing-2026-05-11", 422, "keyId"},
		"keyId a URN":           {"keyId", "urn:uuid:" + uuid.NewString(), 422, "keyId"},
		"keyId without dashes":  {"keyId", strings.ReplaceAll(uuid.NewString(), "-", ""), 422, "keyId"},
		"no scope":              {"scope", absent, 400, "scope"},
		"other scope":           {"scope", "PAYLOAD_SIGNING", 422, "scope"},
		"no validFrom":          {"validFrom", absent, 400, "validFrom"},
		"no validTill":          {"validTill", absent, 400, "validTill"},
		"RFC 3339":              {"validFrom", "2026-01-02T15:04:05Z", 422, "validFrom"},
		"T without Z":           {"validTill", "2126-01-02T15:04:05", 422, "validTill"},
		"fraction":              {"validFrom", "2026-01-02 15:04:05.000", 422, "validFrom"},
		"offset":                {"validFrom", "2026-01-02 15:04:05+00:00", 422, "validFrom"},
		"date only":             {"validTill", "2126-01-02", 422, "validTill"},
		"no such day":           {"validTill", "2126-02-30 00:00:00", 422, "validTill"},
		"date a number":         {"validTill", 1767366245, 400, ""},
		"till not after from":   {"validTill", from, 422, "validTill"},
		"no material":           {"publicKeyMaterial", absent, 400, "publicKeyMaterial"},
		"no algorithm":          {"publicKeyMaterial", map[string]any{"keyMaterial": spki}, 400, "publicKeyMaterial.algorithm"},
		"no inner material":     {"publicKeyMaterial", map[string]any{"algorithm": "RSA_OAEP_256"}, 400, "publicKeyMaterial.keyMaterial"},
		"algorithm as in JOSE":  {"publicKeyMaterial", key("RSA-OAEP-256", spki), 422, "publicKeyMaterial.algorithm"},
		"algorithm for signing": {"publicKeyMaterial", key("ES512", spki), 422, "publicKeyMaterial.algorithm"},
		"PEM":                   {"publicKeyMaterial", key("RSA_OAEP_256", armoured), 422, "publicKeyMaterial.keyMaterial"},
		"line breaks":           {"publicKeyMaterial", key("RSA_OAEP_256", spki[:64]+"\n"+spki[64:]), 422, "publicKeyMaterial.keyMaterial"},
		"no padding":            {"publicKeyMaterial", key("RSA_OAEP_256", base64.RawURLEncoding.EncodeToString([]byte("x"))), 422, "publicKeyMaterial.keyMaterial"},
		"PKCS #1":               {"publicKeyMaterial", key("RSA_OAEP_256", pkcs1), 422, "publicKeyMaterial.keyMaterial"},
		"elliptic":              {"publicKeyMaterial", key("RSA_OAEP_256", ec), 422, "publicKeyMaterial.keyMaterial"},
		"1024 bits":             {"publicKeyMaterial", key("RSA_OAEP_256", small), 422, "publicKeyMaterial.keyMaterial"},
		"a field too many":      {"privateKey", "oops", 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			body := maps.Clone(good)
			body[tc.field] = tc.value
			if tc.value == absent {
				delete(body, tc.field)
			}
			raw, err := json.Marshal(body)
			must(t, err)
			a, err := c.tryUpload(string(raw))
			must(t, err)
			var shape struct {
				Errors []struct{ Code, Message, Path string }
			}
			must(t, json.Unmarshal(a.body, &shape))
			if a.status != tc.status || len(shape.Errors) != 1 || shape.Errors[0].Path != tc.path {
				t.Errorf("got %d %s, want %d about %q", a.status, a.body, tc.status, tc.path)
			}
		})
	}
	for name, raw := range map[string]string{"no JSON": "keyId=1", "two objects": `{},{}`, "nothing": ""} {
		if a, err := c.tryUpload(raw); err != nil || a.status != 400 {
			t.Errorf("%s: %d %v", name, a.status, err)
		}
	}
	raw, err := json.Marshal(good)
	must(t, err)
	if a, err := c.tryUpload(string(raw) + "{}"); err != nil || a.status != 400 {
		t.Errorf("goes on after its JSON: %d %v", a.status, err)
	}
	if a := c.do("POST", uploadPath, http.Header{"Content-Type": {"text/plain"}}, string(raw)); a.status != 415 {
		t.Errorf("as text/plain: %d", a.status)
	}
	if n := len(sim.Uploads()); n != 0 {
		t.Errorf("%d refused uploads were kept", n)
	}
	if a, err := c.tryUpload(string(raw)); err != nil || a.status != 201 {
		t.Errorf("the good one: %d %s %v", a.status, a.body, err)
	}
}

func TestUploadOfAWindowThatIsOver(t *testing.T) {
	c := direct(t, partnersim.New(partnersim.Options{ClockOffset: 2 * time.Hour})).login()
	a, err := c.tryUpload(uploadJSON(uuid.NewString(), &keyPool()[0].PublicKey, time.Now(), time.Now().Add(time.Hour)))
	must(t, err)
	if a.status != 422 {
		t.Errorf("got %d %s", a.status, a.body)
	}
}

func TestRepeatedUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, till := time.Now(), time.Now().Add(time.Hour)
		for _, tc := range []struct{ duplicate, conflict, wantDuplicate, wantConflict int }{
			{0, 0, 201, 409}, {409, 400, 409, 400}, {500, 409, 500, 409},
		} {
			sim := partnersim.New(partnersim.Options{DuplicateUpload: tc.duplicate, ConflictUpload: tc.conflict})
			c := direct(t, sim).login()
			id := uuid.NewString()
			send := func(n int, till time.Time) answer {
				a, err := c.tryUpload(uploadJSON(id, &keyPool()[n].PublicKey, from, till))
				must(t, err)
				return a
			}
			if a := send(0, till); a.status != 201 {
				t.Fatalf("first: %d %s", a.status, a.body)
			}
			again := send(0, till)
			if again.status != tc.wantDuplicate {
				t.Errorf("again: %d, want %d", again.status, tc.wantDuplicate)
			}
			if tc.wantDuplicate == 500 {
				generic500(t, again)
			}
			for name, a := range map[string]answer{"other key": send(1, till), "other date": send(0, till.Add(time.Second))} {
				if a.status != tc.wantConflict {
					t.Errorf("%s: %d, want %d", name, a.status, tc.wantConflict)
				}
			}
			if up := sim.Uploads(); len(up) != 1 || !up[0].Public.Equal(&keyPool()[0].PublicKey) || !up[0].ValidTill.Equal(till) {
				t.Errorf("uploads: %+v", up)
			}
			if a, err := c.tryUpload(uploadJSON(uuid.NewString(), &keyPool()[0].PublicKey, from, till)); err != nil || a.status != 201 {
				t.Errorf("the same material under another keyId: %d %v", a.status, err)
			}
		}
	})
}
