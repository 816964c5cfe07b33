package backendtest

import (
	"context"
	"crypto"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"keyd/internal/boundary"
)

// MemoryOptions say which kind of backend a Memory pretends to be.
type MemoryOptions struct {
	Name     string         // in the config; default "memory"
	Instance string         // part of every label; default "test"
	Level    boundary.Level // default boundary.Unwrap
	// Without are the key algorithms it has no keys for.
	Without []string
	// Adopts makes Generate find what an earlier run left and keep it, as a
	// KMS does; otherwise it is destroyed and made anew, as in a token.
	Adopts bool
	// DestroyDelay is how long a destroyed key is only scheduled for deletion.
	DestroyDelay time.Duration
}

// Memory is a backend in memory: real keys, real envelopes, and faults on
// demand. It outlives the engine that uses it, as a token does.
type Memory struct {
	opts MemoryOptions

	mu     sync.Mutex
	keys   map[string]*memoryKey // by handle
	draw   drawer
	faults []*Fault
	calls  map[string]int
	held   map[string]heldKey // content keys of exchanges
}

type memoryKey struct {
	material boundary.Material
	private  *rsa.PrivateKey  // or
	onCurve  *ecdh.PrivateKey // this
	kid      string
	label    string
	managed  bool
	evidence boundary.Evidence
	goneAt   time.Time // zero until its deletion is scheduled
	disabled bool
}

// NewMemory makes an empty one.
func NewMemory(opts MemoryOptions) *Memory {
	if opts.Name == "" {
		opts.Name = "memory"
	}
	if opts.Instance == "" {
		opts.Instance = "test"
	}
	if opts.Level == "" {
		opts.Level = boundary.Unwrap
	}
	return &Memory{opts: opts, keys: map[string]*memoryKey{}, calls: map[string]int{}, held: map[string]heldKey{},
		draw: drawer{next: map[int]int{}, inUse: map[*rsa.PrivateKey]bool{}}}
}

// Generate makes a key pair under the name that spec gives.
func (m *Memory) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	return do(ctx, m, "generate", func() (boundary.Generated, error) {
		kid, err := canonical(spec.KID)
		if err != nil || spec.Key == "" {
			return boundary.Generated{}, fmt.Errorf("generating key %q under the kid %q: not a name this backend can give", spec.Key, spec.KID)
		}
		if err := spec.Check(); err != nil {
			return boundary.Generated{}, fmt.Errorf("generating %w", err)
		}
		if slices.Contains(m.opts.Without, spec.Algorithm) {
			return boundary.Generated{}, fmt.Errorf("generating a key for %s: %w", spec.Algorithm, boundary.ErrUnsupported)
		}
		label := "keyd/" + m.opts.Instance + "/" + spec.Key + "/" + kid
		handle := handleOf(kid, label)
		if old := m.live(handle); old != nil && m.opts.Adopts {
			return boundary.Generated{Handle: handle, Public: old.public(), Evidence: old.evidence}, nil
		}
		m.remove(handle)
		key, err := m.put(handle, kid, label, spec.Material, true)
		if err != nil {
			return boundary.Generated{}, err
		}
		return boundary.Generated{Handle: handle, Public: key.public(), Evidence: key.evidence}, nil
	})
}

// Discard removes what stands under spec's name.
func (m *Memory) Discard(ctx context.Context, spec boundary.Spec) error {
	_, err := do(ctx, m, "discard", func() (struct{}, error) {
		m.remove(handleOf(spec.KID, "keyd/"+m.opts.Instance+"/"+spec.Key+"/"+spec.KID))
		return struct{}{}, nil
	})
	return err
}

// Public reads a public key.
func (m *Memory) Public(ctx context.Context, handle string) (crypto.PublicKey, error) {
	return do(ctx, m, "public", func() (crypto.PublicKey, error) {
		key := m.live(handle)
		if key == nil {
			return nil, fmt.Errorf("reading a public key: %w", boundary.ErrNoKey)
		}
		if key.disabled { // as AWS KMS does
			return nil, fmt.Errorf("reading a public key: %w", boundary.ErrDisabled)
		}
		return key.public(), nil
	})
}

// Destroy deletes a key, or schedules it.
func (m *Memory) Destroy(ctx context.Context, handle string) (bool, error) {
	return do(ctx, m, "destroy", func() (bool, error) {
		key := m.keys[handle]
		switch {
		case key == nil && !strings.HasPrefix(handle, handlePrefix):
			return false, fmt.Errorf("destroying a key: the handle is not one of this backend's: %w", boundary.ErrNoKey)
		case key == nil:
			return true, nil
		case m.opts.DestroyDelay == 0:
			m.remove(handle)
			return true, nil
		case key.goneAt.IsZero():
			key.goneAt = time.Now().Add(m.opts.DestroyDelay)
			return false, nil
		case time.Now().Before(key.goneAt):
			return false, nil
		}
		m.remove(handle)
		return true, nil
	})
}

// Find looks for one key.
func (m *Memory) Find(ctx context.Context, query string) (boundary.Found, error) {
	return do(ctx, m, "find", func() (boundary.Found, error) {
		var found []boundary.Found
		id := strings.ToLower(strings.ReplaceAll(query, "-", ""))
		for handle, key := range m.keys {
			named := query == handle || query == key.label || key.kid != "" && id == strings.ReplaceAll(key.kid, "-", "")
			if key.goneAt.IsZero() && named {
				found = append(found, key.found(handle))
			}
		}
		switch len(found) {
		case 0:
			return boundary.Found{}, fmt.Errorf("finding %q: %w", query, boundary.ErrNoKey)
		case 1:
			return found[0], nil
		}
		return boundary.Found{}, fmt.Errorf("finding %q: %w", query, boundary.ErrAmbiguous)
	})
}

// List returns every key.
func (m *Memory) List(ctx context.Context) ([]boundary.Found, error) {
	return do(ctx, m, "list", func() ([]boundary.Found, error) {
		var all []boundary.Found
		for handle, key := range m.keys {
			if key.goneAt.IsZero() {
				all = append(all, key.found(handle))
			}
		}
		slices.SortFunc(all, func(a, b boundary.Found) int { return strings.Compare(a.Handle, b.Handle) })
		return all, nil
	})
}

// Health says that all is well, unless a fault of "health" waits.
func (m *Memory) Health(ctx context.Context) boundary.Health {
	h := boundary.Health{Backend: m.opts.Name, Kind: "memory", Levels: map[string]boundary.Level{}, Device: m.device(), Sessions: 1}
	for _, algorithm := range []string{boundary.RSAOAEP256, boundary.ECDHES, boundary.PS256} {
		if !slices.Contains(m.opts.Without, algorithm) {
			h.Levels[algorithm] = m.opts.Level
		}
	}
	if _, err := do(ctx, m, "health", func() (struct{}, error) { return struct{}{}, nil }); err != nil {
		h.Err = err.Error()
	}
	return h
}

func (m *Memory) device() map[string]string { return map[string]string{"label": m.opts.Name} }

// live returns a key that is not scheduled for deletion.
func (m *Memory) live(handle string) *memoryKey {
	if key := m.keys[handle]; key != nil && key.goneAt.IsZero() {
		return key
	}
	return nil
}

func (m *Memory) put(handle, kid, label string, material boundary.Material, managed bool) (*memoryKey, error) {
	key := &memoryKey{material: material, kid: kid, label: label, managed: managed,
		evidence: boundary.Evidence{At: time.Now().UTC(), Backend: "memory", Device: m.device(),
			Level: m.opts.Level, Attributes: map[string]string{"CKA_LABEL": label}}}
	var err error
	if curve := boundary.CurveOf(material.Curve); curve != nil {
		key.onCurve, err = curve.GenerateKey(rand.Reader)
	} else {
		key.private, err = m.draw.take(material.Bits)
	}
	if err != nil {
		return nil, err
	}
	m.keys[handle] = key
	return key, nil
}

func (m *Memory) remove(handle string) {
	if key := m.keys[handle]; key != nil {
		if key.private != nil {
			m.draw.give(key.private)
		}
		delete(m.keys, handle)
	}
}

func (k *memoryKey) public() crypto.PublicKey {
	if k.onCurve != nil {
		return k.onCurve.PublicKey()
	}
	return &k.private.PublicKey
}

func (k *memoryKey) found(handle string) boundary.Found {
	f := boundary.Found{Handle: handle, KID: k.kid, Label: k.label, Managed: k.managed, Evidence: k.evidence}
	if !k.disabled {
		f.Public = k.public()
	}
	return f
}

const handlePrefix = "memory:id="

func handleOf(kid, label string) string {
	return handlePrefix + hex.EncodeToString([]byte(kid)) + ";object=" + label
}

// canonical refuses a kid that is not a UUID in its one usual form.
func canonical(kid string) (string, error) {
	id, err := uuid.Parse(kid)
	if err != nil {
		return "", err
	}
	if id.String() != kid {
		return "", fmt.Errorf("%q is not how a UUID is written", kid)
	}
	return kid, nil
}
