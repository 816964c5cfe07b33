package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Serve makes the checks of one group in this process, as in says, and tells of
// them on out. When ctx is done it ends as soon as what is in the token can be
// destroyed: a process that ends in the middle of a key generation leaves half of a
// key, and some modules leave it without a name.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(io.LimitReader(in, 1<<20)).Decode(&o); err != nil {
		return fmt.Errorf("reading what to do: %w", err)
	}
	defer clear(o.PIN)
	w := &writer{out: out}
	for _, g := range groups {
		if g.name == o.Group {
			return g.serve(ctx, o, w)
		}
	}
	return fmt.Errorf("no group %q", o.Group)
}

type writer struct {
	out io.Writer
	err error
}

func (w *writer) tell(e event) {
	raw, err := json.Marshal(e)
	if err == nil {
		_, err = fmt.Fprintf(w.out, "%s%s\n", mark, raw)
	}
	w.err = errors.Join(w.err, err)
}

func (g group) serve(ctx context.Context, o order, w *writer) error {
	w.tell(event{Begin: opening})
	l, err := newLab(ctx, o)
	if f, ok := errors.AsType[*fatalError](err); ok {
		w.tell(event{Fatal: f.Error(), Kind: f.kind})
		return w.err
	}
	if err != nil {
		return err
	}
	w.tell(event{Device: l.device})
	for _, c := range g.checks {
		if o.Done[c.name] || l.stopped() {
			continue
		}
		w.tell(event{Begin: c.name})
		l.check = c.name
		began := time.Now()
		r := c.run(l)
		r.Group, r.Name, r.Codes = g.name, c.name, l.codes
		r.Took = time.Since(began).Round(time.Millisecond).String()
		l.codes = nil
		w.tell(event{Check: &r, Levels: l.levels})
	}
	l.destroy()
	w.tell(event{End: true})
	l.close()
	return w.err
}
