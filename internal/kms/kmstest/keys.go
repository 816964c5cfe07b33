package kmstest

import (
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// metadata is KeyMetadata.
type metadata struct {
	AWSAccountID           string `json:"AWSAccountId"`
	KeyID                  string `json:"KeyId"`
	Arn                    string
	CreationDate           float64
	Enabled                bool
	Description            string
	KeyUsage               string
	KeyState               string
	DeletionDate           *float64 `json:",omitempty"`
	Origin                 string
	KeyManager             string
	KeySpec                string
	CustomerMasterKeySpec  string
	EncryptionAlgorithms   []string `json:",omitempty"`
	KeyAgreementAlgorithms []string `json:",omitempty"`
	SigningAlgorithms      []string `json:",omitempty"`
	MultiRegion            bool
	MultiRegionConfig      *multiRegion `json:"MultiRegionConfiguration,omitempty"`
}

type multiRegion struct {
	MultiRegionKeyType string
	PrimaryKey         regionKey
	ReplicaKeys        []regionKey
}

type regionKey struct{ Arn, Region string }

// seconds is a timestamp of AWS JSON: seconds since 1970, with a fraction.
func seconds(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

func (s *Server) metadata(k *key) metadata {
	m := metadata{AWSAccountID: s.opts.Account, KeyID: k.id, Arn: k.arn, CreationDate: seconds(k.created),
		Enabled: k.state == Enabled, Description: k.description, KeyUsage: k.usage, KeyState: k.state, Origin: "AWS_KMS",
		KeyManager: "CUSTOMER", KeySpec: k.spec, CustomerMasterKeySpec: k.spec, MultiRegion: k.multiRegion}
	m.EncryptionAlgorithms, m.KeyAgreementAlgorithms, m.SigningAlgorithms = k.algorithms()
	if k.state == PendingDeletion {
		at := seconds(k.deletion)
		m.DeletionDate = &at
	}
	if k.multiRegion {
		m.MultiRegionConfig = &multiRegion{MultiRegionKeyType: "PRIMARY",
			PrimaryKey: regionKey{Arn: k.arn, Region: s.opts.Region}, ReplicaKeys: []regionKey{}}
	}
	return m
}

// algorithms lists what a key can be used with; only one list is not empty.
func (k *key) algorithms() (encryption, agreement, signing []string) {
	switch k.usage {
	case encryptDecrypt:
		return encryptionAlgorithms, nil, nil
	case keyAgreement:
		return nil, []string{"ECDH"}, nil
	}
	if k.ecdh != nil {
		return nil, nil, curveSigning[k.spec]
	}
	return nil, nil, signingAlgorithms
}

type createKeyInput struct {
	Policy, Description, KeyUsage  string
	KeySpec, CustomerMasterKeySpec string
	Origin                         string
	CustomKeyStoreID               string `json:"CustomKeyStoreId"`
	MultiRegion                    bool
	BypassPolicyLockoutSafetyCheck bool
	Tags                           []tag
}

// maxPolicy is the size of a key policy in bytes.
const maxPolicy = 32768

func (s *Server) createKey(in *createKeyInput) (any, error) {
	name := in.KeySpec
	if name == "" {
		name = in.CustomerMasterKeySpec
	}
	wanted, known := specs[name]
	switch {
	case known && in.CustomKeyStoreID != "":
		// "You cannot create any other type of KMS key in a custom key store."
		return nil, refuse("UnsupportedOperationException", "KeySpec %s is not supported for custom key stores", name)
	case !known || in.Origin != "" && in.Origin != "AWS_KMS":
		return nil, refuse("UnsupportedOperationException", "kmstest makes no %q keys of origin %q", name, in.Origin)
	case in.KeyUsage == "":
		return nil, refuse("ValidationException", "You must specify a KeyUsage value for an asymmetric KMS key.")
	case !slices.Contains(wanted.usages, in.KeyUsage):
		return nil, refuse("ValidationException", "KeyUsage %s is not compatible with KeySpec %s", in.KeyUsage, name)
	case len(in.Description) > 8192:
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'description' failed to satisfy constraint: "+
			"Member must have length less than or equal to 8192")
	case in.Policy != "" && (len(in.Policy) > maxPolicy || !json.Valid([]byte(in.Policy))):
		return nil, refuse("MalformedPolicyDocumentException", "The policy is not well-formed")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := checkTags(nil, in.Tags); err != nil {
		return nil, err
	}
	k, err := s.make(name, in.KeyUsage, in.MultiRegion)
	if err != nil {
		return nil, err
	}
	k.description = in.Description
	k.tag(in.Tags)
	return map[string]any{"KeyMetadata": s.metadata(k)}, nil
}

type keyInput struct {
	KeyID string `json:"KeyId"`
}

func (s *Server) describeKey(in *keyInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byName(in.KeyID)
	if err != nil {
		return nil, err
	}
	return map[string]any{"KeyMetadata": s.metadata(k)}, nil
}

func (s *Server) enableKey(in *keyInput) (any, error) { return s.enable(in, Enabled) }

func (s *Server) disableKey(in *keyInput) (any, error) { return s.enable(in, Disabled) }

func (s *Server) enable(in *keyInput, state string) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byID(in.KeyID)
	if err != nil {
		return nil, err
	}
	if k.state == PendingDeletion {
		return nil, k.invalidState()
	}
	k.state = state
	return nil, nil
}

type scheduleKeyDeletionInput struct {
	KeyID               string `json:"KeyId"`
	PendingWindowInDays *int
}

func (s *Server) scheduleKeyDeletion(in *scheduleKeyDeletionInput) (any, error) {
	days := 30
	if in.PendingWindowInDays != nil {
		days = *in.PendingWindowInDays
	}
	if days < 7 || days > 30 {
		return nil, refuse("ValidationException", "PendingWindowInDays must be between 7 and 30 (inclusive)")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byID(in.KeyID)
	if err != nil {
		return nil, err
	}
	if k.state == PendingDeletion {
		return nil, k.invalidState()
	}
	k.state, k.deletion = PendingDeletion, time.Now().AddDate(0, 0, days)
	s.leaving++
	return map[string]any{"KeyId": k.arn, "DeletionDate": seconds(k.deletion), "KeyState": k.state, "PendingWindowInDays": days}, nil
}

// cancelKeyDeletion leaves the key disabled, as AWS does.
func (s *Server) cancelKeyDeletion(in *keyInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, err := s.byID(in.KeyID)
	if err != nil {
		return nil, err
	}
	if k.state != PendingDeletion {
		return nil, k.invalidState()
	}
	k.state, k.deletion = Disabled, time.Time{}
	s.leaving--
	return map[string]any{"KeyId": k.arn}, nil
}

type listInput struct {
	Limit  *int
	Marker string
}

func (s *Server) listKeys(in *listInput) (any, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reap()
	ids := slices.Sorted(maps.Keys(s.keys))
	page, next, err := s.page(ids, *in, 100, 1000)
	if err != nil {
		return nil, err
	}
	entries := []map[string]string{}
	for _, id := range page {
		entries = append(entries, map[string]string{"KeyId": id, "KeyArn": s.keys[id].arn})
	}
	return paged("Keys", entries, next), nil
}
