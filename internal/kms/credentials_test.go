package kms_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"keyd/internal/kms"
	"keyd/internal/kms/kmstest"
)

// witness notes where requests go and whose credentials sign them.
type witness struct {
	next http.RoundTripper
	mu   sync.Mutex
	key  string // access key id of the last
	host string
	took int
}

func (w *witness) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, rest, _ := strings.Cut(r.Header.Get("Authorization"), "Credential=")
	w.key, _, _ = strings.Cut(rest, "/")
	w.host = r.URL.Host
	w.took++
	return w.next.RoundTrip(r)
}

// pretend is one of AWS's services that hand out credentials.
func pretend(t *testing.T, answer func(w http.ResponseWriter, r *http.Request)) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(answer))
	t.Cleanup(s.Close)
	return s.URL
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The SDK's own chain, each of its links alone.
func TestCredentialsComeFromWhereAWSsToolsTakeThem(t *testing.T) {
	in := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	for name, c := range map[string]struct {
		env    func(t *testing.T) map[string]string
		change func(*kms.Config)
		want   string
	}{
		"the environment": {env: func(*testing.T) map[string]string {
			return map[string]string{"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "s"}
		}, want: "AKIDENV"},
		"a profile of the shared files, named in the environment": {env: func(t *testing.T) map[string]string {
			return map[string]string{"AWS_PROFILE": "pay", "AWS_SHARED_CREDENTIALS_FILE": write(t, "[pay]\naws_access_key_id = AKIDPAY\naws_secret_access_key = s\n")}
		}, want: "AKIDPAY"},
		"a profile of the shared files, named in the config": {env: func(t *testing.T) map[string]string {
			return map[string]string{"AWS_SHARED_CREDENTIALS_FILE": write(t, "[default]\naws_access_key_id = AKIDNO\naws_secret_access_key = s\n[pay]\naws_access_key_id = AKIDPAY\naws_secret_access_key = s\n")}
		}, change: func(c *kms.Config) { c.Profile = "pay" }, want: "AKIDPAY"},
		"a profile named in the config, before the environment": {env: func(t *testing.T) map[string]string {
			return map[string]string{"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "s",
				"AWS_SHARED_CREDENTIALS_FILE": write(t, "[pay]\naws_access_key_id = AKIDPAY\naws_secret_access_key = s\n")}
		}, change: func(c *kms.Config) { c.Profile = "pay" }, want: "AKIDPAY"},
		"a web identity": {env: func(t *testing.T) map[string]string {
			sts := pretend(t, func(w http.ResponseWriter, r *http.Request) {
				if r.FormValue("Action") != "AssumeRoleWithWebIdentity" || r.FormValue("WebIdentityToken") != "a token" || r.FormValue("RoleArn") != "arn:aws:iam::111122223333:role/keyd" {
					t.Errorf("STS was asked %v", r.Form)
				}
				_, _ = fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
<Credentials><AccessKeyId>ASIAWEB</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration></Credentials>
</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, in)
			})
			return map[string]string{"AWS_WEB_IDENTITY_TOKEN_FILE": write(t, "a token"), "AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/keyd",
				"AWS_ENDPOINT_URL_STS": sts}
		}, want: "ASIAWEB"},
		"a container's role": {env: func(t *testing.T) map[string]string {
			url := pretend(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Authorization") != "pod token" {
					t.Errorf("the container's agent was asked with %q", r.Header.Get("Authorization"))
				}
				_ = json.NewEncoder(w).Encode(map[string]string{"AccessKeyId": "ASIAPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": in})
			})
			return map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": url, "AWS_CONTAINER_AUTHORIZATION_TOKEN": "pod token"}
		}, want: "ASIAPOD"},
		"an instance's role": {env: func(t *testing.T) map[string]string {
			url := pretend(t, func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
					w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
					_, _ = fmt.Fprint(w, "imds token")
				case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "imds token":
					w.WriteHeader(http.StatusUnauthorized)
				case strings.HasSuffix(r.URL.Path, "/security-credentials/"):
					_, _ = fmt.Fprint(w, "keyd")
				default:
					_ = json.NewEncoder(w).Encode(map[string]string{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "ASIAEC2",
						"SecretAccessKey": "s", "Token": "t", "LastUpdated": in, "Expiration": in})
				}
			})
			return map[string]string{"AWS_EC2_METADATA_SERVICE_ENDPOINT": url, "AWS_EC2_METADATA_DISABLED": "false"}
		}, want: "ASIAEC2"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", "")
			t.Setenv("AWS_SECRET_ACCESS_KEY", "")
			for variable, value := range c.env(t) {
				t.Setenv(variable, value)
			}
			s := kmstest.New(kmstest.Options{})
			seen := &witness{next: s.Transport()}
			b := open(t, s, func(cfg *kms.Config) {
				cfg.HTTPClient = &http.Client{Transport: seen}
				if c.change != nil {
					c.change(cfg)
				}
			})
			for range 3 {
				if _, err := b.List(t.Context()); err != nil {
					t.Fatalf("List: %v", err)
				}
			}
			if seen.key != c.want {
				t.Errorf("signed by %s, want %s", seen.key, c.want)
			}
		})
	}
}

// Credentials that cannot be had are AWS denying access, whatever went wrong.
func TestCredentialsThatCannotBeHadAreSaidToBe(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/keyd")
	t.Setenv("AWS_ENDPOINT_URL_STS", pretend(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>Not authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error></ErrorResponse>`)
	}))
	for name, token := range map[string]string{"no token file": "/nowhere", "a refused token": write(t, "a token")} {
		t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
		s := kmstest.New(kmstest.Options{})
		_, err := open(t, s).List(t.Context())
		if !errors.Is(err, kms.ErrDenied) || strings.Contains(err.Error(), "a token") && name != "no token file" {
			t.Errorf("%s: List: %v, want ErrDenied", name, err)
		}
		if s.Calls("ListAliases") != 0 {
			t.Errorf("%s: KMS was asked all the same", name)
		}
	}
}

func TestRequestsGoWhereTheConfigSays(t *testing.T) {
	t.Setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
	t.Setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:1")
	t.Setenv("AWS_REGION", "eu-west-3")
	for name, c := range map[string]struct {
		change func(*kms.Config)
		want   string
	}{
		"the Region's":         {func(*kms.Config) {}, "kms.us-east-1.amazonaws.com"},
		"the Region's of FIPS": {func(c *kms.Config) { c.FIPS = true }, "kms-fips.us-east-1.amazonaws.com"},
		"a VPC endpoint's":     {func(c *kms.Config) { c.Endpoint = "https://vpce-1.kms.us-east-1.vpce.amazonaws.com" }, "vpce-1.kms.us-east-1.vpce.amazonaws.com"},
	} {
		s := kmstest.New(kmstest.Options{})
		seen := &witness{next: s.Transport()}
		b := open(t, s, func(cfg *kms.Config) { cfg.HTTPClient = &http.Client{Transport: seen}; c.change(cfg) })
		if _, err := b.List(t.Context()); err != nil || seen.host != c.want || seen.took == 0 {
			t.Errorf("%s: went to %q, %v, want %s", name, seen.host, err, c.want)
		}
	}
}
