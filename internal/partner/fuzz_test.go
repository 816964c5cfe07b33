package partner_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"keyd/internal/partner"
)

// printable fails on anything that must not be in an error.
func printable(t *testing.T, err error) {
	t.Helper()
	text := err.Error()
	if len([]rune(text)) > 2000 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("error text %q", text)
	}
	for _, secret := range []string{testSecret, "token-1"} {
		if strings.Contains(text, secret) {
			t.Errorf("error %q shows %q", text, secret)
		}
	}
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add([]byte(tokenBody("token-1", 43199)))
	f.Add([]byte(`{"access_token":"x","token_type":"bearer","expires_in":"1"}`))
	f.Add([]byte(`{"access_token":"x","token_type":"BEARER","expires_at":"2026-11-24T08:00:00.000Z"}`))
	f.Add([]byte(`{"access_token":"x\n","token_type":"bearer","expires_in":-1}`))
	f.Add([]byte(`{"access_token":"x","token_type":"bearer","expires_in":1e300}`))
	f.Add([]byte(`[{}]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var sent string
		h := open(t, routes{askToken: always(200, string(body)), askKey: func(w http.ResponseWriter, r *http.Request) {
			sent = r.Header.Get("Authorization")
			reply(w, 200, keyBody(nil))
		}})
		err := fetchKey(t, h.Wise)
		if err != nil {
			if !errors.Is(err, partner.ErrAnswer) || sent != "" {
				t.Errorf("got %v with %q sent", err, sent)
			}
			printable(t, err)
			return
		}
		token, ok := strings.CutPrefix(sent, "Bearer ")
		if !ok || token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("sent %q", sent)
		}
	})
}

func FuzzKeyAnswer(f *testing.F) {
	// The same key in every process: a fuzzing worker cannot repeat what
	// another one saw otherwise.
	put := func(material string) string {
		return keyBody(func(k map[string]any) { km(k)["keyMaterial"] = material })
	}
	f.Add([]byte(put(sampleKey)))
	f.Add([]byte("[" + put(sampleKey) + "]"))
	f.Add([]byte(put(inLines(sampleKey))))
	f.Add([]byte(`[]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, body []byte) {
		h := open(t, routes{askKey: always(200, string(body))})
		_, version, alg, public, err := h.FetchKey(t.Context())
		if err != nil {
			if !errors.Is(err, partner.ErrAnswer) || public != nil {
				t.Errorf("got %v beside %v", public, err)
			}
			printable(t, err)
			return
		}
		key, ok := public.(*rsa.PublicKey)
		if !ok || key.N.BitLen() < 2048 || key.E < 65537 || version < 0 || alg != "RSA-OAEP-256" {
			t.Errorf("got %v, version %d, %s", public, version, alg)
		}
	})
}

func FuzzAnnounceAnswer(f *testing.F) {
	public := must(x509.ParsePKIXPublicKey(must(base64.StdEncoding.DecodeString(sampleKey))))
	m := `{"keyId":"` + testKID + `","scope":"PAYLOAD_ENCRYPTION","validFrom":"2026-11-23 20:00:00","validTill":"2027-03-01 00:00:00",` +
		`"publicKeyMaterial":{"algorithm":"RSA_OAEP_256","keyMaterial":"` + sampleKey + `"}}`
	f.Add(201, []byte(m))
	f.Add(201, []byte(m+","+m))
	f.Add(409, []byte(m))
	f.Add(201, []byte(`{"publicKeyMaterial":null}`))
	f.Add(400, []byte(`{"errors":[{"code":1,"message":"\u0000\u202e"}]}`))
	f.Add(500, []byte(`{"message":"An unexpected error occurred","request_id":"r"}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		if status < 200 || status > 599 {
			return
		}
		h := open(t, routes{askAnnounce: always(status, string(body))})
		err := h.Announce(t.Context(), testKID, public, testFrom, testTill)
		switch {
		case err != nil:
			printable(t, err)
		case status != 201:
			t.Errorf("status %d is taken for success", status)
		case !strings.Contains(strings.ToLower(string(body)), testKID) && !strings.Contains(string(body), `\`):
			t.Errorf("an echo without our kid is taken: %q", body)
		}
	})
}

func FuzzPlaygroundAnswer(f *testing.F) {
	f.Add(joseType, []byte(compactJWE))
	f.Add("application/json", []byte(`{"message":"x"}`))
	f.Add("application/jose+json; x=\"", []byte(" \r\n"))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		h := open(t, routes{askPlay: envelope(contentType, string(body))})
		compact, err := h.Playground(t.Context(), testKID)
		if err != nil {
			if !errors.Is(err, partner.ErrAnswer) || compact != nil {
				t.Errorf("got %q beside %v", compact, err)
			}
			printable(t, err)
			return
		}
		if strings.Count(string(compact), ".") != 4 || !strings.HasPrefix(strings.ToLower(contentType), joseType) {
			t.Errorf("taken: %q %q", contentType, compact)
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	for _, v := range []string{"5", "-1", "", "99999999999999999999", "Mon, 23 Nov 2026 20:00:00 GMT", "Monday, 23-Nov-26 20:00:00 GMT", "soon"} {
		f.Add(v, "Mon, 23 Nov 2026 19:59:00 GMT")
		f.Add(v, "")
	}
	f.Fuzz(func(t *testing.T, value, date string) {
		h := open(t, routes{askPlay: always(429, ``, "Retry-After", value, "Date", date)})
		e := callError(t, playground(t, h.Wise), "playground", 429)
		if d := e.RetryAfter(); d < 0 || d > 24*time.Hour {
			t.Errorf("%q after %q: wait %s", value, date, d)
		}
	})
}

// Headers of an answer go into errors too.
func FuzzAnswerHeaders(f *testing.F) {
	f.Add("7f3a", "wise-public-api", "gzip", "text/html")
	f.Add("Bearer token-1", "\x1b[2J", "token-1", "a/b; c=token-1")
	f.Fuzz(func(t *testing.T, trace, limited, coding, media string) {
		h := open(t, routes{askPlay: always(429, ``, "X-Trace-Id", trace, "X-Rate-Limited-By", limited, "Content-Encoding", coding),
			askKey: envelope(media, "x"), askAnnounce: always(201, `{}`, "Content-Encoding", coding)})
		for _, err := range []error{playground(t, h.Wise), fetchKey(t, h.Wise), announce(t, h.Wise)} {
			if err == nil {
				t.Fatal("taken for success")
			}
			printable(t, err)
		}
	})
}
