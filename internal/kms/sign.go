package kms

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// Sign has KMS sign a SHA-256 digest.
func (b *Backend) Sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	signature, err := b.sign(ctx, handle, digest)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return signature, nil
}

func (b *Backend) sign(ctx context.Context, handle string, digest []byte) ([]byte, error) {
	if len(digest) != sha256.Size {
		return nil, fmt.Errorf("a digest of %d bytes: want %d: %w", len(digest), sha256.Size, boundary.ErrUnsupported)
	}
	if err := b.checkHandle(handle); err != nil {
		return nil, err
	}
	release, err := b.slot(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	out, err := call(ctx, b, withRSA, "Sign", b.client.Sign,
		&kms.SignInput{KeyId: &handle, Message: digest, MessageType: types.MessageTypeDigest, SigningAlgorithm: pss256})
	if err != nil {
		return nil, b.clarify(ctx, handle, err)
	}
	if deref(out.KeyId) != handle || out.SigningAlgorithm != pss256 {
		return nil, fmt.Errorf("%w: the answer to Sign is for another key or algorithm", ErrUnreachable)
	}
	return out.Signature, nil
}
