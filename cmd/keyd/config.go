package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"go.yaml.in/yaml/v3"

	"keyd/internal/boundary"
	"keyd/internal/registry"
)

// config is the config file. Each field's comment is its manual;
// packaging/keyd.yaml is the same as an example.
type config struct {
	// Instance names this keyd in key labels and in the audit log. Two daemons
	// that share a token must not share it. Lower-case letters, digits, dashes.
	Instance string `yaml:"instance"`
	// StateDir holds the registry (keyd.db) and the audit log (audit.jsonl).
	StateDir string                   `yaml:"state_dir"`
	Listen   listenConfig             `yaml:"listen"`
	Roles    rolesConfig              `yaml:"roles"`
	Backends map[string]backendConfig `yaml:"backends"`
	Partners map[string]partnerConfig `yaml:"partners"`
	// Keys come to exist when the daemon starts.
	Keys   map[string]keyConfig `yaml:"keys"`
	Audit  auditConfig          `yaml:"audit"`
	Limits limitsConfig         `yaml:"limits"`
	Log    logConfig            `yaml:"log"`

	// guards is where refused PINs are remembered; empty is StateDir. What keyd
	// bench tries, the daemon must know of, and the other way round.
	guards string
	// only is the one level at which keyd bench has tokens open envelopes; empty is
	// the deepest. A daemon's config has no such thing: nobody makes it less by
	// mistake.
	only boundary.Level
}

type listenConfig struct {
	// Client is the socket that payment backends use: encrypt and decrypt.
	Client socketConfig `yaml:"client"`
	// Admin is the socket that operators and auditors use.
	Admin socketConfig `yaml:"admin"`
	// Metrics is the loopback address of /metrics, /healthz and /readyz;
	// "off" for none.
	Metrics string `yaml:"metrics"`
}

type socketConfig struct {
	Path string `yaml:"path"`
	// Mode is octal; the group may be given the socket, the world may not
	// unless the mode says so. Roles decide in any case.
	Mode  string `yaml:"mode"`
	Group string `yaml:"group"`
}

// rolesConfig maps the peer credentials of a socket to roles. Users and groups
// are names or numbers.
type rolesConfig struct {
	Operator whoConfig      `yaml:"operator"`
	Auditor  whoConfig      `yaml:"auditor"`
	Clients  []clientConfig `yaml:"clients"`
}

type whoConfig struct {
	Users  []string `yaml:"users"`
	Groups []string `yaml:"groups"`
}

type clientConfig struct {
	Partner   string `yaml:"partner"`
	whoConfig `yaml:",inline"`
	// May says what they may: crypt (encrypt and decrypt, which is meant when
	// nothing is said), and call (send requests to the partner through keyd).
	May []string `yaml:"may"`
}

const (
	typePKCS11 = "pkcs11"
	typeKMS    = "kms"
	typeLost   = "lost"
)

type backendConfig struct {
	// Type is pkcs11, kms, or lost: its device is gone for good. The daemon then
	// starts without it, so that an operator can compromise what it held.
	Type string `yaml:"type"`
	// KMS are the settings of a backend of type kms; the others below are those
	// of type pkcs11.
	KMS kmsConfig `yaml:"kms"`
	// Module is the vendor's PKCS#11 library.
	Module string `yaml:"module"`
	// TokenLabel or TokenSerial finds the token; slot numbers change, so they
	// are not accepted.
	TokenLabel  string `yaml:"token_label"`
	TokenSerial string `yaml:"token_serial"`
	// PIN is a reference: credential:NAME, file:/path or env:NAME.
	PIN secretRef `yaml:"pin"`
	// InitArgs is passed to C_Initialize as pReserved (NSS softoken needs it).
	InitArgs string `yaml:"init_args"`
	// Sessions is how many operations may be in the token at once.
	Sessions int `yaml:"sessions"`
	// SessionWait is how long a request waits for a session before it is told
	// that the backend is busy.
	SessionWait registry.Duration `yaml:"session_wait"`
	// CallTimeout is how long an operation may stay in the module before the
	// module is taken to hang: its process is killed then and started anew.
	CallTimeout registry.Duration `yaml:"call_timeout"`
	// Env are variables for the module's process, beside those that common
	// modules read (docs/operations.md). The module sees nothing else of the
	// daemon's environment.
	Env map[string]string `yaml:"env"`
	// SeparateKeyGeneration has each key made by a process that is started for it,
	// where a library has decrypts wait while it makes one.
	SeparateKeyGeneration bool `yaml:"separate_key_generation"`
	// MinBoundary refuses to start if the token is found to work at a lower
	// level: raw, unwrap or sealed.
	MinBoundary string `yaml:"min_boundary"`
}

// kmsConfig is AWS KMS. Credentials come from the AWS SDK's own chain.
type kmsConfig struct {
	// Region such as eu-central-1.
	Region string `yaml:"region"`
	// Endpoint in place of AWS's public one, such as a VPC endpoint's.
	Endpoint string `yaml:"endpoint"`
	// Profile in the shared AWS files; empty is the SDK's default.
	Profile string `yaml:"profile"`
	// FIPS uses the region's FIPS endpoint.
	FIPS bool `yaml:"fips"`
	// DeletionWindowDays is how long KMS waits before it deletes: 7 to 30.
	DeletionWindowDays int `yaml:"deletion_window_days"`
	// MultiRegion makes keys that can be replicated to other regions.
	MultiRegion bool `yaml:"multi_region"`
	// PolicyFile is a JSON file with the key policy of new keys; empty leaves
	// it to IAM.
	PolicyFile string            `yaml:"policy_file"`
	Tags       map[string]string `yaml:"tags"`
	// Timeout bounds one call with its retries.
	Timeout registry.Duration `yaml:"timeout"`
	// Concurrency is how many envelopes and signatures may be under way at once.
	Concurrency int `yaml:"concurrency"`
	// Budget is how many requests a second keyd allows itself.
	Budget kmsBudget `yaml:"budget"`
	// CustomKeyStore cannot be used: AWS makes no RSA or EC key in one.
	CustomKeyStore string `yaml:"custom_key_store"`
}

// kmsBudget is requests a second by family; 0 is 80 % of AWS's quota.
type kmsBudget struct {
	RSA    float64 `yaml:"rsa"`    // Decrypt and Sign with RSA keys
	ECC    float64 `yaml:"ecc"`    // DeriveSharedSecret
	Look   float64 `yaml:"look"`   // DescribeKey, GetPublicKey, ListResourceTags
	List   float64 `yaml:"list"`   // ListKeys, ListAliases
	Change float64 `yaml:"change"` // making, naming, disabling and deleting keys
}

type tlsConfig struct {
	// Cert and Key are PEM files of the client certificate, read again at each
	// handshake so that a renewed one is picked up.
	Cert string    `yaml:"cert"`
	Key  secretRef `yaml:"key"`
	// CA is a PEM file of the only authorities trusted; empty is the system's.
	CA string `yaml:"ca"`
}

type keyConfig struct {
	Partner string `yaml:"partner"`
	Backend string `yaml:"backend"`
	// Algorithm is RSA-OAEP-256, or ECDH-ES (with its key wraps), or PS256 for a
	// key that signs the assertions with which keyd makes itself known.
	Algorithm string `yaml:"algorithm"`
	// Bits is the size of an RSA modulus: 2048, 3072 or 4096.
	Bits int `yaml:"bits"`
	// Curve is that of a key for ECDH-ES: P-256, P-384 or P-521.
	Curve string `yaml:"curve"`
	// Rotate is a five-field cron expression in UTC.
	Rotate string `yaml:"rotate"`
	// ValidFor bounds the validTill told to the partner: the only revocation
	// Wise offers. At least one rotation interval plus DrainFor.
	ValidFor *registry.Duration `yaml:"valid_for"`
	// DrainFor is how long a version still opens after its successor is active.
	DrainFor *registry.Duration `yaml:"drain_for"`
	// SettleFor waits between the upload and the canary.
	SettleFor registry.Duration `yaml:"settle_for"`
	// Canary: open (the playground's answer must open), kid (and must name the
	// new version), off.
	Canary      string `yaml:"canary"`
	MinBoundary string `yaml:"min_boundary"`
	// First: make (the first version is made and announced at once) or adopt
	// (keyd keys adopt brings one that the partner knows already).
	First string `yaml:"first"`
}

type auditConfig struct {
	// Decrypts recorded in the audit log: all, failures or off.
	Decrypts string `yaml:"decrypts"`
}

type logConfig struct {
	// Level: debug, info, warn or error.
	Level string `yaml:"level"`
	// Format: json or text; empty is text on a terminal, json elsewhere.
	Format string `yaml:"format"`
}

// loadConfig reads a config file strictly: an unknown key, a second document
// or anything out of range is an error, and all of them are reported at once.
func loadConfig(path string) (*config, error) {
	cfg, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("the config %s is not usable:\n%w", path, err)
	}
	return cfg, nil
}

// readConfig reads one without a look at its values.
func readConfig(path string) (*config, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, hint(fmt.Errorf("reading the config: %w", err), "give the file with --config")
	}
	cfg := &config{}
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(cfg); err != nil {
		return nil, fmt.Errorf("reading the config %s: %w", path, err)
	}
	if err := dec.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading the config %s: more than one YAML document", path)
	}
	return cfg, nil
}
