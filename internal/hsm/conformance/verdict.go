package conformance

import "fmt"

// Verdict is what a check came to.
type Verdict string

const (
	// Pass: as keyd wants it.
	Pass Verdict = "pass"
	// Lacks: it is not there, and keyd does without.
	Lacks Verdict = "lacks"
	// Quirk: not as the standard has it, or as one would think; keyd gets over it.
	Quirk Verdict = "quirk"
	// Fail: not as it must be, and whoever uses the token has to know.
	Fail Verdict = "fail"
	// Crash: it took the process with it.
	Crash Verdict = "crash"
	// Hang: it did not come back.
	Hang Verdict = "hang"
	// Skip: what it needs is not there.
	Skip Verdict = "skip"
)

// Bad reports whether a person should look at it.
func (v Verdict) Bad() bool { return v == Fail || v == Crash || v == Hang }

// Check is one thing that was tried.
type Check struct {
	Group   string  `json:"group"`
	Name    string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	Seen    string  `json:"seen,omitempty"`  // for people
	Codes   []Code  `json:"codes,omitempty"` // what the module said
	Took    string  `json:"took,omitempty"`
}

// Code is a return code and when it was said.
type Code struct {
	When   string `json:"when"`
	Code   string `json:"code"`
	Number uint   `json:"number"`
}

// Bad are the checks that a person should look at.
func (r *Report) Bad() []Check {
	var bad []Check
	for _, c := range r.Checks {
		if c.Verdict.Bad() {
			bad = append(bad, c)
		}
	}
	return bad
}

func pass(format string, args ...any) Check {
	return Check{Verdict: Pass, Seen: fmt.Sprintf(format, args...)}
}

func quirk(format string, args ...any) Check {
	return Check{Verdict: Quirk, Seen: fmt.Sprintf(format, args...)}
}

func fail(format string, args ...any) Check {
	return Check{Verdict: Fail, Seen: fmt.Sprintf(format, args...)}
}

func skip(format string, args ...any) Check {
	return Check{Verdict: Skip, Seen: fmt.Sprintf(format, args...)}
}
