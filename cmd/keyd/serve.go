package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// stopWithin bounds the end of the requests in flight, and then that of a
// rotation step; keyd.service allows for both.
const stopWithin = 25 * time.Second

func serveCommand() command {
	return command{name: "serve", brief: "run the daemon", setup: serveSetup,
		help: "Stops on SIGTERM or SIGINT: requests in flight finish, a rotation step finishes or\nis taken up again at the next start. Tells systemd when it is ready, and feeds its\nwatchdog. Exits with 78 when the config cannot work (a wrong PIN among them)."}
}

func serveSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	path := configFlag(fs)
	return func(ctx context.Context, t terminal, _ []string) error {
		cfg, err := loadConfig(*path)
		if err != nil {
			return &hintError{error: err, hint: "keyd check says the same without starting anything", code: exitConfig}
		}
		log := newLogger(cfg.Log, t.err)
		locked, err := harden()
		if err != nil {
			return err
		}
		if !locked {
			log.Warn("secrets in memory may be swapped out: RLIMIT_MEMLOCK is not unlimited (LimitMEMLOCK=infinity in the unit)")
		}
		collectLess()
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return serve(ctx, cfg, log)
	}
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, cfg *config, log *slog.Logger) (err error) {
	d, err := wire(ctx, cfg, log)
	if err != nil {
		return startError(err)
	}
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.server.Listen(); err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	failed := make(chan error, 2)
	go func() { failed <- d.server.Serve() }()
	engineDone := make(chan struct{})
	go func() {
		defer close(engineDone)
		if err := d.engine.Run(run); err != nil && run.Err() == nil {
			failed <- err
		}
	}()
	go watchdog(run, cfg.Listen.Client.Path, log)
	debug.FreeOSMemory() // what the start needed, the service does not
	notify(log, daemon.SdNotifyReady)
	log.Info("ready", "instance", cfg.Instance, "client_socket", cfg.Listen.Client.Path,
		"admin_socket", cfg.Listen.Admin.Path, "metrics", cfg.Listen.Metrics)

	select {
	case <-ctx.Done():
		log.Info("stopping: finishing what is in flight")
	case err = <-failed:
		log.Error("stopping: a part of the daemon failed", "err", err)
	}
	notify(log, daemon.SdNotifyStopping)
	grace, done := context.WithTimeout(context.Background(), stopWithin)
	defer done()
	cancel() // the engine ends with the step it is in, while requests finish
	err = errors.Join(err, d.server.Shutdown(grace))
	select {
	case <-engineDone:
	case <-time.After(stopWithin):
		log.Warn("a rotation step did not finish in time; it is taken up again at the next start")
	}
	log.Info("stopped")
	return err
}

// watchdog tells systemd that the daemon is alive as long as it answers a
// request on its own socket.
func watchdog(ctx context.Context, socket string, log *slog.Logger) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return
	}
	tick := time.NewTicker(interval / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := answers(ctx, socket, interval/3); err != nil {
				log.Error("not feeding the watchdog: no answer on our own socket", "err", err)
				continue
			}
			notify(log, daemon.SdNotifyWatchdog)
		}
	}
}

// answers asks for something that is not there: any answer will do.
func answers(ctx context.Context, socket string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://keyd/healthz", nil)
	if err != nil {
		return err
	}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	return answer.Body.Close()
}

func notify(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("telling systemd", "state", state, "err", err)
	}
}

// newLogger writes JSON for machines and text for a person at a terminal.
func newLogger(c logConfig, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: c.level()}
	if c.Format == "text" || c.Format == "" && isTerminal(w) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

func (c logConfig) level() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(c.Level)); err != nil {
		return slog.LevelInfo // validate has refused anything else
	}
	return level
}

func isTerminal(w io.Writer) bool {
	if o, wrapped := w.(*output); wrapped {
		w = o.w
	}
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
