package api_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/registry"
)

// run has the engine do what an operation left to it.
func (r *rig) run() { r.engine.Reconcile(context.Background()) }

// The operations of a key's whole life, through keyd's own client.
func TestAKeysLifeOverTheAdminSocket(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	admin := client.New(r.path("admin.sock"))
	policy := client.Policy{Rotate: "0 3 1 */3 *", ValidFor: "150d", DrainFor: "30d", SettleFor: "0s", Canary: "off"}

	_, err := admin.CreateKey(ctx, client.CreateKey{Name: "venly-response", Partner: "venly", Backend: backendName, Policy: policy}, true)
	check(t, err)
	if _, err := admin.Key(ctx, "venly-response"); err == nil {
		t.Fatal("the dry run created the key")
	}
	change, err := admin.CreateKey(ctx, client.CreateKey{Name: "venly-response", Partner: "venly", Backend: backendName, Policy: policy}, false)
	check(t, err)
	if change.DryRun || change.Key != "venly-response" || len(change.Steps) == 0 || len(change.ByHand) == 0 {
		t.Errorf("got %+v", change)
	}
	r.run()
	key, err := admin.Key(ctx, "venly-response")
	check(t, err)
	if len(key.Versions) != 1 || key.Versions[0].State != "announced" || key.Next.Name != "confirm" || key.Policy != policy || key.Bits != 2048 {
		t.Fatalf("got %+v", key)
	}
	kid := key.Versions[0].KID
	change, err = admin.Confirm(ctx, kid, "handed over by courier", false)
	check(t, err)
	if change.Version == nil || change.Version.KID != kid || change.Version.ToldAt.IsZero() {
		t.Errorf("got %+v", change)
	}
	r.run()
	version, err := admin.Version(ctx, kid)
	check(t, err)
	if version.State != "active" || !version.Opens || !strings.HasPrefix(version.PublicPEM, "-----BEGIN PUBLIC KEY-----") || len(version.History) != 3 ||
		!bytes.Contains(version.Evidence, []byte("memory")) {
		t.Errorf("got %+v", version)
	}

	dry, err := admin.Rotate(ctx, keyName, true)
	check(t, err)
	if !dry.DryRun || len(r.reg.Versions(keyName)) != 1 {
		t.Errorf("got %+v and %d versions", dry, len(r.reg.Versions(keyName)))
	}
	rotated, err := admin.Rotate(ctx, keyName, false)
	check(t, err)
	r.run()
	if v := r.now(rotated.KID); v.State != registry.Active {
		t.Fatalf("the new version is %s", v.State)
	}
	_, err = admin.Activate(ctx, r.active.KID, "rollback drill", false)
	check(t, err)
	compromised, err := admin.Compromise(ctx, r.active.KID, "incident 4711", false)
	check(t, err)
	if len(compromised.ByHand) == 0 || compromised.Version.State != "compromised" {
		t.Errorf("got %+v", compromised)
	}
	_, err = admin.Destroy(ctx, r.active.KID, "over", false)
	check(t, err)
	r.run()
	if v := r.now(r.active.KID); v.State != registry.Destroyed {
		t.Errorf("it is %s", v.State)
	}
	for _, e := range r.entries() {
		if e.Phase == "intent" && e.Action == "key.compromise" && (e.Actor.UID != os.Getuid() || e.Actor.Role != "operator" || e.Detail["reason"] != "incident 4711") {
			t.Errorf("the audit log has %+v", e)
		}
	}
}

func TestAnExistingKeyIsAdopted(t *testing.T) {
	r := newRig(t)
	admin := client.New(r.path("admin.sock"))
	kid := uuid.NewString()
	found, err := r.token.Plant("legacy-2025", kid, 2048)
	check(t, err)
	body := client.Adopt{KID: kid, Find: "legacy-2025", ValidTill: time.Now().Add(90 * 24 * time.Hour), ValidFrom: time.Now().Add(-time.Hour), Told: true}
	change, err := admin.Adopt(t.Context(), keyName, body, false)
	check(t, err)
	v := r.now(change.KID)
	if v.Handle != found.Handle || !v.Adopted {
		t.Errorf("got %+v", v)
	}
	r.decrypt(r.seal(v, []byte("old"), nil)).wants(t, 200, "")
}

func TestBadInputOfAnOperatorIsRefusedAndRecorded(t *testing.T) {
	key, version := "/v1/keys/"+keyName, "/v1/versions/"+uuid.NewString()
	for name, c := range map[string]struct {
		path, body, kind string
		status           int
		code             string
	}{
		"no reason to compromise":    {version + "/compromise", `{}`, "application/json", 400, "bad_request"},
		"no body to destroy":         {version + "/destroy", ``, "application/json", 400, "bad_request"},
		"blanks for a reason":        {version + "/activate", `{"reason":"  "}`, "application/json", 400, "bad_request"},
		"an unknown member":          {version + "/destroy", `{"reason":"x","force":true}`, "application/json", 400, "bad_request"},
		"two documents":              {version + "/destroy", `{"reason":"x"}{}`, "application/json", 400, "bad_request"},
		"not JSON":                   {version + "/destroy", `reason=x`, "application/json", 400, "bad_request"},
		"another type":               {version + "/destroy", `{"reason":"x"}`, "application/x-www-form-urlencoded", 415, "unsupported_media"},
		"no type":                    {version + "/confirm", `{"reason":"x"}`, "", 415, "unsupported_media"},
		"a body to rotate":           {key + "/rotate", `{}`, "application/json", 400, "bad_request"},
		"a date that is none":        {key + "/adopt", `{"kid":"x","valid_till":"tomorrow"}`, "application/json", 400, "bad_request"},
		"a duration that is none":    {"/v1/keys", `{"name":"k","partner":"venly","backend":"memory","policy":{"valid_for":"long"}}`, "application/json", 400, "bad_request"},
		"too much":                   {"/v1/keys", `{"name":"` + strings.Repeat("x", 20<<10) + `"}`, "application/json", 413, "too_large"},
		"refresh with a parameter":   {"/v1/partners/wise/refresh?force=true", ``, "", 400, "bad_request"},
		"a misspelled dry run":       {key + "/rotate?dryrun=true", ``, "", 400, "bad_request"},
		"a dry run of what it knows": {key + "/rotate?dry_run=perhaps", ``, "", 400, "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			before := len(r.entries())
			headers := []string{}
			if c.kind != "" {
				headers = append(headers, "Content-Type: "+c.kind)
			}
			a := r.send(r.admin, "POST", c.path, c.body, headers...).wants(t, c.status, c.code)
			got := r.entries()[before:]
			if len(got) != 1 || got[0].Result != "refused" || got[0].Code != c.code || got[0].Detail["request"] != a.header.Get("Keyd-Request-Id") {
				t.Errorf("the audit log has %+v", got)
			}
		})
	}
}

func TestDryRunsOfBadInputLeaveNoTrace(t *testing.T) {
	r := newRig(t)
	before := len(r.entries())
	r.send(r.admin, "POST", "/v1/versions/"+r.active.KID+"/destroy?dry_run=true", `{}`, "Content-Type: application/json").wants(t, 400, "bad_request")
	r.send(r.admin, "GET", "/v1/audit?tail=x", "").wants(t, 400, "bad_request")
	r.send(r.client, "POST", "/v1/partners/wise/encrypt?x=y", "x").wants(t, 400, "bad_request")
	if got := r.entries()[before:]; len(got) != 0 {
		t.Errorf("the audit log has %+v", got)
	}
}

func TestTheEnginesRefusalsHaveTheirCodes(t *testing.T) {
	r := newRig(t)
	check(t, r.reg.PutKey(theKey("flying", "wise")))
	r.version("flying", registry.Pending)
	_, err := r.token.Plant("twice", uuid.NewString(), 2048)
	check(t, err)
	_, err = r.token.Plant("twice", uuid.NewString(), 2048)
	check(t, err)
	policy := `"policy":{"rotate":"0 3 1 */3 *","valid_for":"150d","drain_for":"30d","canary":"off"}`
	till := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	key, version := "/v1/keys/"+keyName, "/v1/versions/"+r.active.KID
	for name, c := range map[string]struct {
		path, body string
		status     int
		code       string
	}{
		"rotate none":           {"/v1/keys/none/rotate", "", 404, "not_found"},
		"rotate twice":          {"/v1/keys/flying/rotate", "", 409, "in_flight"},
		"confirm none":          {"/v1/versions/none/confirm", "", 404, "not_found"},
		"confirm an active one": {version + "/confirm", "", 409, "state"},
		"destroy what is used":  {version + "/destroy", `{"reason":"x"}`, 409, "needed"},
		"create again":          {"/v1/keys", `{"name":"` + keyName + `","partner":"venly","backend":"memory",` + policy + `}`, 409, "exists"},
		"create for nobody":     {"/v1/keys", `{"name":"k","partner":"nobody","backend":"memory",` + policy + `}`, 409, "no_partner"},
		"create nowhere":        {"/v1/keys", `{"name":"k","partner":"venly","backend":"nowhere",` + policy + `}`, 409, "no_backend"},
		"create badly":          {"/v1/keys", `{"name":"K!","partner":"venly","backend":"memory",` + policy + `}`, 400, "bad_request"},
		"create unrotated":      {"/v1/keys", `{"name":"k","partner":"venly","backend":"memory"}`, 400, "bad_request"},
		"adopt nothing":         {key + "/adopt", `{"kid":"` + uuid.NewString() + `","find":"none","valid_till":"` + till + `"}`, 404, "no_key"},
		"adopt one of two":      {key + "/adopt", `{"kid":"` + uuid.NewString() + `","find":"twice","valid_till":"` + till + `"}`, 409, "ambiguous"},
		"adopt into the past":   {key + "/adopt", `{"kid":"` + uuid.NewString() + `","find":"twice"}`, 400, "bad_request"},
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			headers := []string{}
			if c.body != "" {
				headers = append(headers, "Content-Type: application/json")
			}
			p := r.send(r.admin, "POST", c.path, c.body, headers...).wants(t, c.status, c.code).problem(t)
			if p.Detail == "" {
				t.Errorf("it does not say what is wrong: %+v", p)
			}
		})
	}
}
