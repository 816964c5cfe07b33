package kms

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"keyd/internal/boundary"
)

// Why KMS did not do what it was asked, besides what package boundary says.
var (
	// ErrDenied: AWS refuses the credentials, or there are none, or they do
	// not carry the permission.
	ErrDenied = fmt.Errorf("%w: AWS denies access", boundary.ErrUnavailable)
	// ErrUnreachable: no answer came, or a broken one. What was asked for may
	// have been done.
	ErrUnreachable = fmt.Errorf("%w: AWS KMS cannot be reached", boundary.ErrUnavailable)
	// ErrElsewhere: the handle is not the ARN of a KMS key of this Region, so
	// nothing is known of its key; above all not that it is gone.
	ErrElsewhere = fmt.Errorf("%w: not the ARN of a KMS key of this Region", boundary.ErrUnavailable)
	// ErrPendingDeletion: the key's deletion is scheduled. Until it is
	// carried out, `aws kms cancel-key-deletion` brings the key back.
	ErrPendingDeletion = fmt.Errorf("%w: its deletion is scheduled", boundary.ErrNoKey)
	// ErrUsage: the KMS key is not one that decrypts with RSA-OAEP.
	ErrUsage = fmt.Errorf("%w: the KMS key was made for another use", boundary.ErrUnsupported)

	errCredentials = errors.New("getting AWS credentials")
	errBudget      = errors.New("keyd's own budget of requests is used up")
	errSlots       = errors.New("as many calls as configured are under way")
)

// retryAfter is when to come back to a KMS that throttles: its quotas are per
// second.
const retryAfter = time.Second

// throttled is [boundary.ErrBusy] with a time to come back.
type throttled struct {
	after time.Duration
	cause error
}

func (t throttled) Error() string { return fmt.Sprintf("%s: %s", boundary.ErrBusy, t.cause) }

// Unwrap makes it boundary.ErrBusy.
func (t throttled) Unwrap() []error { return []error{boundary.ErrBusy, t.cause} }

// RetryAfter is how long to wait before asking again.
func (t throttled) RetryAfter() time.Duration { return t.after }

// answered is an error that KMS itself gave. Its text is short and names the
// request, for AWS's support; the SDK's own repeats itself.
type answered struct {
	kind  error // nil where nothing of ours says it better
	api   smithy.APIError
	id    string
	cause error
}

func (a *answered) Error() string {
	text := a.api.ErrorCode()
	if message := a.api.ErrorMessage(); message != "" {
		text += ": " + message
	}
	if a.kind != nil {
		text = a.kind.Error() + ": " + text
	}
	if a.id != "" {
		text += " (request " + a.id + ")"
	}
	return text
}

// Unwrap gives our kind and the SDK's error.
func (a *answered) Unwrap() []error {
	if a.kind == nil {
		return []error{a.cause}
	}
	return []error{a.kind, a.cause}
}

// kinds is what KMS's codes are to keyd.
var kinds = map[string]error{
	"NotFoundException":                   boundary.ErrNoKey,
	"DisabledException":                   boundary.ErrDisabled,
	"InvalidKeyUsageException":            ErrUsage,
	"AccessDeniedException":               ErrDenied,
	"UnrecognizedClientException":         ErrDenied,
	"InvalidClientTokenId":                ErrDenied,
	"MissingAuthenticationTokenException": ErrDenied,
	"IncompleteSignatureException":        ErrDenied,
	"InvalidSignatureException":           ErrDenied,
	"SignatureDoesNotMatch":               ErrDenied,
	"ExpiredTokenException":               ErrDenied,
	"OptInRequired":                       ErrDenied,
	"KMSInvalidStateException":            boundary.ErrUnavailable,
	"KMSInternalException":                boundary.ErrUnavailable,
	"KeyUnavailableException":             boundary.ErrUnavailable,
	"DependencyTimeoutException":          boundary.ErrUnavailable,
	"InternalFailure":                     boundary.ErrUnavailable,
	"ServiceUnavailable":                  boundary.ErrUnavailable,
	"ServiceUnavailableException":         boundary.ErrUnavailable,
}

var throttles = []string{"ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"}

// explain turns the SDK's error into keyd's. ctx is the caller's own, without
// the timeout of the call.
func explain(ctx context.Context, err error) error {
	switch gone := ctx.Err(); {
	case errors.Is(gone, context.Canceled):
		return gone
	case gone != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, gone)
	case errors.Is(err, errCredentials): // it may hold an answer of another service
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	api, ok := errors.AsType[smithy.APIError](err)
	if !ok {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	a := &answered{kind: kinds[api.ErrorCode()], api: api, cause: err}
	if resp, ok := errors.AsType[*awshttp.ResponseError](err); ok {
		a.id = resp.ServiceRequestID()
	}
	if slices.Contains(throttles, api.ErrorCode()) {
		return throttled{after: retryAfter, cause: a}
	}
	return a
}
