package worker

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A worker finds its end of the pipe at the descriptor pipeFD, and those of its
// lines at the ones that follow; linesVariable says how many these are.
const (
	pipeFD        = 3
	linesVariable = "KEYD_WORKER_LINES"
)

// Inherited are the connections to the daemon that this process was started
// with: the pipe and then its lines. A line carries one call at a time and is one
// goroutine's, so that one waits in the kernel until a call comes: to have Go's
// poller wait for it takes two more system calls.
func Inherited() ([]Conn, error) {
	lines, err := strconv.Atoi(os.Getenv(linesVariable))
	if err != nil || lines < 0 || lines > maxLines {
		return nil, errors.New("there is no pipe to the daemon: keyd serve starts a worker, nobody else")
	}
	file := os.NewFile(pipeFD, "daemon")
	pipe, err := net.FileConn(file) // which has a descriptor of its own
	if err != nil {
		return nil, fmt.Errorf("the pipe to the daemon: %w", err)
	}
	if err := file.Close(); err != nil {
		return nil, fmt.Errorf("closing the pipe's first descriptor: %w", err)
	}
	conns := []Conn{pipe}
	for n := range lines {
		fd := pipeFD + 1 + n
		if err := unix.SetNonblock(fd, false); err != nil {
			return nil, fmt.Errorf("a line to the daemon: %w", err)
		}
		unix.CloseOnExec(fd)
		conns = append(conns, os.NewFile(uintptr(fd), "daemon's line")) // #nosec G115 -- a few more than 3
	}
	return conns, nil
}

// process is a worker as the kernel sees it.
type process struct {
	pid   int
	conn  net.Conn
	lines []net.Conn
	ended chan struct{} // closed when it has ended
	end   error         // how, then
	cmd   *exec.Cmd
}

// spawn starts a worker. It gets no descriptor but the pipe, its lines and
// somewhere to write its log, no environment but env, dies with this process, and is in a
// process group of its own, so that a terminal's interrupt does not reach it
// before the requests in flight have finished.
func spawn(command, env []string, lines int, log *slog.Logger) (_ *process, err error) {
	ours, theirs, err := socketPairs(1 + lines)
	defer closeAll(theirs) // the worker has its own
	defer func() {
		if err != nil {
			closeAll(ours)
		}
	}()
	if err != nil {
		return nil, err
	}
	said, says, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	defer func() { _ = says.Close() }()
	p := &process{conn: ours[0], lines: ours[1:], ended: make(chan struct{})}
	p.cmd = &exec.Cmd{Path: command[0], Args: command[1:], Env: append([]string{processors(lines)}, append(env, fmt.Sprintf("%s=%d", linesVariable, lines))...), Stdout: says, Stderr: says, ExtraFiles: theirs,
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}}
	started := make(chan error)
	go func() {
		// prctl(2): the signal comes when the thread ends that started the worker,
		// so this one stays for as long as the worker does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := withSlack(p.cmd.Start)
		started <- err
		if err != nil {
			return
		}
		p.end = p.cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		_ = said.Close()
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	p.pid = p.cmd.Process.Pid
	go relay(said, log.With("worker", p.pid))
	return p, nil
}

// slack is how late the kernel may wake a worker that sleeps for a while. Go's
// monitor thread wakes every 70 µs as long as anything goes on, and with envelopes
// of half a millisecond that is up to a sixth of all that a worker does.
const slack = time.Millisecond

// withSlack calls start with the calling thread, which is the caller's own, giving
// slack to what it starts: threads and processes have it from the thread that made
// them (PR_SET_TIMERSLACK(2const)). Where that cannot be set, all goes on without.
func withSlack(start func() error) error {
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(slack.Nanoseconds()), 0, 0, 0) == nil {
		defer func() { _ = unix.Prctl(unix.PR_SET_TIMERSLACK, 0, 0, 0, 0) }() // 0: as it was
	}
	return start()
}

// processors is Go's own number of them for a worker. Who waits in the kernel for
// a call, or is in the module, keeps the one he has for a while, which nobody who
// has work should wait for: so there is one for each line, and as many as there
// are. A backend's env comes after it and may say otherwise.
func processors(lines int) string {
	return fmt.Sprintf("GOMAXPROCS=%d", lines+runtime.GOMAXPROCS(0))
}

// socketPairs makes the pipe and its lines. What it could make it returns, also
// with an error.
func socketPairs(n int) (ours []net.Conn, theirs []*os.File, err error) {
	for range n {
		conn, file, err := socketPair()
		if err != nil {
			return ours, theirs, err
		}
		ours, theirs = append(ours, conn), append(theirs, file)
	}
	return ours, theirs, nil
}

func closeAll[C io.Closer](all []C) {
	for _, c := range all {
		_ = c.Close() // of no use any more
	}
}

// socketPair makes the pipe. Neither end passes to any other process.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a pipe to a worker: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "daemon")
	defer func() { _ = ours.Close() }() // FileConn has its own
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, fmt.Errorf("making a pipe to a worker: %w", err)
	}
	return conn, theirs, nil
}

// kill ends it, whatever its module is doing, and waits for that.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended by itself
	<-p.ended
}

// how says how it ended, for people.
func (p *process) how() string {
	if exit, ok := errors.AsType[*exec.ExitError](p.end); ok {
		return exit.String()
	}
	if p.end != nil {
		return p.end.Error()
	}
	return "exit status 0"
}
