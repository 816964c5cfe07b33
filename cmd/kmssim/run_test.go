package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestFaultsAreAskedForAndTakenBack(t *testing.T) {
	h := handler("eu-central-1")
	ask := func(method, path, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		r := httptest.NewRequestWithContext(t.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/x-amz-json-1.1")
		r.Header.Set("X-Amz-Target", "TrentService.ListKeys")
		r.Header.Set("X-Amz-Date", "20260101T000000Z")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=A/20260101/eu-central-1/kms/aws4_request, "+
			"SignedHeaders=host;x-amz-date;x-amz-target, Signature="+strings.Repeat("0", 64))
		h.ServeHTTP(w, r)
		return w
	}
	for _, bad := range []string{"", "{", `{"opp":"Decrypt"}`, `{"op":"Decypt"}`, `{"delay":"soon"}`} {
		if w := ask(http.MethodPost, "/sim/faults", bad); w.Code != http.StatusBadRequest {
			t.Errorf("%q: got %d", bad, w.Code)
		}
	}
	if w := ask(http.MethodPost, "/sim/faults", `{"op":"ListKeys","code":"ThrottlingException","delay":"1ms","times":2}`); w.Code != http.StatusOK {
		t.Fatalf("got %d %s", w.Code, w.Body)
	}
	if w := ask(http.MethodPost, "/", "{}"); !strings.Contains(w.Body.String(), "ThrottlingException") {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	ask(http.MethodDelete, "/sim/faults", "")
	if w := ask(http.MethodPost, "/", "{}"); w.Code != http.StatusOK {
		t.Errorf("taken back: %d %s", w.Code, w.Body)
	}
}

func TestAnAddressThatOtherHostsCouldReachIsRefused(t *testing.T) {
	var out, err bytes.Buffer
	if code := run(t.Context(), []string{"-listen", "0.0.0.0:0"}, &out, &err); code != 1 || !strings.Contains(err.String(), "loopback") {
		t.Errorf("exit %d, %q", code, err.String())
	}
}

func TestAnUnknownFlagIsWrongUsage(t *testing.T) {
	var out, err bytes.Buffer
	if code := run(t.Context(), []string{"-nope"}, &out, &err); code != 2 {
		t.Errorf("exit %d, %q", code, err.String())
	}
}
