package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

const callersName = "bench-callers"

// callersCommand is the process of those who call the daemon that is measured.
func callersCommand() command {
	return command{name: callersName, args: "SOCKET", hidden: true, brief: "call a daemon for keyd bench", setup: callersSetup,
		help: "Only keyd bench starts it. Orders come as JSON on standard input, one at a time."}
}

// benchOrder is what the callers are told to do, benchDone what they did.
type benchOrder struct {
	Envelope string
	Callers  int
	For      time.Duration
	Bytes    int // of the plaintext that must come back
}

type benchDone struct {
	Took []time.Duration
	Err  string `json:",omitempty"`
}

func callersSetup(*flag.FlagSet) func(context.Context, terminal, []string) error {
	return func(_ context.Context, t terminal, args []string) error {
		orders, answers := json.NewDecoder(t.in), json.NewEncoder(t.out)
		c := callers{socket: args[0]}
		for {
			var order benchOrder
			if err := orders.Decode(&order); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("reading an order: %w", err)
			}
			took, err := c.run(order)
			done := benchDone{Took: took}
			if err != nil {
				done.Err = err.Error()
			}
			if err := answers.Encode(done); err != nil {
				return fmt.Errorf("answering: %w", err)
			}
		}
	}
}

// callers keep their connections from one order to the next.
type callers struct {
	socket string
	all    []*caller
}

type caller struct {
	conn net.Conn
	in   *bufio.Reader
}

func (c *callers) run(order benchOrder) (all []time.Duration, err error) {
	for len(c.all) < order.Callers {
		conn, err := net.Dial("unix", c.socket)
		if err != nil {
			return nil, err
		}
		c.all = append(c.all, &caller{conn: conn, in: bufio.NewReader(conn)})
	}
	request := fmt.Appendf(nil, "POST /v1/partners/%s/decrypt HTTP/1.1\r\nHost: keyd\r\nContent-Length: %d\r\n\r\n%s", benchPartner, len(order.Envelope), order.Envelope)
	var wg sync.WaitGroup
	var mu sync.Mutex
	end := time.Now().Add(order.For)
	for _, one := range c.all[:order.Callers] {
		wg.Go(func() {
			var mine []time.Duration
			var failed error
			for start := time.Now(); start.Before(end) && failed == nil; start = time.Now() {
				if failed = one.call(request, order.Bytes); failed == nil {
					mine = append(mine, time.Since(start))
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all, err = append(all, mine...), errors.Join(err, failed)
		})
	}
	wg.Wait()
	return all, err
}

// call is one request, written and read by hand: what the caller's own HTTP
// client costs is not keyd's.
func (c *caller) call(request []byte, want int) error {
	if _, err := c.conn.Write(request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close() // the connection is kept by itself
	if err != nil || answer.StatusCode != http.StatusOK || len(body) != want {
		return fmt.Errorf("%s with %d bytes: %.200q, %w", answer.Status, len(body), body, err)
	}
	return nil
}

// benchCallers is their process, seen from bench.
type benchCallers struct {
	process *exec.Cmd
	orders  io.WriteCloser
	answers *json.Decoder
}

// startCallers starts them in a process of their own, as backends are.
func startCallers(socket string) (*benchCallers, error) {
	// In a process group of their own: an interrupt is for bench, which ends them.
	c := &benchCallers{process: &exec.Cmd{Path: "/proc/self/exe", Args: []string{os.Args[0], callersName, socket}, Env: []string{},
		Stderr: os.Stderr, SysProcAttr: &syscall.SysProcAttr{Setpgid: true}}}
	var err error
	if c.orders, err = c.process.StdinPipe(); err != nil {
		return nil, err
	}
	answers, err := c.process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.answers = json.NewDecoder(answers)
	if err := c.process.Start(); err != nil {
		return nil, fmt.Errorf("starting the callers: %w", err)
	}
	return c, nil
}

func (c *benchCallers) run(order benchOrder) ([]time.Duration, error) {
	var done benchDone
	err := json.NewEncoder(c.orders).Encode(order)
	if err == nil {
		err = c.answers.Decode(&done)
	}
	if err == nil && done.Err != "" {
		err = errors.New(done.Err)
	}
	if err != nil {
		return nil, fmt.Errorf("the callers: %w", err)
	}
	return done.Took, nil
}

func (c *benchCallers) close() error {
	return errors.Join(c.orders.Close(), c.process.Wait())
}
