package conformance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// order is what a process is told on its standard input, PIN and all.
type order struct {
	Group     string
	Module    string
	Token     string
	Serial    string
	Reserved  string
	Dir       string // for files, which whoever gives the order removes
	PIN       []byte
	Envelopes int
	Done      map[string]bool // checks not to be made again
}

// event is one line from a process.
type event struct {
	Begin  string            `json:"begin,omitempty"`
	Check  *Check            `json:"check,omitempty"`
	Device map[string]string `json:"device,omitempty"`
	Levels map[string]string `json:"levels,omitempty"`
	End    bool              `json:"end,omitempty"`
	Fatal  string            `json:"fatal,omitempty"`
	Kind   string            `json:"kind,omitempty"` // of a fatal one: pin, token
}

func (e *event) err() error {
	switch e.Kind {
	case "pin":
		return fmt.Errorf("%w: %s", ErrPIN, e.Fatal)
	case "token":
		return fmt.Errorf("%w: %s", ErrToken, e.Fatal)
	}
	return errors.New(e.Fatal)
}

// process makes the checks of one group.
type process struct {
	ctx      context.Context
	cmd      *exec.Cmd
	events   chan event
	ended    chan error
	finished bool // it has said everything; set before events is closed
	hung     atomic.Bool
	timer    *time.Timer
	stderr   tail
}

func (c *Config) start(ctx context.Context, g string, done map[string]bool) (*process, error) {
	told, err := json.Marshal(order{g, c.Module, c.Token, c.Serial, c.Reserved, c.dir, c.PIN, c.Envelopes, done})
	if err != nil {
		return nil, err
	}
	p := &process{ctx: ctx, cmd: exec.CommandContext(ctx, c.Command[0]), events: make(chan event), ended: make(chan error, 1)} // #nosec G204 -- keyd itself
	p.cmd.Args, p.cmd.Env = c.Command[1:], c.Env
	p.cmd.Stdin = bytes.NewReader(told)
	p.cmd.Stderr = &p.stderr // modules write there what they like
	// It ends with this process; a terminal's interrupt reaches only this one, so
	// that what is in the token can be cleared away.
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) } // see Serve
	p.cmd.WaitDelay = c.Limit
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		// prctl(2): the signal comes when the thread ends that started the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer clear(told)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.read(out)
			p.ended <- p.cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting a process for the module: %w", err)
	}
	p.timer = time.AfterFunc(c.Limit, p.hangs)
	return p, nil
}

// began gives the process time for the next check.
func (p *process) began(limit time.Duration) { p.timer.Reset(limit) }

func (p *process) hangs() {
	p.hung.Store(true)
	_ = p.kill() // it may just have ended
}

// kill ends the process, and what the module may have started.
func (p *process) kill() error { return syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) }

// mark begins a line that is ours: a module that writes on standard output must
// not be taken for us.
const mark = "keyd-conformance "

func (p *process) read(out io.Reader) {
	defer close(p.events)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text, ours := strings.CutPrefix(lines.Text(), mark)
		var e event
		if ours && json.Unmarshal([]byte(text), &e) == nil {
			p.finished = p.finished || e.End
			p.events <- e
		}
	}
}

func (p *process) wait() error {
	err := <-p.ended
	p.timer.Stop()
	if err != nil {
		return fmt.Errorf("%w: %s", err, p.stderr.last())
	}
	return nil
}

// verdict is for the check that the process did not outlive.
func (p *process) verdict(group, check string) Check {
	c := Check{Group: group, Name: check, Verdict: Crash, Seen: p.cmd.ProcessState.String()}
	if p.hung.Load() {
		c.Verdict, c.Seen = Hang, "it did not come back"
	} else if said := p.stderr.last(); said != "" {
		c.Seen += ": " + said
	}
	return c
}

// tail keeps the beginning and the end of what is written to it: a crash says
// what it is first, and much after that.
type tail struct {
	mu          sync.Mutex
	first, rest []byte // guarded by mu
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(b), 4<<10-len(t.first))
	t.first = append(t.first, b[:n]...)
	t.rest = append(t.rest, b[n:]...)
	if len(t.rest) > 8<<10 {
		t.rest = slices.Delete(t.rest, 0, len(t.rest)-4<<10)
	}
	return len(b), nil
}

// last is the line that says most: the first of a Go crash, or the last of all.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.first)+string(t.rest)), "\n")
	for _, begins := range []string{"[signal SIG", "SIG", "fatal error", "panic:"} {
		for _, line := range lines {
			if strings.HasPrefix(line, begins) {
				return strings.Trim(line, "[] \r")
			}
		}
	}
	return strings.TrimSpace(lines[len(lines)-1])
}
