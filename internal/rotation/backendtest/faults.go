package backendtest

import (
	"context"
	"fmt"
	"slices"

	"keyd/internal/boundary"
)

// Fault makes coming calls of one operation fail. Faults come in pairs: with
// After unset the call does nothing; with After set it does its work and the
// answer is lost.
type Fault struct {
	Op    string // "generate", "discard", "public", "open", "destroy", "find", "list", "health", "sign", "hold", "open-held", "release", "disable", "rescue"
	After bool
	Err   error // default boundary.ErrUnavailable
	Times int   // how many calls; 0 is one
}

// Inject adds a fault.
func (m *Memory) Inject(f Fault) {
	if f.Err == nil {
		f.Err = boundary.ErrUnavailable
	}
	f.Times = max(f.Times, 1)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, &f)
}

// Heal takes back every fault that has not happened yet.
func (m *Memory) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = nil
}

// Calls counts the calls of an operation so far.
func (m *Memory) Calls(op string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls[op]
}

// Plant puts a key pair there that keyd did not make. The kid may be "".
func (m *Memory) Plant(label, kid string, bits int) (boundary.Found, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	handle := fmt.Sprintf("%s;n=%d", handleOf(kid, label), len(m.keys))
	key, err := m.put(handle, kid, label, boundary.Material{Algorithm: boundary.RSAOAEP256, Bits: bits}, false)
	if err != nil {
		return boundary.Found{}, err
	}
	return key.found(handle), nil
}

// Lose removes a key without a trace, as a token restored from an old backup does.
func (m *Memory) Lose(handle string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.remove(handle)
}

// Swap puts other material under a handle.
func (m *Memory) Swap(handle string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := m.keys[handle]
	if key == nil {
		return boundary.ErrNoKey
	}
	private, err := m.draw.take(key.private.N.BitLen())
	if err != nil {
		return err
	}
	m.draw.give(key.private)
	key.private = private
	return nil
}

// do runs one operation under the lock with the fault that waits for it.
func do[T any](ctx context.Context, m *Memory, op string, act func() (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, fmt.Errorf("%s: %w", op, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls[op]++
	fault := m.fault(op)
	if fault != nil && !fault.After {
		return none, fmt.Errorf("%s: %w", op, fault.Err)
	}
	answer, err := act()
	if fault != nil && err == nil {
		return none, fmt.Errorf("%s, its answer lost: %w", op, fault.Err)
	}
	return answer, err
}

// fault uses up one turn of the first fault that names op.
func (m *Memory) fault(op string) *Fault {
	for i, f := range m.faults {
		if f.Op != op {
			continue
		}
		if f.Times--; f.Times == 0 {
			m.faults = slices.Delete(m.faults, i, i+1)
		}
		return f
	}
	return nil
}
