package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"keyd/client"
	"keyd/internal/boundary"
)

// stray makes a private key in the token that no version has, and returns its
// handle.
func (r *rig) stray() string {
	r.t.Helper()
	g, err := r.token.Generate(context.Background(), boundary.Spec{Key: keyName, KID: uuid.NewString(), Material: boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: 2048}})
	check(r.t, err)
	return g.Handle
}

func TestAnOrphanIsFoundAndDestroyedOverTheAdminSocket(t *testing.T) {
	r := newRig(t)
	handle := r.stray()
	orphans := func() (all []client.Orphan) {
		a := r.send(r.admin, "GET", "/v1/backends/memory/orphans", "").wants(t, 200, "")
		check(t, json.Unmarshal(a.body, &all))
		return all
	}
	if all := orphans(); len(all) != 1 || all[0].Handle != handle || all[0].Why != "unknown" || all[0].Gone {
		t.Fatalf("orphans: %+v", all)
	}
	destroy := func(query, body string) answer {
		return r.send(r.admin, "POST", "/v1/backends/memory/orphans/destroy"+query, body, "Content-Type: application/json")
	}
	named := func(handle string) string { return fmt.Sprintf(`{"handles":[%q],"reason":"drill"}`, handle) }
	for name, c := range map[string]struct {
		body   string
		status int
		code   string
	}{
		"no reason":        {fmt.Sprintf(`{"handles":[%q]}`, handle), 400, "bad_request"},
		"no handle":        {`{"reason":"drill"}`, 400, "bad_request"},
		"too many handles": {`{"reason":"drill","handles":["x"` + strings.Repeat(`,"x"`, 100) + `]}`, 400, "bad_request"},
		"a long handle":    {named(strings.Repeat("x", 2000)), 400, "bad_request"},
		"a version's":      {named(r.active.Handle), 409, "state"},
		"nobody's":         {named("memory:x"), 404, "no_key"},
	} {
		t.Run(name, func(t *testing.T) { destroy("", c.body).wants(t, c.status, c.code) })
	}
	var done client.DestroyedOrphans
	check(t, json.Unmarshal(destroy("?dry_run=true", named(handle)).wants(t, 200, "").body, &done))
	if !done.DryRun || len(done.Orphans) != 1 || done.Orphans[0].Gone || len(orphans()) != 1 {
		t.Errorf("a dry run: %+v", done)
	}
	check(t, json.Unmarshal(destroy("", named(handle)).wants(t, 200, "").body, &done))
	if done.DryRun || len(done.Orphans) != 1 || !done.Orphans[0].Gone || len(orphans()) != 0 {
		t.Errorf("destroyed: %+v, left %+v", done, orphans())
	}
	r.send(r.admin, "GET", "/v1/backends/"+url.PathEscape("none")+"/orphans", "").wants(t, 409, "no_backend")
	entries := r.entries()
	if last := entries[len(entries)-1]; last.Action != "orphan.destroy" || last.Result != "ok" || last.Detail["handle"] != handle || last.Detail["reason"] != "drill" {
		t.Errorf("the audit log ends with %+v", last)
	}
}
