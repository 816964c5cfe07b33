package main

import (
	"context"
	"flag"
	"os"
	"os/signal"
	"syscall"

	"keyd/internal/hsm"
	"keyd/internal/hsm/worker"
)

// workerProcess is how the daemon starts itself again for a token's module. It
// is the same binary even if the file has been replaced meanwhile.
func workerProcess(backend string) []string {
	return []string{"/proc/self/exe", os.Args[0], workerName, backend}
}

const workerName = "hsm-worker"

// workerCommand is the other side: a process that holds one PKCS#11 module.
func workerCommand() command {
	return command{name: workerName, args: "BACKEND", hidden: true, brief: "hold a PKCS#11 module for the daemon", setup: workerSetup,
		help: "Only keyd serve starts it. The backend's name is for whoever reads a list of\nprocesses; everything else comes over a pipe that the process inherits."}
}

func workerSetup(*flag.FlagSet) func(context.Context, terminal, []string) error {
	return func(ctx context.Context, t terminal, _ []string) error {
		// The daemon ends this process by closing the pipe, when the requests in
		// flight have finished. Whoever signals a whole group or cgroup must not
		// be faster.
		signal.Ignore(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
		if _, err := harden(); err != nil {
			return err
		}
		collectLess()
		conns, err := worker.Inherited()
		if err != nil {
			return err
		}
		return worker.Serve(ctx, conns, openToken, t.err)
	}
}

func openToken(ctx context.Context, cfg hsm.Config) (worker.Backend, error) {
	token, err := hsm.Open(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return token, nil
}
