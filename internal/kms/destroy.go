package kms

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"

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
