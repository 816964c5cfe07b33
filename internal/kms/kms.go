// Package kms keeps private keys in AWS KMS. The private key never leaves KMS.
// What does, for one operation, is the content key of an RSA envelope (boundary
// level "unwrap"), or the agreed secret of an ECDH one ("raw"); of a signature,
// nothing.
//
// CreateKey is not idempotent, so a key is found again by what it was given at
// creation: its tags say for which instance and kid it was made, and an alias
// made right after says it in one call. Deletion takes 7 to 30 days and is
// over when KMS no longer knows the key.
package kms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"keyd/internal/boundary"
)

// HTTPClient sends requests, as *http.Client does.
type HTTPClient interface {
	Do(*http.Request) (*http.Response, error)
}

// Config says which KMS holds the keys of which keyd. Credentials come from
// where AWS's tools take them: the environment, the shared files, a container's
// or an instance's role.
type Config struct {
	Name     string // of this backend, in keyd's config
	Instance string // of this keyd: in the alias and tags of every key
	Region   string // such as "eu-central-1"
	// Endpoint is used in place of AWS's public one, such as that of a VPC
	// endpoint. Only a loopback address may be http. AWS_ENDPOINT_URL and its
	// like are not heeded.
	Endpoint string
	Profile  string // in the shared files; empty is AWS_PROFILE or "default"
	FIPS     bool   // use the Region's FIPS 140-3 endpoint
	// DeletionWindowDays is how long a destroyed key can be had back: 7 to 30,
	// 0 is 30.
	DeletionWindowDays int
	// MultiRegion makes keys that can be replicated to other Regions. Their
	// material can then leave this one.
	MultiRegion bool
	// CustomKeyStore is refused: AWS makes no RSA or EC key in one.
	CustomKeyStore string
	Policy         string            // key policy of new keys, JSON; empty is KMS's default, which leaves it to IAM
	Tags           map[string]string // on new keys, besides keyd's own
	// MinBoundary is the lowest level at which anything is opened; "" is any.
	MinBoundary boundary.Level
	Timeout     time.Duration // of one call with its retries; 0 is 10 s
	Concurrency int           // envelopes and signatures under way at once; 0 is 64
	Budget      Budget        // requests a second
	Logger      *slog.Logger
	// Observe, if set, is told of every call: KMS's name for it, how long it
	// waited for its turn, how long KMS took with retries, and how it ended.
	Observe func(op string, wait, inside time.Duration, err error)
	// HTTPClient, if set, sends the requests to KMS. For tests.
	HTTPClient HTTPClient
}

// The tags of every key that keyd makes.
const (
	tagInstance = "keyd:instance"
	tagKey      = "keyd:key"
	tagKID      = "keyd:kid"
)

var (
	instanceName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	regionName   = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	// keyARN is a handle; the groups are Region, account and key id.
	keyARN = regexp.MustCompile(`^arn:aws[a-z-]*:kms:([a-z0-9-]+):([0-9]{12}):key/([0-9a-f-]{36}|mrk-[0-9a-f]{32})$`)
)

// maxTags are those of the config, beside keyd's three.
const maxTags = 47

// tagText is what KMS takes for the name and the value of a tag.
var tagText = regexp.MustCompile(`^[\p{L}\p{Z}\p{N}_.:/=+\-@]*$`)

// maxPolicy is the size of a key policy in bytes.
const maxPolicy = 32768

func (c *Config) complete() error {
	c.DeletionWindowDays = orDefault(c.DeletionWindowDays, 30)
	c.Timeout = orDefault(c.Timeout, 10*time.Second)
	c.Concurrency = orDefault(c.Concurrency, 64)
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Name != "", "the backend has no name")
	check(instanceName.MatchString(c.Instance), "instance %q: want 1 to 64 letters, digits, - and _", c.Instance)
	check(regionName.MatchString(c.Region), "region %q: want one such as eu-central-1", c.Region)
	check(c.Endpoint == "" || secure(c.Endpoint), "endpoint %q: want https://, or http:// to a loopback address", c.Endpoint)
	check(c.Endpoint == "" || !c.FIPS, "an endpoint and FIPS exclude each other: name the FIPS endpoint")
	check(c.DeletionWindowDays >= 7 && c.DeletionWindowDays <= 30, "deletion window of %d days: KMS has 7 to 30", c.DeletionWindowDays)
	check(c.CustomKeyStore == "", "custom key store %q: AWS KMS makes symmetric keys only in one (CreateKey, CustomKeyStoreId); "+
		"for keys in your CloudHSM cluster use a backend of type pkcs11 with the cluster's own library", c.CustomKeyStore)
	check(c.Policy == "" || len(c.Policy) <= maxPolicy && json.Valid([]byte(c.Policy)), "the key policy is not JSON, or above %d bytes", maxPolicy)
	check(len(c.Tags) <= maxTags, "%d tags: want at most %d, KMS has room for 50 with keyd's own", len(c.Tags), maxTags)
	for name, value := range c.Tags {
		check(name != "" && len(name) <= 128 && len(value) <= 256, "tag %q: its name or value is empty or too long", name)
		check(tagText.MatchString(name+value), "tag %q: want letters, digits, spaces and _ . : / = + - @ in its name and value", name)
		check(!strings.HasPrefix(name, "keyd:") && !strings.HasPrefix(name, "aws:"), "tag %q: that prefix is reserved", name)
	}
	check(c.Timeout > 0, "timeout %s: want more than nothing", c.Timeout)
	check(c.Concurrency > 0, "concurrency %d: want at least 1", c.Concurrency)
	check(c.Logger != nil, "no logger")
	return errors.Join(append(errs, c.Budget.complete())...)
}

// Validate reports everything about a config that cannot work, without asking
// AWS.
func (c Config) Validate() error { return c.complete() }

func orDefault[T comparable](v, usual T) T {
	if v == *new(T) {
		return usual
	}
	return v
}

// secure reports whether requests to an endpoint cannot be read on their way:
// the answer to Decrypt is a content key, that to DeriveSharedSecret a secret.
func secure(endpoint string) bool {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Scheme == "https" || u.Scheme == "http" && ip != nil && ip.IsLoopback()
}

// Backend is the KMS of one account and Region, as keyd uses it. It is safe
// for concurrent use and holds nothing that must be closed.
type Backend struct {
	cfg     Config
	client  *kms.Client
	prefix  string // of the aliases of this instance's keys
	budgets map[family]*limiter
	retryer aws.RetryerV2
	slots   chan struct{} // one for each envelope or signature under way

	well    atomic.Int64           // Unix nanoseconds of the last call that KMS answered; 0 after one it did not
	account atomic.Pointer[string] // seen in an ARN
	mu      sync.Mutex             // guards what follows
	made    map[string]string      // key ARN by kid: made by this process, perhaps not yet to be found otherwise
	curves  sync.Map               // of keys for ECDH, by ARN
	theirs  map[string]time.Time   // by key id: somebody else's, as its tags said, and until when that is believed
}

// Open makes a Backend. It reads AWS's configuration and asks KMS nothing:
// whether KMS answers is for Health to say, and can change.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("opening AWS KMS: %w", err)
	}
	sender := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = cfg.Concurrency // else each burst is a burst of TLS handshakes
	})
	options := []func(*config.LoadOptions) error{config.WithRegion(cfg.Region), config.WithHTTPClient(sender)}
	if cfg.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(cfg.Profile))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("opening AWS KMS: reading AWS's configuration: %w", err)
	}
	// Not NewFromConfig: that takes an endpoint from the environment.
	settings := kms.Options{Region: cfg.Region, HTTPClient: loaded.HTTPClient, Credentials: credentials{loaded.Credentials}}
	if cfg.HTTPClient != nil {
		settings.HTTPClient = cfg.HTTPClient
	}
	settings.HTTPClient = reusing{settings.HTTPClient}
	if cfg.Endpoint != "" {
		settings.BaseEndpoint = &cfg.Endpoint
	}
	if cfg.FIPS {
		settings.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
	}
	return &Backend{cfg: cfg, client: kms.New(settings), prefix: "alias/keyd/" + cfg.Instance + "/", budgets: cfg.Budget.limiters(),
		retryer: retry.NewStandard(func(o *retry.StandardOptions) { o.MaxBackoff = 2 * time.Second }),
		slots:   make(chan struct{}, cfg.Concurrency), made: map[string]string{}, theirs: map[string]time.Time{}}, nil
}

// reusing keeps net/http from writing a request's body by its WriteTo. The SDK
// closes the body as soon as the answer is there; one that closes while net/http
// looks whether it has ended then says EOF for an error, and the connection is
// thrown away: one in a hundred calls would begin with a TLS handshake.
type reusing struct{ next HTTPClient }

func (c reusing) Do(r *http.Request) (*http.Response, error) {
	if r.Body != nil && r.Body != http.NoBody {
		r.Body = struct{ io.ReadCloser }{r.Body}
	}
	return c.next.Do(r)
}

// credentials tells a failure to get credentials from a failure of KMS.
type credentials struct{ aws.CredentialsProvider }

func (c credentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	got, err := c.CredentialsProvider.Retrieve(ctx)
	if err != nil && ctx.Err() == nil {
		return got, fmt.Errorf("%w: %w", errCredentials, err)
	}
	return got, err
}
