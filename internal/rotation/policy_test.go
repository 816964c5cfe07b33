package rotation_test

import (
	"strings"
	"testing"
	"time"

	"keyd/internal/registry"
	"keyd/internal/rotation"
)

const aDay = 24 * time.Hour

// quarterly is a policy that works.
func quarterly() registry.Policy {
	return registry.Policy{Rotate: "0 3 1 */3 *", ValidFor: days(150), DrainFor: days(30), Canary: rotation.CanaryOpen}
}

func days(n int) registry.Duration { return registry.Duration(time.Duration(n) * aDay) }

func TestValidatePolicy(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*registry.Policy)
		want   string // part of the error; "" is none
	}{
		"quarterly":                {func(*registry.Policy) {}, ""},
		"valid just long enough":   {func(p *registry.Policy) { p.ValidFor = days(92 + 30) }, ""},
		"valid a second too short": {func(p *registry.Policy) { p.ValidFor = days(92+30) - registry.Duration(time.Second) }, "valid_for"},
		"weekly":                   {func(p *registry.Policy) { p.Rotate, p.ValidFor = "0 3 * * 1", days(37) }, ""},
		"weekly, too short":        {func(p *registry.Policy) { p.Rotate, p.ValidFor = "0 3 * * 1", days(36) }, "valid_for"},
		"every minute":             {func(p *registry.Policy) { p.Rotate = "* * * * *" }, ""},
		"office hours: the longest gap is the weekend": {func(p *registry.Policy) {
			p.Rotate, p.DrainFor, p.ValidFor = "0 9-17 * * 1-5", days(1), days(1)+registry.Duration(64*time.Hour)
		}, ""},
		"office hours, an hour too short": {func(p *registry.Policy) {
			p.Rotate, p.DrainFor, p.ValidFor = "0 9-17 * * 1-5", days(1), days(1)+registry.Duration(63*time.Hour)
		}, "up to 2d16h apart"},
		"every minute of one month a year":  {func(p *registry.Policy) { p.Rotate, p.ValidFor = "* * * 1 *", days(335+29) }, "valid_for"},
		"once a year":                       {func(p *registry.Policy) { p.Rotate, p.ValidFor = "0 3 1 1 *", days(366+30) }, ""},
		"once a year, valid a common year":  {func(p *registry.Policy) { p.Rotate, p.ValidFor = "0 3 1 1 *", days(365+30) }, "366d"},
		"leap days only":                    {func(p *registry.Policy) { p.Rotate, p.ValidFor = "0 3 29 2 *", days(731) }, "SP 800-57"},
		"a day that never comes":            {func(p *registry.Policy) { p.Rotate = "0 3 30 2 *" }, "SP 800-57"},
		"valid for more than two years":     {func(p *registry.Policy) { p.ValidFor = days(732) }, "SP 800-57"},
		"valid for nothing":                 {func(p *registry.Policy) { p.ValidFor = 0 }, "valid_for"},
		"valid for less than nothing":       {func(p *registry.Policy) { p.ValidFor = -1 }, "valid_for"},
		"no drain":                          {func(p *registry.Policy) { p.DrainFor = 0 }, "drain_for"},
		"settles before it begins":          {func(p *registry.Policy) { p.SettleFor = -1 }, "settle_for"},
		"settles after the next rotation":   {func(p *registry.Policy) { p.Rotate, p.SettleFor = "0 * * * *", registry.Duration(time.Hour) }, "settle_for"},
		"settles just before the next":      {func(p *registry.Policy) { p.Rotate, p.SettleFor = "0 * * * *", registry.Duration(time.Hour-1) }, ""},
		"no schedule":                       {func(p *registry.Policy) { p.Rotate = "" }, "five fields"},
		"with seconds":                      {func(p *registry.Policy) { p.Rotate = "0 0 3 1 1 *" }, "five fields"},
		"a descriptor":                      {func(p *registry.Policy) { p.Rotate = "@every 24h" }, "five fields"},
		"a time zone in one of five fields": {func(p *registry.Policy) { p.Rotate = "TZ=Asia/Tokyo 3 1 1 *" }, "five fields"},
		"a time zone":                       {func(p *registry.Policy) { p.Rotate = "CRON_TZ=Asia/Tokyo 0 3 1 1 *" }, "five fields"},
		"a minute that does not exist":      {func(p *registry.Policy) { p.Rotate = "60 3 1 1 *" }, "rotate"},
		"no canary policy":                  {func(p *registry.Policy) { p.Canary = "" }, "canary"},
		"unknown canary policy":             {func(p *registry.Policy) { p.Canary = "maybe" }, "canary"},
		"a floor":                           {func(p *registry.Policy) { p.MinBoundary = "sealed" }, ""},
		"an unknown floor":                  {func(p *registry.Policy) { p.MinBoundary = "deep" }, "min_boundary"},
	} {
		t.Run(name, func(t *testing.T) {
			p := quarterly()
			c.change(&p)
			err := rotation.ValidatePolicy(p)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("got %v, want no error", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("got %v, want an error about %s", err, c.want)
			}
		})
	}
}

func TestValidatePolicyReportsEverythingAtOnce(t *testing.T) {
	err := rotation.ValidatePolicy(registry.Policy{Rotate: "x", SettleFor: -1, MinBoundary: "x"})
	for _, field := range []string{"rotate", "valid_for", "drain_for", "settle_for", "canary", "min_boundary"} {
		if err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("got %v, want it to name %s", err, field)
		}
	}
}

func TestNextDueIsInUTC(t *testing.T) {
	tokyo := time.FixedZone("JST", 9*3600)
	at := time.Date(2027, 1, 1, 11, 59, 59, 0, tokyo) // 02:59:59 UTC
	got, err := rotation.NextDue(quarterly(), at)
	if want := time.Date(2027, 1, 1, 3, 0, 0, 0, time.UTC); err != nil || !got.Equal(want) || got.Location() != time.UTC {
		t.Errorf("got %v, %v, want %v", got, err, want)
	}
	next, err := rotation.NextDue(quarterly(), got)
	if want := time.Date(2027, 4, 1, 3, 0, 0, 0, time.UTC); err != nil || !next.Equal(want) {
		t.Errorf("got %v, %v, want %v: a firing is not its own next", next, err, want)
	}
	if _, err := rotation.NextDue(registry.Policy{Rotate: "nonsense"}, at); err == nil {
		t.Error("a schedule that cannot be read has no next firing")
	}
}
