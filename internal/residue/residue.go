// Package residue looks for secrets in the memory of a process: what a thief of
// a core file would do. It is for tests, which know the secrets.
package residue

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Find counts how often the readable memory of a process holds each of some
// secrets, which have names. It takes the right to trace the process.
func Find(pid int, secrets map[string][]byte) (map[string]int, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, fmt.Errorf("reading where a process has memory: %w", err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return nil, fmt.Errorf("opening the memory of a process: %w", err)
	}
	defer func() { _ = mem.Close() }() // it was only read
	known, err := indexOf(secrets)
	if err != nil {
		return nil, err
	}
	found := map[string]int{}
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return nil, fmt.Errorf("reading the line %q: %w", lines.Text(), err)
		}
		// What the kernel puts into every process cannot be read in this way.
		if mode[0] != 'r' || strings.HasSuffix(lines.Text(), "[vvar]") || strings.HasSuffix(lines.Text(), "[vsyscall]") {
			continue
		}
		known.count(read(mem, from, to), found)
	}
	return found, nil
}

// index finds hundreds of secrets in one pass: a process changes while it is looked
// through.
type index struct {
	begins [1 << 16 / 64]uint64    // a bit for each pair of bytes that one begins with
	by     map[[2]byte][]namedText // and which those are
}

type namedText struct {
	name string
	text []byte
}

func indexOf(secrets map[string][]byte) (*index, error) {
	ix := &index{by: map[[2]byte][]namedText{}}
	for name, text := range secrets {
		if len(text) < 2 {
			return nil, fmt.Errorf("%s: a secret of %d bytes is everywhere", name, len(text))
		}
		pair := [2]byte(text)
		at := int(pair[0]) | int(pair[1])<<8
		ix.begins[at/64] |= 1 << (at % 64)
		ix.by[pair] = append(ix.by[pair], namedText{name, text})
	}
	return ix, nil
}

// count adds how often part holds each.
func (ix *index) count(part []byte, found map[string]int) {
	for i := range max(0, len(part)-1) {
		at := int(part[i]) | int(part[i+1])<<8
		if ix.begins[at/64]&(1<<(at%64)) == 0 {
			continue
		}
		for _, secret := range ix.by[[2]byte(part[i:])] {
			if bytes.HasPrefix(part[i:], secret.text) {
				found[secret.name]++
			}
		}
	}
}

// read reads a mapping. What of it cannot be read, because it has gone meanwhile
// or its file has become shorter, is zeros, and what comes after it is read.
func read(mem *os.File, from, to uint64) []byte {
	part := make([]byte, to-from)
	page := os.Getpagesize()
	for at := 0; at < len(part); {
		n, err := mem.ReadAt(part[at:], int64(from)+int64(at))
		if at += n; err != nil {
			at = (at/page + 1) * page
		}
	}
	return part
}
