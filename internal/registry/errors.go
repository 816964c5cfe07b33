package registry

import (
	"errors"
	"fmt"
)

var (
	// ErrNotFound: there is no key, version or partner key of that name.
	ErrNotFound = errors.New("not in the registry")
	// ErrExists: the name, kid or handle is taken.
	ErrExists = errors.New("already in the registry")
	// ErrInvalid: the value cannot be stored as it is.
	ErrInvalid = errors.New("not a valid value")
	// ErrTransition: the transition table does not allow the move, or the
	// version lacks what the new state promises.
	ErrTransition = errors.New("the move is not allowed")
	// ErrSecondActive: the moves would leave a key with two active versions.
	ErrSecondActive = errors.New("the key would have two active versions")
	// ErrInFlight: the key has a version that is pending or announced.
	ErrInFlight = errors.New("another version is in flight")
	// ErrLastOpenable: the moves would leave a key that is in use without a
	// version that opens. Only Compromised may.
	ErrLastOpenable = errors.New("no version of the key would open any more")
	// ErrImmutable: something fixed would be changed.
	ErrImmutable = errors.New("it cannot be changed")
	// ErrClosed: the registry was closed before the call.
	ErrClosed = errors.New("the registry is closed")

	// ErrLocked: the file's lock is held, at Open.
	ErrLocked = errors.New("another keyd has it open")
	// ErrCorrupt: what is stored cannot be read, at Open and when the registry
	// reads it anew.
	ErrCorrupt = errors.New("it is damaged; restore it from a backup")
	// ErrNewerSchema: a newer keyd wrote it, at Open. The error is a
	// *NewerSchemaError.
	ErrNewerSchema = errors.New("it was written by a newer keyd")
)

// NewerSchemaError refuses a registry whose schema this keyd does not know.
// Nothing was changed in it.
type NewerSchemaError struct {
	Found int // schema of the registry
	Known int // SchemaVersion of this keyd
}

func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("it has schema %d, this keyd knows %d: a newer keyd wrote it and must be installed again; nothing was changed", e.Found, e.Known)
}

// Is makes errors.Is(err, ErrNewerSchema) true.
func (e *NewerSchemaError) Is(target error) bool { return target == ErrNewerSchema }
