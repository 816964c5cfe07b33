package client_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"keyd/client"

	"github.com/google/go-cmp/cmp"
)

const kid = "0190a0c4-6f0e-7cc0-8c0f-0123456789ab"

// seen is a request as the daemon gets it.
type seen struct{ Line, Type, Accept, Body string }

var (
	someChange = &client.Change{DryRun: true, Key: "k", Steps: []client.Step{{Name: "announce", KID: kid, Reason: "asked to"}}}
	someKey    = client.Key{Name: "k", Partner: "wise", ActiveKID: kid}
	someStatus = client.Status{Instance: "prod", Ready: true, AuditHead: client.Head{Seq: 7, Hash: "aa"}}
)

// one asks for any and returns it without its type.
func one[T any](v T, err error) (any, error) { return v, err }

// Each method against the request it must make and the answer it must read.
func TestEveryRoute(t *testing.T) {
	at := time.Date(2027, 3, 1, 0, 0, 0, 0, time.UTC)
	create := client.CreateKey{Name: "k", Partner: "wise", Backend: "hsm", Bits: 2048}
	adopt := client.Adopt{KID: kid, Find: "0a", ValidFrom: at, ValidTill: at, Told: true}
	post := func(line, body string) seen {
		s := seen{Line: "POST " + line, Accept: "application/json", Body: body}
		if body != "" {
			s.Type = "application/json"
		}
		return s
	}
	get := func(line string) seen { return seen{Line: "GET " + line, Accept: "application/json"} }
	text := func(v any) string { b, _ := json.Marshal(v); return string(b) }
	raw := []json.RawMessage{json.RawMessage(`{"seq":8,"hash":"bb"}`), json.RawMessage(`{"seq":9,"hash":"cc"}`)}
	for _, c := range []struct {
		name   string
		call   func(context.Context, *client.Client) (any, error)
		want   seen
		answer any
	}{
		{"Encrypt", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Encrypt(ctx, "wise", []byte("\x00plain"), client.EncryptOptions{URL: "/v1/cases?a=b&c", Refetch: true}))
		}, seen{"POST /v1/partners/wise/encrypt?refetch=true&url=%2Fv1%2Fcases%3Fa%3Db%26c", "application/octet-stream", "application/json", "\x00plain"},
			&client.Sealed{JWE: "e.e.e", Headers: map[string]string{"A": "b"}, KID: kid, KeyID: "1"}},
		{"Encrypt for a direct reply", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Encrypt(ctx, "wise", []byte("plain"), client.EncryptOptions{Direct: new(true)}))
		}, seen{"POST /v1/partners/wise/encrypt?direct=true", "application/octet-stream", "application/json", "plain"},
			&client.Sealed{JWE: "e.e.e", Headers: map[string]string{"A": "b"}, Exchange: &client.Exchange{ID: "x", Kind: "direct", ExpiresAt: at}}},
		{"Encrypt for one that is not", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Encrypt(ctx, "wise", []byte("plain"), client.EncryptOptions{Direct: new(false)}))
		}, seen{"POST /v1/partners/wise/encrypt?direct=false", "application/octet-stream", "application/json", "plain"}, &client.Sealed{}},
		{"Encrypt values", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Encrypt(ctx, "jh", []byte("{}"), client.EncryptOptions{URL: "/x", Method: "PUT", Fields: []string{"/a/b", "/c"}, PublicKeyAt: "/k", Ephemeral: new(true)}))
		}, seen{"POST /v1/partners/jh/encrypt?ephemeral=true&field=%2Fa%2Fb&field=%2Fc&method=PUT&public_key_at=%2Fk&url=%2Fx", "application/octet-stream", "application/json", "{}"},
			&client.Sealed{Body: `{"a":1}`, Headers: map[string]string{}}},
		{"EncryptMethod", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.EncryptMethod(ctx, "venly", client.SigningMethod{ID: "m", Value: "1234"}, []byte("exact"), client.EncryptOptions{}))
		}, seen{"POST /v1/partners/venly/encrypt?form=header", "application/octet-stream", "application/json", `{"signing_method":{"id":"m","value":"1234"},"body":"ZXhhY3Q="}`},
			&client.Sealed{Headers: map[string]string{"Encrypted-Signing-Method": "x"}}},
		{"Encrypt without options", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Encrypt(ctx, "wise", nil, client.EncryptOptions{}))
		}, seen{"POST /v1/partners/wise/encrypt", "application/octet-stream", "application/json", ""}, &client.Sealed{}},
		{"Partner", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Partner(ctx, "wise")) },
			get("/v1/partners/wise"), &client.Partner{Name: "wise", Key: &client.PartnerKey{ID: "1"}}},
		{"JWKS", func(ctx context.Context, c *client.Client) (any, error) { return one(c.JWKS(ctx, "jh")) },
			get("/v1/partners/jh/jwks"), &client.JWKS{Keys: []client.JWK{{Type: "EC", KID: kid, Curve: "P-256"}}}},
		{"Call", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Call(ctx, "wise", client.Call{Method: "POST", Path: "/v1/cases", BodyBase64: []byte("x")}, ""))
		}, seen{"POST /v1/partners/wise/call", "application/json", "application/json", `{"method":"POST","path":"/v1/cases","body_base64":"eA=="}`},
			&client.Answer{Status: 200, Content: "plain", BodyBase64: []byte("\xff")}},
		{"Partners", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Partners(ctx)) },
			get("/v1/partners"), []client.Partner{{Name: "wise"}, {Name: "venly"}}},
		{"RefreshPartner", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.RefreshPartner(ctx, "wise", false))
		},
			post("/v1/partners/wise/refresh", ""), &client.PartnerKey{ID: "2", Changed: true}},
		{"Status", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Status(ctx)) }, get("/v1/status"), &someStatus},
		{"Doctor", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Doctor(ctx)) },
			get("/v1/doctor"), &client.Doctor{OK: false, Findings: []client.Finding{{Severity: "error", Code: "orphan"}}}},
		{"VersionInfo", func(ctx context.Context, c *client.Client) (any, error) { return one(c.VersionInfo(ctx)) },
			get("/v1/version"), &client.VersionInfo{Version: "1.0.0", Schema: 1}},
		{"Keys", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Keys(ctx)) }, get("/v1/keys"), []client.Key{someKey}},
		{"Key", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Key(ctx, "k")) }, get("/v1/keys/k"), &someKey},
		{"Version", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Version(ctx, kid)) },
			get("/v1/versions/" + kid), &client.Version{KID: kid, State: "active", Opens: true, Evidence: json.RawMessage(`{"LOCAL":true}`)}},
		{"CreateKey", func(ctx context.Context, c *client.Client) (any, error) { return one(c.CreateKey(ctx, create, true)) },
			post("/v1/keys?dry_run=true", text(create)), someChange},
		{"Rotate", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Rotate(ctx, "k", false)) },
			post("/v1/keys/k/rotate", ""), someChange},
		{"Rotate, dry", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Rotate(ctx, "k", true)) },
			post("/v1/keys/k/rotate?dry_run=true", ""), someChange},
		{"Adopt", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Adopt(ctx, "k", adopt, false)) },
			post("/v1/keys/k/adopt", text(adopt)), someChange},
		{"Confirm", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Confirm(ctx, kid, "sent", false))
		},
			post("/v1/versions/"+kid+"/confirm", `{"reason":"sent"}`), someChange},
		{"Activate", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Activate(ctx, kid, "back", true))
		},
			post("/v1/versions/"+kid+"/activate?dry_run=true", `{"reason":"back"}`), someChange},
		{"Compromise", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Compromise(ctx, kid, "leak", false))
		},
			post("/v1/versions/"+kid+"/compromise", `{"reason":"leak"}`), someChange},
		{"Destroy", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Destroy(ctx, kid, "old", false))
		},
			post("/v1/versions/"+kid+"/destroy", `{"reason":"old"}`), someChange},
		{"Rescue", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.Rescue(ctx, kid, "needed", true))
		},
			post("/v1/versions/"+kid+"/rescue?dry_run=true", `{"reason":"needed"}`), someChange},
		{"Orphans", func(ctx context.Context, c *client.Client) (any, error) { return one(c.Orphans(ctx, "hsm")) },
			get("/v1/backends/hsm/orphans"), []client.Orphan{{Backend: "hsm", Handle: "pkcs11:id=%01;object=x", Why: "unknown"}}},
		{"DestroyOrphans", func(ctx context.Context, c *client.Client) (any, error) {
			return one(c.DestroyOrphans(ctx, "hsm", client.DestroyOrphans{Handles: []string{"a", "b"}, Reason: "old"}, true))
		},
			post("/v1/backends/hsm/orphans/destroy?dry_run=true", `{"handles":["a","b"],"reason":"old"}`), &client.DestroyedOrphans{DryRun: true}},
		{"AuditTail", func(ctx context.Context, c *client.Client) (any, error) { return one(c.AuditTail(ctx, 2)) }, get("/v1/audit?tail=2"), raw},
		{"AuditAfter", func(ctx context.Context, c *client.Client) (any, error) { return one(c.AuditAfter(ctx, 7, 500)) },
			get("/v1/audit?after=7&limit=500"), raw},
		{"AuditVerify", func(ctx context.Context, c *client.Client) (any, error) { return one(c.AuditVerify(ctx)) },
			get("/v1/audit/verify"), &client.AuditReport{OK: false, Broken: "line 3"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got seen
			k := daemon(t, func(w http.ResponseWriter, r *http.Request) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				got = seen{r.Method + " " + r.RequestURI, r.Header.Get("Content-Type"), r.Header.Get("Accept"), string(body)}
				answer(w, "application/json", text(c.answer))
			})
			read, err := c.call(t.Context(), k)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("the request:\n%s", d)
			}
			if d := cmp.Diff(c.answer, read); d != "" {
				t.Errorf("the answer:\n%s", d)
			}
		})
		t.Run(c.name+" refused", func(t *testing.T) {
			k := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusForbidden)
				answer(w, "application/problem+json", `{"title":"no","code":"forbidden"}`)
			})
			_, err := c.call(t.Context(), k)
			if p, ok := errors.AsType[*client.Problem](err); !ok || p.Code != "forbidden" || p.Status != 403 {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDecryptFieldsNamesThem(t *testing.T) {
	var line string
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		line = r.Method + " " + r.URL.RequestURI()
		w.Header().Set("Keyd-Kid", kid)
		answer(w, "application/json", `{"a":"x"}`)
	})
	opened, err := c.DecryptFields(t.Context(), "jh", []byte(`{"a":"e.e.e"}`), client.DecryptOptions{Fields: []string{"/a", "/b"}, JSONFields: []string{"/c"}, Exchange: "x"})
	if err != nil || string(opened.Plaintext) != `{"a":"x"}` || opened.KID != kid || line != "POST /v1/partners/jh/decrypt?exchange=x&field=%2Fa&field=%2Fb&field_json=%2Fc" {
		t.Errorf("asked %s, got %+v, %v", line, opened, err)
	}
}

func TestTheCallersTokenTravelsInItsHeader(t *testing.T) {
	var got string
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		answer(w, "application/json", `{"body":"b","headers":{}}`)
	})
	sealed, err := c.Encrypt(t.Context(), "cards", []byte("x"), client.EncryptOptions{Token: "t-1"})
	if err != nil || got != "Bearer t-1" || sealed.Send() != "b" {
		t.Errorf("sent %q, got %+v, %v", got, sealed, err)
	}
	if _, err := c.Call(t.Context(), "cards", client.Call{}, "t-2"); err != nil || got != "Bearer t-2" {
		t.Errorf("sent %q, %v", got, err)
	}
	for want, a := range map[string]client.Answer{"text": {Body: "text"}, "\xff": {BodyBase64: []byte("\xff")}, "": {}} {
		if string(a.Bytes()) != want {
			t.Errorf("%+v has the bytes %q", a, a.Bytes())
		}
	}
	if s := (&client.Sealed{JWE: "e"}).Send(); s != "e" {
		t.Errorf("to send: %q", s)
	}
}

func TestDecryptReplyNamesTheExchange(t *testing.T) {
	var got seen
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = seen{r.Method + " " + r.URL.RequestURI(), r.Header.Get("Content-Type"), r.Header.Get("Accept"), string(body)}
		w.Header().Set("Keyd-Boundary", "host")
		answer(w, "application/octet-stream", "plain")
	})
	opened, err := c.DecryptReply(t.Context(), "wise", "0a-1b", []byte("a..b.c.d"))
	if err != nil || string(opened.Plaintext) != "plain" || opened.KID != "" || opened.Boundary != "host" {
		t.Errorf("got %+v, %v", opened, err)
	}
	if d := cmp.Diff(seen{"POST /v1/partners/wise/decrypt?exchange=0a-1b", "application/jose+json", "application/octet-stream", "a..b.c.d"}, got); d != "" {
		t.Error(d)
	}
}

func TestDecryptReadsBodyAndHeaders(t *testing.T) {
	plain := []byte("\x00\xff plain")
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "a.b.c.d.e" || r.URL.Path != "/v1/partners/wise/decrypt" || r.Header.Get("Content-Type") != "application/jose+json" {
			t.Errorf("got %s %v %q %v", r.URL, r.Header, body, err)
		}
		w.Header().Set("Keyd-Kid", kid)
		w.Header().Set("Keyd-Boundary", "sealed")
		w.Header().Set("Keyd-Request-Id", "r3")
		answer(w, "application/octet-stream", string(plain))
	})
	got, err := c.Decrypt(t.Context(), "wise", []byte("a.b.c.d.e"))
	if err != nil {
		t.Fatal(err)
	}
	want := &client.Opened{Plaintext: plain, KID: kid, Boundary: "sealed", RequestID: "r3"}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLargeAndStreamedPlaintextsArriveWhole(t *testing.T) {
	plain := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, chunk := range map[string]int{"in one": len(plain), "in pieces": 1000, "empty": 0} {
		c := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
			for rest := plain; chunk > 0 && len(rest) > 0; rest = rest[min(chunk, len(rest)):] {
				if _, err := w.Write(rest[:min(chunk, len(rest))]); err != nil {
					t.Error(err)
				}
			}
		})
		want := plain
		if chunk == 0 {
			want = nil
		}
		if got, err := c.Decrypt(t.Context(), "wise", nil); err != nil || !bytes.Equal(got.Plaintext, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamesCannotLeaveTheirPlace(t *testing.T) {
	var got string
	c := daemon(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.RequestURI
		answer(w, "application/json", "{}")
	})
	for name, want := range map[string]string{"a/../../v1/status": "/v1/keys/a%2F..%2F..%2Fv1%2Fstatus", "a?b=c#d": "/v1/keys/a%3Fb=c%23d", "ü %": "/v1/keys/%C3%BC%20%25"} {
		if _, err := c.Key(t.Context(), name); err != nil || got != want {
			t.Errorf("%q asked for %s (%v), want %s", name, got, err, want)
		}
	}
	got = ""
	for _, name := range []string{"", ".", ".."} {
		for route, call := range map[string]func() (any, error){
			"Key":            func() (any, error) { return one(c.Key(t.Context(), name)) },
			"Version":        func() (any, error) { return one(c.Version(t.Context(), name)) },
			"Rotate":         func() (any, error) { return one(c.Rotate(t.Context(), name, false)) },
			"Destroy":        func() (any, error) { return one(c.Destroy(t.Context(), name, "r", false)) },
			"Partner":        func() (any, error) { return one(c.Partner(t.Context(), name)) },
			"RefreshPartner": func() (any, error) { return one(c.RefreshPartner(t.Context(), name, false)) },
			"Encrypt":        func() (any, error) { return one(c.Encrypt(t.Context(), name, nil, client.EncryptOptions{})) },
			"Decrypt":        func() (any, error) { return one(c.Decrypt(t.Context(), name, nil)) },
			"JWKS":           func() (any, error) { return one(c.JWKS(t.Context(), name)) },
			"Call":           func() (any, error) { return one(c.Call(t.Context(), name, client.Call{}, "")) },
			"DecryptFields": func() (any, error) {
				return one(c.DecryptFields(t.Context(), name, nil, client.DecryptOptions{}))
			},
			"DecryptReply": func() (any, error) { return one(c.DecryptReply(t.Context(), name, "x", nil)) },
		} {
			if _, err := call(); err == nil || got != "" {
				t.Errorf("%s of %q: asked for %q, %v", route, name, got, err)
			}
		}
	}
}

func TestBackupIsVerified(t *testing.T) {
	snapshot := bytes.Repeat([]byte("page"), 100_000)
	digest := sha256.Sum256(snapshot)
	sum := hex.EncodeToString(digest[:])
	trailer := func(sum string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "Keyd-Sha256")
			_, _ = w.Write(snapshot)
			w.Header().Set("Keyd-Sha256", sum)
		}
	}
	for _, c := range []struct {
		name   string
		serve  http.HandlerFunc
		broken string
	}{
		{"sum in the trailer", trailer(sum), ""},
		{"sum in the header", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Keyd-Sha256", sum)
			_, _ = w.Write(snapshot)
		}, ""},
		{"another sum", trailer(strings.Repeat("0", 64)), "its SHA-256 is " + sum},
		{"no sum", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(snapshot) }, "without its checksum"},
		{"an empty sum", trailer(""), "without its checksum"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var copied bytes.Buffer
			got, err := daemon(t, c.serve).Backup(t.Context(), &copied)
			switch {
			case c.broken != "" && (!errors.Is(err, client.ErrIncomplete) || !strings.Contains(err.Error(), c.broken) || got != ""):
				t.Errorf("got %q, %v", got, err)
			case c.broken == "" && (err != nil || got != sum || !bytes.Equal(copied.Bytes(), snapshot)):
				t.Errorf("got %q, %v, %d bytes", got, err, copied.Len())
			}
		})
	}
	t.Run("the daemon dies", func(t *testing.T) {
		c := daemon(t, func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(snapshot)
			panic(http.ErrAbortHandler)
		})
		if got, err := c.Backup(t.Context(), io.Discard); err == nil {
			t.Errorf("got %q", got)
		}
	})
	t.Run("the disk is full", func(t *testing.T) {
		if got, err := daemon(t, trailer(sum)).Backup(t.Context(), fullDisk{}); !errors.Is(err, errFull) {
			t.Errorf("got %q, %v", got, err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		c := daemon(t, http.NotFound)
		if got, err := c.Backup(t.Context(), io.Discard); err == nil {
			t.Errorf("got %q", got)
		}
	})
}

var errFull = errors.New("the disk is full")

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, errFull }
