package conformance

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/hsm"
)

// stall looks whether decrypts wait while the largest key is made.
func stall(l *lab, t *hsm.Token) Check {
	return made(l, t, best(t), func(g boundary.Generated) Check {
		env, err := sealed(g)
		if err != nil {
			return fail("%v", err)
		}
		one := func() (time.Duration, error) {
			began := time.Now()
			_, err := t.Open(l.ctx, g.Handle, env)
			return time.Since(began), err
		}
		var idle []time.Duration
		for range 50 {
			took, err := one()
			if err != nil {
				return fail("%v", err)
			}
			idle = append(idle, took)
		}
		making := make(chan making)
		go func() { making <- l.largest(t) }()
		var busy []time.Duration
		for {
			select {
			case m := <-making:
				if m.Verdict != Pass || len(busy) == 0 {
					return m.Check
				}
				return m.held(idle, busy)
			default:
			}
			took, err := one()
			if err != nil {
				return fail("while a key is made: %v", err)
			}
			busy = append(busy, took)
		}
	})
}

// making is a key generation.
type making struct {
	Check
	key  string
	took time.Duration
}

// largest makes the largest RSA key that there is.
func (l *lab) largest(t *hsm.Token) making {
	for _, bits := range []int{4096, 3072, 2048} {
		m := making{key: fmt.Sprintf("RSA-%d", bits)}
		began := time.Now()
		m.Check = made(l, t, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: bits}, func(boundary.Generated) Check {
			m.took = time.Since(began)
			return pass("")
		})
		if m.Verdict != Skip {
			return m
		}
	}
	return making{Check: skip("it makes no RSA keys")}
}

// held tells decrypts that share the processor with a key generation from those
// that wait until it is over: one of these takes about as long as it does.
func (m making) held(idle, busy []time.Duration) Check {
	longest, median := slices.Max(busy), func(all []time.Duration) time.Duration { slices.Sort(all); return all[len(all)/2] }
	seen := fmt.Sprintf("%s in %s; meanwhile %d decrypts, median %s (alone %s), longest %s", m.key, round(m.took), len(busy), round(median(busy)), round(median(idle)), round(longest))
	if longest > m.took/2 && longest > 10*median(idle) {
		return quirk("%s: they wait for it; separate_key_generation may help", seen)
	}
	return pass("%s", seen)
}

// round keeps three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}

// leaks sends envelopes, and looks whether the process grows.
func leaks(l *lab, t *hsm.Token, bad bool) Check {
	return made(l, t, best(t), func(g boundary.Generated) Check {
		envelopes, err := someEnvelopes(g, bad)
		if err != nil {
			return fail("%v", err)
		}
		each := max(l.order.Envelopes/8, 10)
		sizes := []int{resident()}
		for began := time.Now(); !settled(sizes, each, time.Since(began)); {
			for n := range each {
				if l.stopped() {
					return skip("interrupted")
				}
				_, err := t.Open(l.ctx, g.Handle, envelopes[n%len(envelopes)])
				if bad && !errors.Is(err, boundary.ErrOpen) {
					return fail("a bad envelope: %v", errors.Join(errNotRefused, err))
				}
				if !bad && err != nil {
					return fail("a good envelope: %v", err)
				}
			}
			sizes = append(sizes, resident())
		}
		if grown := growth(sizes, each); grown > 0 {
			return fail("it grows by %d bytes an envelope, and goes on after %d", grown, (len(sizes)-1)*each)
		}
		return pass("it does not go on growing by %d bytes an envelope", least)
	})
}

// settled: heaps grow for a while and then no more; what leaks never stops. So it
// is looked at again for as long as it grows, and a slow token not for ever.
func settled(sizes []int, each int, took time.Duration) bool {
	const few, many, enough = 8, 40, 40 * time.Second
	rounds := len(sizes) - 1
	return rounds >= many || rounds >= few && (growth(sizes, each) == 0 || took > enough)
}

// someEnvelopes are good ones, or ones with another tag and another encrypted key.
func someEnvelopes(g boundary.Generated, bad bool) ([]*boundary.Envelope, error) {
	env, err := sealed(g)
	if err != nil || !bad {
		return []*boundary.Envelope{env}, err
	}
	env.Tag[0] ^= 1
	worse := *env
	if worse.EncryptedKey = slices.Clone(env.EncryptedKey); len(worse.EncryptedKey) > 7 {
		worse.EncryptedKey[7] ^= 1
	}
	return []*boundary.Envelope{env, &worse}, nil
}

// least is how many bytes an envelope must take for good to be called a leak. Memory
// is measured in pages, and one of them in each round of fifty is a third of that.
const least = 256

// growth is how many bytes an envelope takes for good, judged by the second half
// of what was measured; 0 where a round took none, or less than can be told from a
// heap's disorder. A leak is in every round: that one of them took much more is
// none.
func growth(sizes []int, each int) int {
	half := sizes[len(sizes)/2:]
	var steps []int
	for i := 1; i < len(half); i++ {
		if half[i] <= half[i-1] {
			return 0
		}
		steps = append(steps, half[i]-half[i-1])
	}
	if len(steps) == 0 {
		return 0
	}
	slices.Sort(steps)
	grown := steps[len(steps)/2] / each
	if grown < least {
		return 0
	}
	return grown
}

// resident is how much memory of its own the process has, the module's and Go's:
// pages of files come and go as the kernel likes.
func resident() (bytes int) {
	debug.FreeOSMemory()
	raw, _ := os.ReadFile("/proc/self/status") // none is 0
	for line := range strings.Lines(string(raw)) {
		for _, name := range []string{"RssAnon:", "RssShmem:", "VmSwap:"} {
			var kib int
			if value, found := strings.CutPrefix(line, name); found {
				_, _ = fmt.Sscan(value, &kib)
				bytes += kib << 10
			}
		}
	}
	return bytes
}
