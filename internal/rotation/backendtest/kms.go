package backendtest

import (
	"context"
	"fmt"
	"time"

	"keyd/internal/boundary"
)

// KMS is a Memory that pretends to be a KMS: Generate adopts, Destroy waits,
// keys can be disabled and their deletion called off.
type KMS struct{ *Memory }

// NewKMS makes an empty one; its keys are deleted after a delay.
func NewKMS(name string, delay time.Duration) *KMS {
	return &KMS{NewMemory(MemoryOptions{Name: name, Adopts: true, DestroyDelay: delay})}
}

// Disable keeps a key from being used.
func (k *KMS) Disable(ctx context.Context, handle string) error {
	_, err := do(ctx, k.Memory, "disable", func() (struct{}, error) {
		key := k.live(handle)
		if key == nil {
			return struct{}{}, fmt.Errorf("disabling a key: %w", boundary.ErrNoKey)
		}
		key.disabled = true
		return struct{}{}, nil
	})
	return err
}

// Rescue calls off a deletion; the key is disabled then, unless it is to be
// used.
func (k *KMS) Rescue(ctx context.Context, handle string, enable bool) error {
	_, err := do(ctx, k.Memory, "rescue", func() (struct{}, error) {
		key := k.keys[handle]
		if key == nil || !key.goneAt.IsZero() && !time.Now().Before(key.goneAt) {
			return struct{}{}, fmt.Errorf("rescuing a key: %w", boundary.ErrNoKey)
		}
		key.goneAt, key.disabled = time.Time{}, !enable
		return struct{}{}, nil
	})
	return err
}
