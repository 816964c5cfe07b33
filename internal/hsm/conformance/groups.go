package conformance

import (
	"errors"
	"strings"
)

// group is checks that one process makes.
type group struct {
	name   string
	checks []check
}

// check is one of them.
type check struct {
	name string
	run  func(l *lab) Check
}

// groups are all, in order. The last looks whether anything was left behind.
var groups = []group{
	{"keys", keyChecks},
	{"mechanisms", mechanismChecks},
	{"refusals", refusalChecks},
	{"attributes", attributeChecks},
	{"sessions", sessionChecks},
	{"threads", threadChecks},
	{"dangers", dangerChecks},
	{"keyd", keydChecks},
	{last, []check{{"nothing is left behind", leftBehind}}},
}

// lacks is for what did not work: the module says why.
func (l *lab) lacks(when string, err error) Check {
	return Check{Verdict: Lacks, Seen: l.said(when, err)}
}

// errWrong: it worked, and what came out is not right.
var errWrong = errors.New("the result is wrong")

// unlisted is for what is more, or less, than a mechanism.
const unlisted = ^uint(0)

// does is for something that works or does not. A wrong result is a failure.
func (l *lab) does(mechanism uint, err error) Check {
	c := Check{Verdict: Pass}
	switch {
	case errors.Is(err, errWrong):
		return fail("%v", err)
	case err != nil:
		c = Check{Verdict: Lacks, Seen: l.said(l.check, err)}
	}
	// The list is wrong in both directions: some do what they do not list, and the
	// reverse.
	if listed := l.listed[mechanism]; mechanism != unlisted && listed != (err == nil) {
		c.Seen = strings.TrimSpace(c.Seen + map[bool]string{true: " (listed all the same)", false: " (not listed)"}[listed])
	}
	return c
}

// cannot is for a check that needs a key which the token does not make.
func cannot(err error) Check { return skip("no such key: %s", name(err)) }
