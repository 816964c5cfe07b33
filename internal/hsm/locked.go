package hsm

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// locked is memory for secrets that stay for a while: outside Go's heap, not
// swapped out and not in core files, where the limits of the process allow that.
// Its owner sees to it that one goroutine uses it at a time.
type locked struct {
	mem  []byte
	free []int // slots that nobody has
}

// A slot holds the longest content key there is. All of them together are 64 KiB,
// which is what an ordinary process may lock (RLIMIT_MEMLOCK, until Linux 5.16).
const slotSize = 64

// put copies a secret into a slot. There must be one left.
func (l *locked) put(secret []byte) (slot int, err error) {
	if l.mem == nil {
		if err := l.reserve(); err != nil {
			return 0, err
		}
	}
	last := len(l.free) - 1
	slot = l.free[last]
	l.free = l.free[:last]
	copy(l.at(slot), secret)
	return slot, nil
}

func (l *locked) reserve() error {
	mem, err := unix.Mmap(-1, 0, slotSize*maxHeld, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("memory for content keys: %w", err)
	}
	// Where the limits do not allow it, the process has said so at its start.
	_ = unix.Mlock(mem)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	l.mem = mem
	for slot := range maxHeld {
		l.free = append(l.free, slot)
	}
	return nil
}

func (l *locked) at(slot int) []byte { return l.mem[slot*slotSize : (slot+1)*slotSize] }

// wipe gives a slot back.
func (l *locked) wipe(slot int) {
	clear(l.at(slot))
	l.free = append(l.free, slot)
}

// unmap wipes all of it and gives it back.
func (l *locked) unmap() error {
	if l.mem == nil {
		return nil
	}
	clear(l.mem)
	err := unix.Munmap(l.mem)
	l.mem, l.free = nil, nil
	return err
}
