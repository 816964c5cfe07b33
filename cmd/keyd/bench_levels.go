package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"keyd/internal/bench"
	"keyd/internal/boundary"
)

// levelsAsked are those of --level. Without it there is one, the deepest.
func (o benchOptions) levelsAsked() (levels []boundary.Level, err error) {
	if o.level == "" {
		return []boundary.Level{""}, nil
	}
	content, known := boundary.ContentOf(o.enc)
	for name := range strings.SplitSeq(o.level, ",") {
		level, wrong := boundary.ParseLevel(strings.TrimSpace(name))
		switch {
		case wrong != nil:
			wrong = fmt.Errorf("--level %q: want raw, unwrap or sealed", name)
		case level == boundary.Sealed && known && !content.AEAD():
			wrong = fmt.Errorf("--level sealed: is for GCM, and --enc is %s", o.enc)
		}
		levels, err = append(levels, level), errors.Join(err, wrong)
	}
	return levels, err
}

// aboveFloor holds the levels against the backend's floor: what the config rules
// out, bench does not do either.
func (p *benchPlan) aboveFloor() error {
	floor := boundary.Level(p.cfg.Backends[p.backend].MinBoundary)
	for _, level := range p.levels {
		if level != "" && !level.AtLeast(floor) {
			return hint(fmt.Errorf("--level %s: min_boundary of backend %s is %s", level, p.backend, floor), "measure it with a config that has no min_boundary")
		}
	}
	return nil
}

// byKey has the levels of a key stand together.
func (p *benchPlan) byKey(a, b bench.Run) int {
	at := func(r bench.Run) int {
		return slices.IndexFunc(p.materials, func(m boundary.Material) bool { return materialName(m) == r.Key })
	}
	return at(a) - at(b)
}

// at measures every key at one level, with a daemon for this alone.
func (p *benchPlan) at(ctx context.Context, t terminal, level boundary.Level, report *benchReport) (err error) {
	dir, err := os.MkdirTemp("", "keyd-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	rig, err := p.open(ctx, dir, level)
	if err != nil {
		return startError(err)
	}
	defer func() { err = errors.Join(err, rig.close(t.err)) }()
	report.Device = rig.device
	for _, m := range p.materials {
		runs, err := rig.measure(ctx, t.err, m)
		report.Runs = append(report.Runs, runs...)
		switch {
		case errors.Is(err, boundary.ErrUnsupported):
			fmt.Fprintf(t.err, "%s: this token cannot: %v\n", materialName(m), err)
		case ctx.Err() != nil:
			return errors.New("interrupted")
		case err != nil:
			return fmt.Errorf("%s: %w", materialName(m), err)
		}
	}
	return nil
}
