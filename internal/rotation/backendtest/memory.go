package backendtest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/big"
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
	// Adopts makes Generate find what an earlier run left and keep it, as a
	// KMS does; otherwise it is destroyed and made anew, as in a token.
	Adopts bool
	// DestroyDelay is how long a destroyed key is only scheduled for deletion.
	DestroyDelay time.Duration
}

// Memory is a backend in memory: real RSA keys, real envelopes, and faults on
// demand. It outlives the engine that uses it, as a token does.
type Memory struct {
	opts MemoryOptions

	mu     sync.Mutex
	keys   map[string]*memoryKey // by handle
	draw   drawer
	faults []*Fault
	calls  map[string]int
}

type memoryKey struct {
	private  *rsa.PrivateKey
	kid      string
	label    string
	managed  bool
	evidence boundary.Evidence
	goneAt   time.Time // zero until its deletion is scheduled
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
	return &Memory{opts: opts, keys: map[string]*memoryKey{}, calls: map[string]int{},
		draw: drawer{next: map[int]int{}, inUse: map[*rsa.PrivateKey]bool{}}}
}

// Generate makes a key pair under the name that spec gives.
func (m *Memory) Generate(ctx context.Context, spec boundary.Spec) (boundary.Generated, error) {
	return do(ctx, m, "generate", func() (boundary.Generated, error) {
		kid, err := canonical(spec.KID)
		if err != nil || spec.Key == "" {
			return boundary.Generated{}, fmt.Errorf("generating key %q under the kid %q: not a name this backend can give", spec.Key, spec.KID)
		}
		if spec.Algorithm != boundary.RSAOAEP256 || !slices.Contains([]int{2048, 3072, 4096}, spec.Bits) {
			return boundary.Generated{}, fmt.Errorf("generating a %d bit %s key: %w", spec.Bits, spec.Algorithm, boundary.ErrUnsupported)
		}
		label := "keyd/" + m.opts.Instance + "/" + spec.Key + "/" + kid
		handle := handleOf(kid, label)
		if old := m.live(handle); old != nil && m.opts.Adopts {
			return boundary.Generated{Handle: handle, Public: &old.private.PublicKey, Evidence: old.evidence}, nil
		}
		m.remove(handle)
		key, err := m.put(handle, kid, label, spec.Bits, true)
		if err != nil {
			return boundary.Generated{}, err
		}
		return boundary.Generated{Handle: handle, Public: &key.private.PublicKey, Evidence: key.evidence}, nil
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
		return &key.private.PublicKey, nil
	})
}

// Open opens an envelope.
func (m *Memory) Open(ctx context.Context, handle string, env *boundary.Envelope) (*boundary.Opened, error) {
	// The private key operation runs outside the lock, as in a token with
	// several sessions.
	private, err := do(ctx, m, "open", func() (*rsa.PrivateKey, error) {
		if key := m.live(handle); key != nil {
			return key.private, nil
		}
		return nil, fmt.Errorf("opening an envelope: %w", boundary.ErrNoKey)
	})
	if err != nil {
		return nil, err
	}
	size, known := boundary.CEKLen(env.Enc)
	if env.Alg != boundary.RSAOAEP256 || !known {
		return nil, fmt.Errorf("opening an envelope with %q and %q: %w", env.Alg, env.Enc, boundary.ErrUnsupported)
	}
	start := time.Now()
	plaintext, err := m.open(private, env, size)
	if err != nil {
		return nil, err
	}
	return &boundary.Opened{Plaintext: plaintext, Level: m.opts.Level, InToken: time.Since(start)}, nil
}

func (m *Memory) open(key *rsa.PrivateKey, env *boundary.Envelope, size int) ([]byte, error) {
	if m.opts.Level == boundary.Raw {
		c := new(big.Int).SetBytes(env.EncryptedKey)
		if len(env.EncryptedKey) != key.Size() || c.Cmp(key.N) >= 0 {
			return boundary.OpenWithCEK(env, nil, 0)
		}
		return boundary.OpenRaw(env, c.Exp(c, key.D, key.N).FillBytes(make([]byte, key.Size())))
	}
	cek, err := rsa.DecryptOAEP(sha256.New(), rand.Reader, key, env.EncryptedKey, nil)
	ok := 1
	if err != nil || len(env.EncryptedKey) != key.Size() || len(cek) != size {
		ok = 0
	}
	return boundary.OpenWithCEK(env, cek, ok)
}

// Destroy deletes a key, or schedules it.
func (m *Memory) Destroy(ctx context.Context, handle string) (bool, error) {
	return do(ctx, m, "destroy", func() (bool, error) {
		key := m.keys[handle]
		switch {
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
	h := boundary.Health{Backend: m.opts.Name, Kind: "memory", Level: m.opts.Level, Device: m.device(), Sessions: 1}
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

func (m *Memory) put(handle, kid, label string, bits int, managed bool) (*memoryKey, error) {
	private, err := m.draw.take(bits)
	if err != nil {
		return nil, err
	}
	key := &memoryKey{private: private, kid: kid, label: label, managed: managed,
		evidence: boundary.Evidence{At: time.Now().UTC(), Backend: "memory", Device: m.device(),
			Level: m.opts.Level, Attributes: map[string]string{"CKA_LABEL": label}}}
	m.keys[handle] = key
	return key, nil
}

func (m *Memory) remove(handle string) {
	if key := m.keys[handle]; key != nil {
		m.draw.give(key.private)
		delete(m.keys, handle)
	}
}

func (k *memoryKey) found(handle string) boundary.Found {
	return boundary.Found{Handle: handle, KID: k.kid, Label: k.label, Public: &k.private.PublicKey,
		Managed: k.managed, Evidence: k.evidence}
}

func handleOf(kid, label string) string {
	return "memory:id=" + hex.EncodeToString([]byte(kid)) + ";object=" + label
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
