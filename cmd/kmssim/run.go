package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// run serves until ctx ends. addr-file holds the URL while it does.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	fs := flag.NewFlagSet("kmssim", flag.ContinueOnError)
	fs.SetOutput(stderr)
	address := fs.String("listen", "127.0.0.1:0", "loopback `address` to listen on")
	addrFile := fs.String("addr-file", "", "`file` that holds the URL while kmssim listens")
	region := fs.String("region", "eu-central-1", "AWS `region` it pretends to be in")
	if err := fs.Parse(args); err != nil {
		return 2
	}
	if err := serve(ctx, *address, *addrFile, *region, stdout); err != nil {
		_, _ = fmt.Fprintln(stderr, "kmssim:", err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, address, addrFile, region string, stdout io.Writer) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return err
	}
	if ip, ok := listener.Addr().(*net.TCPAddr); !ok || !ip.IP.IsLoopback() {
		return errors.Join(fmt.Errorf("%s: other hosts could reach it; use a loopback address", listener.Addr()), listener.Close())
	}
	url := "http://" + listener.Addr().String()
	if addrFile != "" {
		if err := os.WriteFile(addrFile, []byte(url), 0o600); err != nil {
			return errors.Join(err, listener.Close())
		}
		defer func() { _ = os.Remove(addrFile) }()
	}
	if _, err := fmt.Fprintln(stdout, "listening on", url); err != nil {
		return errors.Join(err, listener.Close())
	}
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: handler(region)}
	go func() {
		<-ctx.Done()
		_ = server.Close() // it holds nothing that would be lost
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
