package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
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
