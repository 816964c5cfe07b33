package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/rotation"
)

// benchRig is a daemon for this alone, with callers.
type benchRig struct {
	*keyd
	plan    *benchPlan
	token   benchToken
	callers *benchCallers
	device  map[string]string
	library int // the process that the module is in
	served  chan error
	handles []string // of keys that stand in the token
}

// benchToken is a backend that can be measured.
type benchToken interface {
	rotation.Backend
	Bare(ctx context.Context, handle string, env *boundary.Envelope, sessions int, d time.Duration) ([]time.Duration, error)
}

// open makes a daemon in a folder and starts it.
func (p *benchPlan) open(ctx context.Context, dir string, level boundary.Level) (_ *benchRig, err error) {
	me := strconv.Itoa(os.Getuid())
	p.cfg.StateDir = filepath.Join(dir, "state")
	p.cfg.Listen = listenConfig{Metrics: "off", Client: socketConfig{Path: filepath.Join(dir, "keyd.sock"), Mode: "0600"},
		Admin: socketConfig{Path: filepath.Join(dir, "admin.sock"), Mode: "0600"}}
	p.cfg.Roles.Clients = []clientConfig{{Partner: benchPartner, whoConfig: whoConfig{Users: []string{me}}}}
	p.cfg.Limits.Envelope = 4 << 20
	p.cfg.only = level
	b := p.cfg.Backends[p.backend]
	b.Sessions = slices.Max(p.callers)
	p.cfg.Backends[p.backend] = b
	p.cfg.setDefaults()
	if err := errors.Join(p.cfg.validate(), os.Mkdir(p.cfg.StateDir, 0o700)); err != nil {
		return nil, fmt.Errorf("setting up: %w", err)
	}
	d, err := wire(ctx, p.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	r := &benchRig{keyd: d, plan: p, served: make(chan error, 1)}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	r.token = d.backends[p.backend].(benchToken) // every PKCS#11 token is one
	health := r.token.Health(ctx)
	if health.Err != "" || health.Process == nil {
		return nil, fmt.Errorf("the token is not usable: %s", health.Err)
	}
	r.device, r.library = health.Device, health.Process.PID
	if err := r.leftovers(ctx); err != nil {
		return nil, err
	}
	if r.callers, err = startCallers(p.cfg.Listen.Client.Path); err != nil {
		return nil, err
	}
	if p.apart {
		err = apart(r.library, os.Getpid(), r.callers.process.Process.Pid)
	}
	if err == nil {
		err = d.server.Listen()
	}
	if err != nil {
		return nil, errors.Join(err, r.callers.close())
	}
	go func() { r.served <- d.server.Serve() }()
	return r, nil
}

// leftovers refuses to begin where a bench that was killed left its keys, so
// that nobody destroys what is another bench's.
func (r *benchRig) leftovers(ctx context.Context) error {
	all, err := r.token.List(ctx)
	if err != nil {
		return fmt.Errorf("looking for keys of an earlier bench: %w", err)
	}
	var left []string
	for _, f := range all {
		if f.Managed {
			left = append(left, f.Label)
		}
	}
	if len(left) > 0 {
		return hint(fmt.Errorf("the token has keys of another bench: %s", strings.Join(left, ", ")),
			"if none is running, one was killed: destroy them with your vendor's tool, such as pkcs11-tool --delete-object --type privkey --label LABEL (and --type pubkey)")
	}
	return nil
}

// close destroys every key that was made and stops everything.
func (r *benchRig) close(w io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	errs := []error{r.callers.close(), r.server.Shutdown(ctx), <-r.served}
	for _, handle := range r.handles {
		if gone, err := r.token.Destroy(ctx, handle); err != nil || !gone {
			errs = append(errs, fmt.Errorf("the key %s could not be destroyed and is still in the token: %w", handle, err))
		}
	}
	if len(r.handles) > 0 && errors.Join(errs...) == nil {
		fmt.Fprintf(w, "destroyed the %d keys that were made\n", len(r.handles))
	}
	return errors.Join(append(errs, r.keyd.close())...)
}
