package registry_test

import (
	"encoding/json"
	"math"
	"testing"
	"time"

	"keyd/internal/registry"
)

const day = 24 * time.Hour

func TestDurationReadsAndPrints(t *testing.T) {
	for text, c := range map[string]struct {
		want  time.Duration
		print string
	}{
		"30d":         {30 * day, "30d"},
		"36h":         {36 * time.Hour, "1d12h"},
		"1d12h":       {36 * time.Hour, "1d12h"},
		"720h":        {30 * day, "30d"},
		"90m":         {90 * time.Minute, "1h30m"},
		"1h0m5s":      {time.Hour + 5*time.Second, "1h0m5s"},
		"10m":         {10 * time.Minute, "10m"},
		"20s":         {20 * time.Second, "20s"},
		"1d1ns":       {day + 1, "1d1ns"},
		"1.5h":        {90 * time.Minute, "1h30m"},
		"0":           {0, "0s"},
		"0d":          {0, "0s"},
		"-1d12h":      {-36 * time.Hour, "-1d12h"},
		"-90s":        {-90 * time.Second, "-1m30s"},
		"106751d":     {106751 * day, "106751d"},
		"2562047h":    {2562047 * time.Hour, "106751d23h"},
		"106751d0.5s": {106751*day + 500*time.Millisecond, "106751d500ms"},
	} {
		var d registry.Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != c.want {
			t.Errorf("%s: got %v, %v, want %v", text, time.Duration(d), err, c.want)
		}
		if got := d.String(); got != c.print {
			t.Errorf("%s: printed as %s, want %s", text, got, c.print)
		}
	}
}

func TestDurationRefuses(t *testing.T) {
	for _, text := range []string{"", "d", "30", "30D", "1.5d", "1d-1h", "1d+1h", "+1d", "--1d", "1d1d", "1h1d", "1d1", " 1d", "1d ",
		"106752d", "106751d24h", "99999999999999999999d", "9999999h", "monthly"} {
		d := registry.Duration(7)
		if err := d.UnmarshalText([]byte(text)); err == nil || d != 7 {
			t.Errorf("%q: got %s, want an error and nothing changed", text, d)
		} else {
			wantErr(t, err, registry.ErrInvalid)
		}
	}
}

func TestDurationInJSONIsText(t *testing.T) {
	raw, err := json.Marshal(registry.Policy{DrainFor: registry.Duration(36 * time.Hour)})
	must(t, err)
	var p registry.Policy
	must(t, json.Unmarshal(raw, &p))
	if time.Duration(p.DrainFor) != 36*time.Hour {
		t.Errorf("%s read back as %s", raw, p.DrainFor)
	}
	if err := json.Unmarshal([]byte(`{"drain_for":129600}`), &p); err == nil {
		t.Error("a bare number was taken")
	}
}

func FuzzDuration(f *testing.F) {
	for _, seed := range []string{"30d", "36h", "1d12h", "-1d0.5s", "106751d23h47m16.854775807s", "1d-1h", "d", "9223372036854775807ns", "-9223372036854775808ns"} {
		f.Add(seed, int64(0))
	}
	f.Add("", int64(math.MinInt64))
	f.Fuzz(func(t *testing.T, text string, n int64) {
		for _, d := range []registry.Duration{registry.Duration(n), 0} {
			if d == 0 && d.UnmarshalText([]byte(text)) != nil {
				continue
			}
			var again registry.Duration
			if err := again.UnmarshalText([]byte(d.String())); err != nil || again != d {
				t.Errorf("%d prints as %s, which reads as %d, %v", int64(d), d, int64(again), err)
			}
		}
	})
}
