package kms

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// Destroy schedules a key's deletion. The key is gone when KMS no longer knows
// it; until then nothing but this Region's KMS can tell.
func (b *Backend) Destroy(ctx context.Context, handle string) (gone bool, err error) {
	if err := b.checkHandle(handle); err != nil {
		return false, fmt.Errorf("destroying a key: %w", err)
	}
	key, err := b.describe(ctx, handle)
	switch {
	case errors.Is(err, boundary.ErrNoKey):
		return true, nil
	case err != nil:
		return false, fmt.Errorf("destroying a key: %w", err)
	case leaving(key.KeyState):
		return false, nil
	}
	if err := b.schedule(ctx, handle); err != nil {
		return false, fmt.Errorf("destroying a key: %w", err)
	}
	return false, nil
}

// schedule asks for a key's deletion. That somebody was faster is no error.
func (b *Backend) schedule(ctx context.Context, arn string) error {
	days := int32(b.cfg.DeletionWindowDays)
	_, err := call(ctx, b, changing, "ScheduleKeyDeletion", b.client.ScheduleKeyDeletion,
		&kms.ScheduleKeyDeletionInput{KeyId: &arn, PendingWindowInDays: &days})
	if err = b.clarify(ctx, arn, err); errors.Is(err, boundary.ErrNoKey) {
		return nil
	}
	return err
}

// Disable keeps a key from being used by anybody. A key that is being deleted,
// or is gone, is used by nobody already.
func (b *Backend) Disable(ctx context.Context, handle string) error {
	if err := b.checkHandle(handle); err != nil {
		return fmt.Errorf("disabling a key: %w", err)
	}
	_, err := call(ctx, b, changing, "DisableKey", b.client.DisableKey, &kms.DisableKeyInput{KeyId: &handle})
	if err = b.clarify(ctx, handle, err); err != nil && !errors.Is(err, boundary.ErrNoKey) {
		return fmt.Errorf("disabling a key: %w", err)
	}
	return nil
}

// Rescue calls off a key's deletion, after which KMS leaves it disabled, and
// enables it if it is to be used again. One that is not, and that somebody has
// enabled, it disables.
func (b *Backend) Rescue(ctx context.Context, handle string, enable bool) error {
	if err := b.rescue(ctx, handle, enable); err != nil {
		return fmt.Errorf("rescuing a key: %w", err)
	}
	return nil
}

func (b *Backend) rescue(ctx context.Context, handle string, enable bool) error {
	if err := b.checkHandle(handle); err != nil {
		return err
	}
	key, err := b.describe(ctx, handle)
	if err != nil {
		return err
	}
	if leaving(key.KeyState) {
		_, err := call(ctx, b, changing, "CancelKeyDeletion", b.client.CancelKeyDeletion, &kms.CancelKeyDeletionInput{KeyId: &handle})
		if err != nil {
			return err
		}
		key.KeyState = types.KeyStateDisabled
	}
	switch enabled := key.KeyState != types.KeyStateDisabled; {
	case enable && !enabled:
		_, err = call(ctx, b, changing, "EnableKey", b.client.EnableKey, &kms.EnableKeyInput{KeyId: &handle})
	case !enable && enabled:
		_, err = call(ctx, b, changing, "DisableKey", b.client.DisableKey, &kms.DisableKeyInput{KeyId: &handle})
	}
	return err
}
