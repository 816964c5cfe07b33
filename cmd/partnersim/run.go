package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"keyd/internal/partner/partnersim"
)

// shutdownGrace is how long calls in progress may still take after a signal.
const shutdownGrace = 3 * time.Second

// Exit codes.
const (
	exitOK    = 0
	exitError = 1
	exitUsage = 2
)

// run is the program: it returns when ctx ends or a signal asks it to.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	logger := log.New(stderr, "partnersim: ", 0)
	cfg, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return exitOK
	case err != nil:
		logger.Print(err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, cfg, stdout, logger); err != nil {
		logger.Print(err)
		return exitError
	}
	return exitOK
}

// serve listens, says where, and answers until ctx ends.
func serve(ctx context.Context, cfg config, stdout io.Writer, logger *log.Logger) error {
	listener, base, err := cfg.listen(ctx)
	if err != nil {
		return err
	}
	sim := partnersim.New(cfg.options)
	server := &http.Server{
		Handler:           sim,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          logger,
	}
	server.RegisterOnShutdown(sim.Release) // calls that hang would outlast any grace
	if _, err := fmt.Fprintln(stdout, "listening on", base); err != nil {
		return errors.Join(fmt.Errorf("saying where it listens: %w", err), listener.Close())
	}
	if cfg.options.ClientSecret == partnersim.DemoClientSecret {
		logger.Printf("demo credentials, not for production: client %q, secret %q", cfg.options.ClientID, cfg.options.ClientSecret)
	}
	if cfg.addrFile != "" {
		if err := publish(cfg.addrFile, base); err != nil {
			return errors.Join(err, listener.Close())
		}
		defer func() { _ = os.Remove(cfg.addrFile) }() // it names a port nobody listens on any more
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving on %s: %w", base, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		logger.Printf("cutting calls off: %v", err)
		return server.Close()
	}
	return nil
}

// publish writes the base address to a file that appears whole or not at all.
func publish(path, base string) error {
	temp := path + ".new"
	if err := os.WriteFile(temp, []byte(base+"\n"), 0o644); err != nil {
		return fmt.Errorf("writing the address file: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return errors.Join(fmt.Errorf("writing the address file: %w", err), os.Remove(temp))
	}
	return nil
}

// loopback resolves address and refuses what other hosts can reach.
func loopback(address string, anywhere bool) (*net.TCPAddr, error) {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("resolving -listen %q: %w", address, err)
	}
	if !addr.IP.IsLoopback() && !anywhere {
		return nil, fmt.Errorf("-listen %q can be reached from other hosts; "+
			"this is a simulator with no protection (-allow-other-hosts if it must be)", address)
	}
	return addr, nil
}
