package main

import (
	"bytes"
	"strings"
	"testing"
)

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
