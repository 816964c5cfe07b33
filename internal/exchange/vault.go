package exchange

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// slotSize has room for the longest secret there is, the private key of P-521
// in 66 bytes, and for its length.
const slotSize = 72

// vault keeps small secrets outside the Go heap, where the garbage collector
// makes no copies: in pages that are not swapped, not in a core file, not in a
// child. A secret is wiped when it is dropped.
type vault struct {
	mu    sync.Mutex
	arena []byte
	free  []int
}

// newVault sets room aside for so many secrets. It fails where memory cannot
// be locked: RLIMIT_MEMLOCK is too low.
func newVault(slots int) (*vault, error) {
	v := &vault{}
	if slots == 0 {
		return v, nil
	}
	arena, err := unix.Mmap(-1, 0, slots*slotSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMemory, err)
	}
	v.arena = arena
	if err := unix.Mlock(arena); err != nil {
		err = fmt.Errorf("%w: locking %d KiB: %w", ErrMemory, len(arena)>>10, err)
		return nil, errors.Join(err, v.close())
	}
	for _, advice := range []int{unix.MADV_DONTDUMP, unix.MADV_WIPEONFORK} {
		if err := unix.Madvise(arena, advice); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: keeping them out of core files and children: %w", ErrMemory, err), v.close())
		}
	}
	for slot := slots - 1; slot >= 0; slot-- {
		v.free = append(v.free, slot)
	}
	return v, nil
}

// put copies a secret in. ok is false if there is no room.
func (v *vault) put(secret []byte) (slot int, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	n := len(v.free)
	if n == 0 || len(secret) >= slotSize {
		return 0, false
	}
	slot, v.free = v.free[n-1], v.free[:n-1]
	s := v.slot(slot)
	s[0] = byte(len(secret))
	copy(s[1:], secret)
	return slot, true
}

// use lends a secret to f, which must not keep it. Nobody drops it meanwhile.
func (v *vault) use(slot int, f func(secret []byte)) {
	s := v.slot(slot)
	f(s[1 : 1+int(s[0])])
}

// drop wipes a secret and makes its room free.
func (v *vault) drop(slot int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.slot(slot))
	v.free = append(v.free, slot)
}

func (v *vault) slot(i int) []byte { return v.arena[i*slotSize : (i+1)*slotSize : (i+1)*slotSize] }

// close wipes what is left and gives the memory back.
func (v *vault) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.arena == nil {
		return nil
	}
	clear(v.arena)
	arena := v.arena
	v.arena, v.free = nil, nil
	return unix.Munmap(arena)
}
