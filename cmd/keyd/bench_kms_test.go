package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"
)

// BenchmarkDecryptKMS runs the AWS SDK's bare Decrypt and keyd's whole path over
// the unix socket in turn, against the same pretended KMS in a process of its
// own. At once, everything is two cores' work; after 10 ms, about what a KMS in
// the same Region takes, it is what keyd adds to waiting. ratio is what counts.
func BenchmarkDecryptKMS(b *testing.B) {
	url := startKMS(b)
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIDBENCH", "AWS_SECRET_ACCESS_KEY": "s", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		b.Setenv(name, value)
	}
	d := newTarget(b, "    type: pkcs11\n    module: /usr/lib/softhsm/libsofthsm2.so\n    token_label: keyd\n    pin: file:DIR/token/pin\n",
		fmt.Sprintf("    type: kms\n    kms:\n      region: eu-central-1\n      endpoint: %s\n      budget: {rsa: 1000000}\n", url))
	for _, takes := range []string{"0s", "10ms"} {
		tell(b, http.MethodDelete, url, "")
		if takes != "0s" {
			tell(b, http.MethodPost, url, `{"op":"Decrypt","delay":"`+takes+`","times":1000000000}`)
		}
		for _, callers := range []int{1, 4, 16, 64} {
			b.Run(fmt.Sprintf("kms=%s/callers=%d", takes, callers), func(b *testing.B) { d.compare(b, callers, d.bareKMS(b, url, callers)) })
		}
	}
}

// startKMS runs the pretended KMS and returns its URL.
func startKMS(b *testing.B) string {
	file := filepath.Join(b.TempDir(), "addr")
	sim := exec.CommandContext(b.Context(), kmsSim, "-addr-file", file)
	sim.Cancel = func() error { return sim.Process.Signal(os.Interrupt) }
	if err := sim.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = sim.Wait() })
	for range 200 {
		if url, err := os.ReadFile(file); err == nil && len(url) > 0 {
			return string(url)
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.Fatal("the pretended KMS did not start")
	return ""
}

// tell has the pretended KMS fail, or not.
func tell(b *testing.B, method, url, fault string) {
	req, err := http.NewRequestWithContext(b.Context(), method, url+"/sim/faults", strings.NewReader(fault))
	if err != nil {
		b.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil || res.StatusCode != http.StatusOK {
		b.Fatalf("%v, %v", res, err)
	}
	_ = res.Body.Close()
}

// bareKMS has as many callers decrypt the envelope's content key with the SDK
// alone, as its documentation shows it, but for connections that are kept.
func (d *target) bareKMS(b *testing.B, url string, callers int) func(time.Duration) ([]time.Duration, error) {
	client := kms.New(kms.Options{Region: "eu-central-1", BaseEndpoint: &url,
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) { t.MaxIdleConnsPerHost = callers }),
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIDBENCH", SecretAccessKey: "s"}, nil
		})})
	in := &kms.DecryptInput{KeyId: &d.handle, CiphertextBlob: d.wrapped(b), EncryptionAlgorithm: types.EncryptionAlgorithmSpecRsaesOaepSha256}
	return func(slice time.Duration) (all []time.Duration, failure error) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		end := time.Now().Add(slice)
		for range callers {
			wg.Go(func() {
				var mine []time.Duration
				var err error
				for start := time.Now(); start.Before(end) && err == nil; start = time.Now() {
					var out *kms.DecryptOutput
					if out, err = client.Decrypt(b.Context(), in); err == nil && len(out.Plaintext) == 0 {
						err = fmt.Errorf("an answer without a content key: %+v", out)
					}
					mine = append(mine, time.Since(start))
				}
				mu.Lock()
				defer mu.Unlock()
				if all = append(all, mine...); err != nil {
					failure = err
				}
			})
		}
		wg.Wait()
		return all, failure
	}
}

// slice is how long each side runs before the other has its turn: short, so
// that a machine whose speed drifts slows both alike.
const slice = 500 * time.Millisecond

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
