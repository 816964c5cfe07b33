package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"keyd/internal/bench"
	"keyd/internal/boundary"
)

func benchCommand() command {
	return command{name: "bench", args: "[BACKEND]", brief: "measure your own token, and what of it keyd gives to its callers", setup: benchSetup,
		help: `Makes throw-away key pairs in the token under a name of their own, opens envelopes
with them, and destroys them again; no other key is used. Two ways have their turns:
the bare calls into the PKCS#11 module, as many sessions at once, and the same through
all of keyd: an HTTP request over a unix socket, the registry and the audit log (in a
temporary folder), the module's own process, and back to a caller in a third process.
Needs the backend's section of the config and nothing else of it; the daemon may run,
but takes its part of the token. The first line says how long it will take. A level
is how much of an envelope the token opens itself: --level holds the cost of one
against another, with the token opened anew for each.`}
}

// benchOptions are the flags of bench.
type benchOptions struct {
	config, keys, sessions string
	enc, level             string
	each                   time.Duration
	bytes, callersEach     int
	json, apart            bool
}

func benchSetup(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
	o := benchOptions{}
	fs.StringVar(&o.config, "config", defaultConfig, "the config `FILE`")
	fs.StringVar(&o.keys, "keys", "RSA-2048,P-256", "`KEYS` to make: RSA-2048, RSA-3072, RSA-4096, P-256, P-384, P-521")
	fs.StringVar(&o.sessions, "sessions", "1,2,4,8", "how many `SESSIONS` at once, bare and through keyd")
	fs.IntVar(&o.callersEach, "callers", 1, "how many `CALLERS` keyd has for each session: with more than one, a session has the next one's envelope while the last one's answer is on its way")
	fs.DurationVar(&o.each, "for", 2*time.Second, "`DURATION` of each side of each measurement")
	fs.StringVar(&o.enc, "enc", boundary.A256GCM, "`ENC` of the content: A128GCM, A256GCM, A128CBC-HS256 or A256CBC-HS512; with CBC a token that opens at sealed shows what it does at unwrap")
	fs.StringVar(&o.level, "level", "", "`LEVELS` at which to open, bare and through keyd: raw, unwrap, sealed; without it the deepest that the token has for a key")
	fs.IntVar(&o.bytes, "bytes", 1024, "size of the plaintext in `BYTES`")
	fs.BoolVar(&o.apart, "apart", false, "give the module's process one processor and everything else the others, as if a software token had its own")
	fs.BoolVar(&o.json, "json", false, "print JSON")
	return func(ctx context.Context, t terminal, args []string) error {
		plan, err := o.plan(args)
		if err != nil {
			return err
		}
		if _, err := harden(); err != nil {
			return err
		}
		collectLess()
		ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		return plan.run(ctx, t)
	}
}

// benchPlan is what is to be measured.
type benchPlan struct {
	benchOptions
	cfg       *config // of a daemon for this alone
	backend   string
	materials []boundary.Material
	callers   []int
	levels    []boundary.Level // "" is the deepest
}

const (
	benchInstance = "keyd-bench" // in the labels of the keys
	benchPartner  = "bench"
	mostSessions  = 64
)

func (o benchOptions) plan(args []string) (*benchPlan, error) {
	p := &benchPlan{benchOptions: o}
	var wrong []error
	for name := range strings.SplitSeq(o.keys, ",") {
		m, err := parseMaterial(strings.TrimSpace(name))
		p.materials, wrong = append(p.materials, m), append(wrong, err)
	}
	for text := range strings.SplitSeq(o.sessions, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > mostSessions {
			err = fmt.Errorf("--sessions %q: want numbers from 1 to %d", text, mostSessions)
		}
		p.callers, wrong = append(p.callers, n), append(wrong, err)
	}
	if _, known := boundary.ContentOf(o.enc); !known {
		wrong = append(wrong, fmt.Errorf("--enc %q: want A128GCM, A256GCM, A128CBC-HS256 or A256CBC-HS512", o.enc))
	}
	levels, err := o.levelsAsked()
	p.levels, wrong = levels, append(wrong, err)
	if most := mostSessions / max(slices.Max(p.callers), 1); o.callersEach < 1 || o.callersEach > max(most, 1) {
		wrong = append(wrong, fmt.Errorf("--callers %d: want 1 to %d for so many sessions", o.callersEach, max(most, 1)))
	}
	if o.callersEach > 1 && len(p.callers) > 1 {
		wrong = append(wrong, errors.New("--callers: want one number of --sessions with it, or the smaller ones would have the sessions of the largest"))
	}
	if o.each < 10*time.Millisecond || o.each > time.Hour {
		wrong = append(wrong, fmt.Errorf("--for %s: want 10ms to 1h", o.each))
	}
	if o.bytes < 1 || o.bytes > 1<<20 {
		wrong = append(wrong, fmt.Errorf("--bytes %d: want 1 to %d", o.bytes, 1<<20))
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	if p.backend, p.cfg, err = benchConfig(o.config, o.enc, args); err != nil {
		return nil, err
	}
	return p, p.aboveFloor()
}

// parseMaterial reads the name of a kind of key.
func parseMaterial(name string) (boundary.Material, error) {
	m := boundary.Material{Algorithm: boundary.ECDHES, Curve: name}
	if bits, isRSA := strings.CutPrefix(name, "RSA-"); isRSA {
		n, _ := strconv.Atoi(bits)
		m = boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: n}
	}
	if m.Check() != nil {
		return m, fmt.Errorf("--keys %q: want RSA-2048, RSA-3072, RSA-4096, P-256, P-384 or P-521", name)
	}
	return m, nil
}

func materialName(m boundary.Material) string {
	if m.Bits > 0 {
		return "RSA-" + m.Size()
	}
	return m.Size()
}

// run measures and prints.
func (p *benchPlan) run(ctx context.Context, t terminal) error {
	levels := "at its deepest level"
	if p.level != "" {
		levels = "at " + p.level
	}
	fmt.Fprintf(t.err, "measuring backend %s for about %s: keys %s %s, each bare and through keyd, at %s sessions\n", p.backend,
		(2 * p.each * time.Duration(len(p.levels)*len(p.materials)*len(p.callers))).Round(time.Second), p.keys, levels, p.sessions)
	report := benchReport{Backend: p.backend, Payload: p.bytes, Enc: p.enc, Apart: p.apart, Callers: p.callersEach, Runs: []bench.Run{}}
	for _, level := range p.levels {
		if err := p.at(ctx, t, level, &report); err != nil {
			return err
		}
	}
	if len(report.Runs) == 0 {
		return errors.New("nothing was measured: the token can do nothing of what was asked for")
	}
	slices.SortStableFunc(report.Runs, p.byKey)
	if p.json {
		return printJSON(t.out, report)
	}
	report.print(t.out)
	return nil
}

// benchReport is the answer of bench.
type benchReport struct {
	Backend string            `json:"backend"`
	Device  map[string]string `json:"device"`
	Payload int               `json:"payload_bytes"`
	Enc     string            `json:"enc"`
	Apart   bool              `json:"apart"`
	Callers int               `json:"callers_per_session"`
	Runs    []bench.Run       `json:"runs"`
}

func (r benchReport) print(w io.Writer) {
	fmt.Fprintf(w, "token      %s (%s), serial %s, %s\n", r.Device["label"], r.Device["model"], r.Device["serial"], r.Device["library"])
	fmt.Fprintf(w, "payload    %d bytes, %s\n", r.Payload, r.Enc)
	if r.Callers > 1 {
		fmt.Fprintf(w, "callers    %d for each session of keyd's\n", r.Callers)
	}
	if r.Apart {
		fmt.Fprintln(w, "apart      the module's process has a processor to itself")
	}
	fmt.Fprintln(w)
	bench.Table(w, r.Runs)
	fmt.Fprintln(w)
	bench.Bars(w, r.Runs)
	fmt.Fprintln(w, "\nprocessor time of one operation, by process (the library's does the token's part where the token is software)")
	bench.CPU(w, r.Runs)
}

// benchConfig is the config of a daemon that has one backend of a config, and a
// partner that is never called.
func benchConfig(path, enc string, args []string) (backend string, _ *config, err error) {
	theirs, err := readConfig(path)
	if err != nil {
		return "", nil, err
	}
	theirs.setDefaults()
	var tokens []string
	for _, name := range slices.Sorted(maps.Keys(theirs.Backends)) {
		if theirs.Backends[name].Type == typePKCS11 {
			tokens = append(tokens, name)
		}
	}
	switch {
	case len(args) == 1:
		backend = args[0]
	case len(tokens) == 1:
		backend = tokens[0]
	default:
		return "", nil, fmt.Errorf("the config has %d backends of type pkcs11 (%s): name one", len(tokens), strings.Join(tokens, ", "))
	}
	b, ok := theirs.Backends[backend]
	switch {
	case !ok:
		return "", nil, fmt.Errorf("the config has no backend %q; it has %s", backend, strings.Join(tokens, ", "))
	case b.Type != typePKCS11:
		return "", nil, hint(fmt.Errorf("backend %s is of type %s", backend, b.Type), "bench is for PKCS#11 tokens: what AWS KMS can do is its quota")
	}
	var p problems
	p.backend("backends."+backend, backend, b)
	if err := errors.Join(p...); err != nil {
		return "", nil, fmt.Errorf("the backend %s in %s is not usable:\n%w", backend, path, err)
	}
	cfg := &config{Instance: benchInstance, Backends: map[string]backendConfig{backend: b}, guards: theirs.StateDir,
		Partners: map[string]partnerConfig{benchPartner: {Type: "jwe", URL: "http://127.0.0.1:1", Algs: []string{boundary.RSAOAEP256, boundary.ECDHES},
			Encs: []string{enc}, OurKey: "by-hand", Key: keySourceConfig{URL: "http://127.0.0.1:1/"}}}}
	return backend, cfg, nil
}
