package worker

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// PipeFD is the descriptor at which a worker finds its end of the pipe.
const PipeFD = 3

// process is a worker as the kernel sees it.
type process struct {
	pid   int
	conn  net.Conn
	ended chan struct{} // closed when it has ended
	end   error         // how, then
	cmd   *exec.Cmd
}

// spawn starts a worker. It gets no descriptor but the pipe and somewhere to
// write its log, no environment but env, dies with this process, and is in a
// process group of its own, so that a terminal's interrupt does not reach it
// before the requests in flight have finished.
func spawn(command, env []string, log *slog.Logger) (*process, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer func() { _ = theirs.Close() }() // the worker has its own
	said, says, err := os.Pipe()
	if err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	defer func() { _ = says.Close() }()
	p := &process{conn: ours, ended: make(chan struct{})}
	p.cmd = &exec.Cmd{Path: command[0], Args: command[1:], Env: env, Stdout: says, Stderr: says, ExtraFiles: []*os.File{theirs},
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}}
	started := make(chan error)
	go func() {
		// prctl(2): the signal comes when the thread ends that started the worker,
		// so this one stays for as long as the worker does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.end = p.cmd.Wait()
		close(p.ended)
	}()
	if err := <-started; err != nil {
		_, _ = ours.Close(), said.Close()
		return nil, fmt.Errorf("starting a worker: %w", err)
	}
	p.pid = p.cmd.Process.Pid
	go relay(said, log.With("worker", p.pid))
	return p, nil
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
