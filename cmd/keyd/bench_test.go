package main

import (
	"bytes"
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/hsm/baretoken"
	"keyd/internal/jwe"
	"keyd/internal/partner/partnersim"
)

// slice is how long each side runs before the other has its turn: short, so
// that a machine whose speed drifts slows both alike.
const slice = 500 * time.Millisecond

// BenchmarkDecrypt runs the bare token loop and keyd's whole path over the unix
// socket in turn, at 1, 2, 4 and 8 callers. Each iteration is one slice of
// both; the figures that count are ratio, and the two medians in microseconds.
func BenchmarkDecrypt(b *testing.B) {
	d := newTarget(b)
	for _, callers := range []int{1, 2, 4, 8} {
		b.Run("callers="+strconv.Itoa(callers), func(b *testing.B) { d.compare(b, callers, d.bareToken(b, callers)) })
	}
}

// target is what both sides work on: a daemon in a process of its own, the
// public key of its active version, and an envelope sealed to that.
type target struct {
	*testDaemon
	kid      string
	handle   string
	rsa      *rsa.PublicKey
	public   []byte // the same as DER SPKI
	envelope []byte
}

// bareToken is the loop over the token that keyd is held against.
func (d *target) bareToken(b *testing.B, callers int) func(time.Duration) ([]time.Duration, error) {
	pin, err := os.ReadFile(filepath.Join(d.dir, "token", "pin"))
	if err != nil {
		b.Fatal(err)
	}
	bare, err := baretoken.Open("/usr/lib/softhsm/libsofthsm2.so", "keyd", strings.TrimSpace(string(pin)), d.public, callers)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = bare.Close() })
	block := d.wrapped(b)
	return func(slice time.Duration) ([]time.Duration, error) { return bare.Run(block, slice) }
}

// wrapped is the envelope's encrypted key.
func (d *target) wrapped(b *testing.B) []byte {
	block, err := base64.RawURLEncoding.DecodeString(strings.Split(string(d.envelope), ".")[1])
	if err != nil {
		b.Fatal(err)
	}
	return block
}

// compare runs both sides in turn.
func (d *target) compare(b *testing.B, callers int, bare func(time.Duration) ([]time.Duration, error)) {
	var bareAll, keydAll []time.Duration
	for b.Loop() {
		one, err := bare(slice)
		if err != nil {
			b.Fatal(err)
		}
		bareAll = append(bareAll, one...)
		keydAll = append(keydAll, d.run(b, callers)...)
	}
	per := float64(b.N) * slice.Seconds()
	b.ReportMetric(float64(len(bareAll))/per, "bare-ops/s")
	b.ReportMetric(float64(len(keydAll))/per, "keyd-ops/s")
	b.ReportMetric(float64(len(keydAll))/float64(len(bareAll)), "ratio")
	for name, all := range map[string][]time.Duration{"bare": bareAll, "keyd": keydAll} {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), name+"-p99-µs")
	}
	b.ReportMetric(0, "ns/op")
}

// run posts the envelope from every caller at once, each over a connection of
// its own, until the slice is over.
func (d *target) run(b *testing.B, callers int) []time.Duration {
	var (
		wg  sync.WaitGroup
		mu  sync.Mutex
		all []time.Duration
	)
	end := time.Now().Add(slice)
	for range callers {
		wg.Go(func() {
			transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", d.client)
			}}
			defer transport.CloseIdleConnections()
			var mine []time.Duration
			for start := time.Now(); start.Before(end); start = time.Now() {
				if !d.post(b, transport) {
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, mine...)
		})
	}
	wg.Wait()
	return all
}

func (d *target) post(b *testing.B, transport http.RoundTripper) bool {
	req, err := http.NewRequest(http.MethodPost, "http://keyd/v1/partners/wise/decrypt", bytes.NewReader(d.envelope))
	if err != nil {
		b.Error(err)
		return false
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		b.Error(err)
		return false
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK || len(answer) != benchPlaintext {
		b.Errorf("status %d, %d bytes, %v: %.200s", res.StatusCode, len(answer), err, answer)
		return false
	}
	return true
}

const benchPlaintext = 1024

func newTarget(b testing.TB, edits ...string) *target {
	sim := partnersim.New(partnersim.Options{ClientID: "demo-client", ClientSecret: testSecret})
	d := &target{testDaemon: startDaemon(b, sim, edits...)}
	v := d.activeVersion(b)
	d.handle = v.Handle
	block, _ := pem.Decode([]byte(v.PublicPEM))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	sealed, err := jwe.Seal(public.(*rsa.PublicKey), jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: v.KID, Enc: "A256GCM"}, make([]byte, benchPlaintext))
	if err != nil {
		b.Fatal(err)
	}
	d.kid, d.rsa, d.public, d.envelope = v.KID, public.(*rsa.PublicKey), block.Bytes, []byte(sealed)
	return d
}
