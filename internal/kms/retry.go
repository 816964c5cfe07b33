package kms

import (
	"context"
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// errNoTime: another try would come after the caller has given up.
var errNoTime = errors.New("no time is left for another try")

// retries are the SDK's retries of one call, within what the caller and the
// budget allow: each try is a request that KMS counts, and one that the caller
// does not wait for is worth nothing. What KMS said last is then the answer,
// at once, instead of a timeout later.
type retries struct {
	aws.RetryerV2
	budget *limiter
	tries  int
	delay  time.Duration // before the next try
}

// GetRetryToken decides whether there is another try, and when.
func (r *retries) GetRetryToken(ctx context.Context, failure error) (func(error) error, error) {
	release, err := r.RetryerV2.GetRetryToken(ctx, failure)
	if err != nil {
		return nil, err
	}
	r.tries++
	if r.delay, err = r.RetryerV2.RetryDelay(r.tries, failure); err != nil {
		return nil, err
	}
	left := time.Hour
	if deadline, set := ctx.Deadline(); set {
		left = time.Until(deadline)
	}
	wait, ok := r.budget.take(time.Now(), left)
	if r.delay = max(r.delay, wait); !ok || r.delay >= left {
		return nil, errNoTime
	}
	return release, nil
}

// RetryDelay is what GetRetryToken found.
func (r *retries) RetryDelay(int, error) (time.Duration, error) { return r.delay, nil }
