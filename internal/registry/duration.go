package registry

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

const day = 24 * time.Hour

// String prints days, and then what is left as time.Duration does, without the
// zeros at its end: "30d", "1d12h", "1h30m".
func (d Duration) String() string {
	days, rest := time.Duration(d)/day, time.Duration(d)%day
	if days == 0 {
		return short(rest)
	}
	s := strconv.FormatInt(int64(days), 10) + "d"
	if rest != 0 {
		s += strings.TrimPrefix(short(rest), "-")
	}
	return s
}

// short is a duration without the zeros that time.Duration prints after it.
func short(d time.Duration) string {
	s := d.String()
	if d != 0 && d%time.Minute == 0 {
		s = strings.TrimSuffix(s, "0s")
	}
	if d != 0 && d%time.Hour == 0 {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText prints it for JSON and YAML.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads whole days, or what time.ParseDuration reads, or both:
// "30d", "36h", "1d12h". A number without a unit is refused.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := parseDuration(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

func parseDuration(s string) (Duration, error) {
	bad := fmt.Errorf(`%w: %q is no duration; write it as "30d", "36h" or "1d12h"`, ErrInvalid, s)
	number, rest, hasDays := strings.Cut(s, "d")
	if !hasDays {
		d, err := time.ParseDuration(s)
		if err != nil {
			return 0, bad
		}
		return Duration(d), nil
	}
	magnitude, negative := strings.CutPrefix(number, "-")
	days, err := strconv.ParseUint(magnitude, 10, 32)
	if err != nil || days > uint64(math.MaxInt64/day) {
		return 0, bad
	}
	var left time.Duration
	if rest != "" {
		if left, err = time.ParseDuration(rest); err != nil || strings.ContainsAny(rest[:1], "+-") {
			return 0, bad
		}
	}
	sum, limit := days*uint64(day)+uint64(left), uint64(math.MaxInt64)
	if negative {
		limit++
	}
	if sum > limit {
		return 0, bad
	}
	if negative {
		return Duration(-sum), nil // wraps to the negative number, the least one too
	}
	return Duration(sum), nil
}
