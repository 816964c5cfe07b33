package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"keyd/internal/bench"
	"keyd/internal/boundary"
	"keyd/internal/jwe"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

// measure makes a key and measures it with each number of callers.
func (r *benchRig) measure(ctx context.Context, w io.Writer, m boundary.Material) (runs []bench.Run, err error) {
	fmt.Fprintf(w, "%-9s making a key pair", materialName(m))
	v, public, err := r.version(ctx, m)
	if err != nil {
		fmt.Fprintln(w)
		return nil, err
	}
	envelope, err := jwe.Seal(public, jwe.SealHeader{Alg: jwe.SealAlg(m.Algorithm), Enc: r.plan.enc, KID: v.KID}, make([]byte, r.plan.bytes))
	if err != nil {
		return nil, err
	}
	message, err := jwe.Parse([]byte(envelope), jwe.Policy{Algs: []string{m.Algorithm}, Encs: []string{r.plan.enc}, MaxSize: len(envelope)})
	if err != nil {
		return nil, err
	}
	opened, err := r.token.Open(ctx, v.Handle, &message.Envelope)
	if err != nil {
		return nil, fmt.Errorf("opening an envelope: %w", err)
	}
	clear(opened.Plaintext)
	fmt.Fprintf(w, ", level %s; sessions", opened.Level)
	for _, n := range r.plan.callers {
		fmt.Fprintf(w, " %d", n)
		run, err := bench.Compare(ctx, n, r.plan.each, r.bareSide(v.Handle, &message.Envelope), r.keydSide(envelope))
		if err != nil {
			fmt.Fprintln(w)
			return runs, err
		}
		run.Key, run.Level = materialName(m), string(opened.Level)
		runs = append(runs, run)
	}
	fmt.Fprintln(w)
	return runs, nil
}

// version makes a key pair and has the registry take it for an active version.
func (r *benchRig) version(ctx context.Context, m boundary.Material) (registry.Version, any, error) {
	none := registry.Version{}
	name := "bench-" + strings.ToLower(materialName(m))
	spec := boundary.Spec{Key: name, KID: uuid.NewString(), Material: m}
	made, err := r.token.Generate(ctx, spec)
	if err != nil {
		return none, nil, err
	}
	r.handles = append(r.handles, made.Handle)
	der, err := m.MarshalPublic(made.Public)
	if err != nil {
		return none, nil, err
	}
	at := time.Now()
	v := registry.Version{KID: spec.KID, Key: name, Backend: r.plan.backend, Handle: made.Handle, Public: der,
		Algorithm: m.Algorithm, Bits: m.Bits, Curve: m.Curve, ValidFrom: at, ValidTill: at.Add(24 * time.Hour), TestedAt: at, GeneratedAt: at}
	const by, why, seq = "keyd bench", "a measurement", 1
	err = r.registry.PutKey(registry.Key{Name: name, Partner: benchPartner, Backend: v.Backend, Algorithm: m.Algorithm, Bits: m.Bits, Curve: m.Curve,
		NextDue: at.Add(24 * time.Hour), Policy: registry.Policy{Canary: rotation.CanaryOff}})
	if err == nil {
		_, err = r.registry.Adopt(v, by, why, seq)
	}
	if err == nil {
		_, err = r.registry.Move([]registry.Move{{KID: v.KID, To: registry.Active}}, by, why, seq, at)
	}
	return v, made.Public, err
}

// bareSide is the token with nothing around it.
func (r *benchRig) bareSide(handle string, env *boundary.Envelope) bench.Side {
	return func(ctx context.Context, callers int, d time.Duration) (s bench.Slice, err error) {
		library := cpuOf(r.library)
		s.Took, err = r.token.Bare(ctx, handle, env, callers, d)
		s.CPU = map[string]time.Duration{"library": cpuOf(r.library) - library}
		return s, err
	}
}

// keydSide is an envelope's whole way, there and back.
func (r *benchRig) keydSide(envelope string) bench.Side {
	pids := map[string]int{"library": r.library, "keyd": os.Getpid(), "callers": r.callers.process.Process.Pid}
	return func(ctx context.Context, callers int, d time.Duration) (s bench.Slice, err error) {
		s.CPU = map[string]time.Duration{}
		for name, pid := range pids {
			s.CPU[name] = -cpuOf(pid)
		}
		s.Took, err = r.callers.run(benchOrder{Envelope: envelope, Callers: callers * r.plan.callersEach, For: d, Bytes: r.plan.bytes})
		for name, pid := range pids {
			s.CPU[name] += cpuOf(pid)
		}
		return s, err
	}
}

// cpuOf is the processor time that a process has used so far; 0 for one that is
// gone. Its clock has the number that clock_getcpuclockid(3) gives it.
func cpuOf(pid int) time.Duration {
	const sched = 2 // CPUCLOCK_SCHED, of the whole process
	var used unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|sched), &used) != nil {
		return 0
	}
	return time.Duration(used.Nano())
}

// apart gives a process the last of the processors that keyd may use, and the
// others the rest.
func apart(alone int, others ...int) error {
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("asking for the processors: %w", err)
	}
	if all.Count() < 2 {
		return errors.New("--apart: there is one processor only")
	}
	var one unix.CPUSet
	for cpu := 64*len(all) - 1; one.Count() == 0; cpu-- {
		if all.IsSet(cpu) {
			one.Set(cpu)
			all.Clear(cpu)
		}
	}
	var errs []error
	for range 2 { // a thread that was started meanwhile is where the one was that started it
		errs = append(errs, confine(alone, &one))
		for _, pid := range others {
			errs = append(errs, confine(pid, &all))
		}
	}
	return errors.Join(errs...)
}

// confine has all threads of a process, and those that they start, run on a set
// of processors.
func confine(pid int, set *unix.CPUSet) error {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil || len(threads) == 0 {
		return fmt.Errorf("looking for the threads of process %d: %w", pid, err)
	}
	for _, thread := range threads {
		tid, err := strconv.Atoi(filepath.Base(thread))
		if err == nil {
			err = unix.SchedSetaffinity(tid, set)
		}
		if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
			return fmt.Errorf("confining process %d: %w", pid, err)
		}
	}
	return nil
}
