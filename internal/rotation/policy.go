package rotation

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// What a canary must show before a version is named in requests.
const (
	CanaryOpen = "open" // the partner's answer opens under one of our versions
	CanaryKID  = "kid"  // and under the new one
	CanaryOff  = "off"
)

// How a key comes by its first version.
const (
	FirstMake  = "make"  // it is made and announced at once
	FirstAdopt = "adopt" // an operator adopts one that the partner knows already
)

// maxCryptoperiod is the longest that one RSA key transport key may be in use:
// NIST SP 800-57 part 1 rev. 5, section 5.3.6 and table 1, recommend at most
// two years for a private key-transport key.
const maxCryptoperiod = 731 * 24 * time.Hour

// ValidatePolicy reports everything about a policy that cannot work.
func ValidatePolicy(p registry.Policy) error {
	var problems []error
	bad := func(field, format string, args ...any) {
		problems = append(problems, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	validFor, drainFor, settleFor := time.Duration(p.ValidFor), time.Duration(p.DrainFor), time.Duration(p.SettleFor)
	if drainFor <= 0 {
		bad("drain_for", "%s: answers already on their way need an old version for some time", p.DrainFor)
	}
	if validFor <= 0 || validFor > maxCryptoperiod {
		bad("valid_for", "%s: want more than nothing and at most 731d, the longest a key transport key should be in use (NIST SP 800-57 part 1 §5.3.6)", p.ValidFor)
	}
	if settleFor < 0 {
		bad("settle_for", "%s: want no less than 0s", p.SettleFor)
	}
	switch p.Canary {
	case CanaryOpen, CanaryKID, CanaryOff:
	default:
		bad("canary", "%q: want open, kid or off", p.Canary)
	}
	switch p.First {
	case "", FirstMake, FirstAdopt:
	default:
		bad("first", "%q: want make or adopt", p.First)
	}
	if p.MinBoundary != "" {
		if _, err := boundary.ParseLevel(p.MinBoundary); err != nil {
			bad("min_boundary", "%v", err)
		}
	}
	schedule, err := parseSchedule(p.Rotate)
	if err != nil {
		bad("rotate", "%v", err)
		return errors.Join(problems...)
	}
	shortest, longest := gaps(schedule)
	switch {
	case longest == 0 || longest > maxCryptoperiod:
		bad("rotate", "%q leaves more than two years between rotations, the longest a key transport key should be in use (NIST SP 800-57 part 1 §5.3.6)", p.Rotate)
	case validFor > 0 && drainFor > 0 && validFor < longest+drainFor:
		bad("valid_for", "%s is too short: rotations are up to %s apart and a version drains for %s, so want at least %s",
			p.ValidFor, registry.Duration(longest), p.DrainFor, registry.Duration(longest+drainFor))
	}
	if settleFor > 0 && settleFor >= shortest {
		bad("settle_for", "%s: the next rotation would come before this one settles (%s)", p.SettleFor, registry.Duration(shortest))
	}
	return errors.Join(problems...)
}

// NextDue returns the schedule's first firing after a time, in UTC.
func NextDue(p registry.Policy, after time.Time) (time.Time, error) {
	schedule, err := parseSchedule(p.Rotate)
	if err != nil {
		return time.Time{}, fmt.Errorf("reading the schedule %q: %w", p.Rotate, err)
	}
	return schedule.Next(after.UTC()), nil
}

// parseSchedule takes five fields and nothing else: descriptors such as @every
// depend on when the daemon started, and a time zone would make two hosts
// disagree.
func parseSchedule(spec string) (cron.Schedule, error) {
	if len(strings.Fields(spec)) != 5 || strings.Contains(spec, "TZ=") {
		return nil, fmt.Errorf("%q: want five fields (minute hour day month weekday), in UTC", spec)
	}
	schedule, err := cron.ParseStandard(spec)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", spec, err)
	}
	return schedule, nil
}

// gaps returns the shortest and the longest time between two firings; 0 means
// that there are not two. It walks 28 years, after which weekdays fall on the
// same dates again, day by day: within a day, every day that fires is alike.
func gaps(s cron.Schedule) (shortest, longest time.Duration) {
	const day = 24 * time.Hour
	start := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	first := s.Next(start.Add(-time.Second))
	if first.IsZero() {
		return 0, 0
	}
	note := func(gap time.Duration) {
		longest = max(longest, gap)
		if shortest == 0 || gap < shortest {
			shortest = gap
		}
	}
	last := first // of the first day that fires
	for {
		t := s.Next(last)
		if t.IsZero() || !t.Truncate(day).Equal(first.Truncate(day)) {
			break
		}
		note(t.Sub(last))
		last = t
	}
	tail := last.Sub(first)
	for t := first; t.Before(start.AddDate(28, 0, 0)); {
		next := s.Next(t.Truncate(day).Add(day - time.Second))
		if next.IsZero() {
			break
		}
		note(next.Sub(t.Add(tail)))
		t = next
	}
	return shortest, longest
}
