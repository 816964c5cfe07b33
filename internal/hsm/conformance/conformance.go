// Package conformance finds out what a PKCS #11 module does, by doing it: every
// mechanism that keyd can use, what it refuses and with which codes, whether it
// keeps to the attributes that it is asked for, what becomes of sessions, threads
// and memory.
//
// It is a second opinion, and speaks with the binding: only the last of its groups
// has package hsm, keyd's own path, run on the module. Every group runs in a
// process of its own, so that a module which crashes or hangs is found to do so,
// and nothing that it holds outlives that.
package conformance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// Config says which token to try.
type Config struct {
	Module string // absolute path
	Token  string // its label
	Serial string // its serial number, where there are several of that label
	// Reserved is for C_Initialize.
	Reserved string
	PIN      []byte
	// Only are the groups to run, or single checks of theirs ("group/check"); empty
	// for all.
	Only []string
	// Envelopes is how many of a kind are sent to see whether memory grows.
	Envelopes int
	// Limit is how long one check may take before the module is taken to hang.
	Limit time.Duration

	// Command starts the process of a group, which comes to Serve, and Env is all
	// of its environment.
	Command, Env []string
	// Progress is told what is done.
	Progress func(group, check string)

	dir string // for files
}

// Report is everything.
type Report struct {
	At     time.Time         `json:"at"`
	Module string            `json:"module"`
	Device map[string]string `json:"device"` // label, serial, model, manufacturer, firmware, library
	// Levels are those at which keyd works with the token, by key algorithm.
	Levels map[string]string `json:"levels"`
	Checks []Check           `json:"checks"`
	Codes  []Meaning         `json:"codes"`
}

// ErrPIN: the token did not take the PIN, or one more wrong one would lock it.
// Nothing else was tried.
var ErrPIN = errors.New("the token's PIN")

// ErrToken: there is no such module or token.
var ErrToken = errors.New("the token was not found")

// ErrModule: the module does not come as far as a login. Whether it showed the
// token the PIN is not known.
var ErrModule = errors.New("the module cannot be used")

// errStop: the token was there, and no group comes after this one.
var errStop = errors.New("the token does not open any more")

// Groups are the names of the groups, in their order.
func Groups() []string {
	var names []string
	for _, g := range groups {
		names = append(names, g.name)
	}
	return names
}

// last is the group that is never left out: it looks whether anything was left
// behind.
const last = "afterwards"

// Run tries everything. That the token does something badly is no error. However
// it ends, what it made in the token is cleared away.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	if cfg.dir, err = os.MkdirTemp("", "keyd-conformance-"); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(cfg.dir)) }()
	cfg.Envelopes = cmp.Or(cfg.Envelopes, 2000)
	cfg.Limit = cmp.Or(cfg.Limit, 2*time.Minute)
	report := &Report{At: time.Now().UTC(), Module: cfg.Module, Levels: map[string]string{}, Checks: []Check{}}
	for _, g := range groups[:len(groups)-1] {
		if err = cfg.group(ctx, g, report); err != nil {
			break
		}
	}
	// Nothing is to stay, unless the token was never opened. A PIN that has become
	// wrong is not shown again.
	if err == nil || report.Device != nil && !errors.Is(err, ErrPIN) {
		if after := cfg.group(context.WithoutCancel(ctx), groups[len(groups)-1], report); err == nil {
			err = after
		}
	}
	if ctx.Err() != nil {
		return nil, report.interrupted()
	}
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	report.Codes = meanings(report.Checks)
	return report, nil
}

// group runs one group. After a check that the process did not outlive, another
// process goes on with the next.
func (c *Config) group(ctx context.Context, g group, report *Report) error {
	done := map[string]bool{}
	for _, check := range g.checks {
		if !c.wants(g.name, check.name) {
			done[check.name] = true
		}
	}
	for len(done) < len(g.checks) {
		p, err := c.start(ctx, g.name, done)
		if err != nil {
			return err
		}
		at, err := c.follow(p, g, report, done)
		switch {
		case err != nil || at == "":
			return err
		case at == opening && report.Device == nil:
			v := p.verdict(g.name, at)
			return fmt.Errorf("%w: it %s before the token was open: %s", ErrModule, map[Verdict]string{Hang: "hung", Crash: "crashed"}[v.Verdict], v.Seen)
		}
		done[at] = true
		report.Checks = append(report.Checks, p.verdict(g.name, at))
		if at == opening {
			return errStop
		}
	}
	return nil
}

// interrupted says what has become of the keys.
func (r *Report) interrupted() error {
	if n := len(r.Checks); n > 0 && r.Checks[n-1].Group == last && !r.Checks[n-1].Verdict.Bad() {
		return errors.New("interrupted; what was made in the token is cleared away")
	}
	return fmt.Errorf("interrupted; keys labelled %s… or %s… may be left in the token: --only %s clears them away", labelPrefix, keydLabels, last)
}

func (c *Config) wants(group, check string) bool {
	return len(c.Only) == 0 || group == last || slices.Contains(c.Only, group) || slices.Contains(c.Only, group+"/"+check)
}

// opening is what a process does first.
const opening = "opening the token"

// follow takes in what a process says until it ends, and returns the check that
// it was at if it did not end well.
func (c *Config) follow(p *process, g group, report *Report, done map[string]bool) (unfinished string, err error) {
	var fatal *event
	for e := range p.events {
		switch {
		case e.Fatal != "":
			unfinished, fatal = "", &e
		case e.Begin != "":
			unfinished = e.Begin
			p.began(c.Limit)
			if c.Progress != nil && e.Begin != opening {
				c.Progress(g.name, e.Begin)
			}
		case e.Check != nil:
			unfinished = ""
			done[e.Check.Name] = true
			report.Checks = append(report.Checks, *e.Check)
		}
		if e.Device != nil {
			report.Device = e.Device
		}
		maps.Copy(report.Levels, e.Levels)
	}
	err = p.wait()
	switch {
	case fatal != nil && report.Device != nil && fatal.Kind != "pin":
		report.Checks = append(report.Checks, Check{Group: g.name, Name: opening, Verdict: Fail, Seen: fatal.Fatal})
		return "", errStop
	case fatal != nil:
		return "", fatal.err()
	case p.ctx.Err() != nil:
		return "", p.ctx.Err()
	case err != nil && unfinished == "" && p.finished:
		return "", nil // it crashed on its way out, when everything was said
	case err != nil && unfinished == "":
		return "", fmt.Errorf("the process of the group %s: %w", g.name, err)
	}
	return unfinished, nil
}
