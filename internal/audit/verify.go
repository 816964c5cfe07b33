package audit

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strconv"
	"time"
)

// maxTorn is the most that a crash in mid-write can leave without a newline:
// one batch, of which some file systems keep the length and not the content.
const maxTorn = 256 << 10

// Report is what Verify saw: all of a whole log, or what stands before the
// place where it is broken.
type Report struct {
	Entries uint64    `json:"entries"`
	Bytes   int64     `json:"bytes"`
	First   time.Time `json:"first,omitzero"` // when the first entry was written
	Last    time.Time `json:"last,omitzero"`  // when the last one was
	Head    Head      `json:"head"`
	// Remembered is the head that the log was held against. If there is none,
	// a truncation cannot have been seen.
	Remembered *Head `json:"remembered,omitempty"`
}

// Verify reads a whole log and proves that it is an unbroken chain that leads
// to want, or, if want is nil, to the head remembered beside it (HeadPath). What
// it finds wrong is a *BrokenError. The log may be in use meanwhile.
func Verify(path string, want *Head) (Report, error) {
	return Scan(path, want, nil)
}

// Scan is Verify that hands on each line that it has found good, without its
// newline, with the head that it makes. The line is the callee's for the length
// of the call only.
func Scan(path string, want *Head, visit func(line []byte, head Head)) (Report, error) {
	// The head first: read the other way round, it could lead.
	if want == nil {
		remembered, ok, err := readHead(HeadPath(path))
		if err != nil {
			return Report{}, fmt.Errorf("verifying the audit log %s: %w", path, err)
		}
		if ok {
			want = &remembered
		}
	}
	f, err := os.Open(path)
	if err != nil {
		return Report{}, fmt.Errorf("verifying the audit log: %w", err)
	}
	defer func() { _ = f.Close() }() // nothing was written
	c := newChain(want)
	c.visit = visit
	err = c.read(f)
	if err == nil && c.torn > 0 {
		// The daemon may be in the middle of this line.
		time.Sleep(50 * time.Millisecond)
		if _, err = f.Seek(c.end, io.SeekStart); err == nil {
			err = c.read(f)
		}
	}
	if err == nil && c.torn > 0 {
		err = c.broken("%d bytes without a newline at the end: a crash in mid-write, or not written by keyd", c.torn)
	}
	if err == nil {
		err = c.reached()
	}
	if err != nil {
		err = fmt.Errorf("verifying the audit log %s: %w", path, err)
	}
	return c.report(), err
}

// chain verifies a log line by line.
type chain struct {
	want        *Head // to pass on the way; nil if none is known
	passed      bool
	head        Head
	first, last time.Time
	line        int
	end         int64 // after the last complete line
	torn        int64 // bytes after end
	intents     intents
	visit       func(line []byte, head Head) // nil: nobody wants to see
	sum         hash.Hash
	hex         [hexLen]byte
}

func newChain(want *Head) *chain {
	c := &chain{want: want, head: genesis(), sum: sha256.New(), intents: intents{}}
	c.passed = want == nil || *want == c.head
	return c
}

// read goes on at end. What stands after the last newline is counted in torn.
func (c *chain) read(r io.Reader) error {
	buf := bufio.NewReaderSize(r, maxTorn)
	for {
		line, err := buf.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull) || len(line) > maxLine && err == nil:
			return c.broken("longer than any entry")
		case errors.Is(err, io.EOF):
			c.torn = int64(len(line))
			return nil
		case err != nil:
			return fmt.Errorf("reading line %d: %w", c.line+1, err)
		}
		if err := c.next(line[:len(line)-1]); err != nil {
			return err
		}
		c.end += int64(len(line))
	}
}

// next holds one line against the chain so far and becomes its head. Whether all
// of the line is JSON is looked at in intents and their outcomes only, since it
// would take most of the time: keyd hashed nothing else, and whoever forges
// hashes can write JSON too.
func (c *chain) next(line []byte) error {
	prev, sum, ok := links(line)
	seq, at, isEntry := opening(line)
	if !ok || !isEntry {
		return c.broken("not an entry of this log")
	}
	c.sum.Reset()
	c.sum.Write(line[:len(line)-len(hashMember)-hexLen-1])
	c.sum.Write([]byte("}"))
	var digest [sha256.Size]byte
	hex.Encode(c.hex[:], c.sum.Sum(digest[:0]))
	expected := c.head.Seq + 1
	switch {
	case !bytes.Equal(c.hex[:], sum):
		return c.broken("the entry was edited: its hash does not match")
	case seq > expected:
		return c.broken("entry %d follows entry %d: something was removed or moved", seq, c.head.Seq)
	case seq < expected:
		return c.broken("entry %d follows entry %d: something was repeated or moved", seq, c.head.Seq)
	case string(prev) != c.head.Hash:
		return c.broken("the entry belongs to another chain: it does not name the hash of the one before")
	}
	if c.intents.follow(line) != nil {
		return c.broken("not an entry of this log")
	}
	c.head = Head{Seq: seq, Hash: string(sum)}
	c.line++
	if c.line == 1 {
		c.first = at
	}
	c.last = at
	if c.want != nil && c.want.Seq == seq {
		if *c.want != c.head {
			c.line--
			return c.broken("not the entry that was remembered as the head: the log was written anew")
		}
		c.passed = true
	}
	if c.visit != nil {
		c.visit(line, c.head)
	}
	return nil
}

// ReadLine reads one line of a log by itself, without its newline, and returns
// the entry, the hash that it names as that of the line before, and the head
// that it makes. A line whose own hash does not match is ErrBroken.
func ReadLine(line []byte) (e Entry, prev string, head Head, err error) {
	before, sum, ok := links(line)
	seq, _, isEntry := opening(line)
	if !ok || !isEntry {
		return Entry{}, "", Head{}, errNoEntry
	}
	digest := sha256.Sum256(append(bytes.Clone(line[:len(line)-len(hashMember)-hexLen-1]), '}'))
	if hex.EncodeToString(digest[:]) != string(sum) {
		return Entry{}, "", Head{}, fmt.Errorf("%w: entry %d was edited: its hash does not match", ErrBroken, seq)
	}
	e, err = decode(line)
	return e, string(before), Head{Seq: seq, Hash: string(sum)}, err
}

// reached reports whether the remembered head was on the way.
func (c *chain) reached() error {
	if c.passed {
		return nil
	}
	if c.want.Seq == 0 {
		return &BrokenError{Reason: "the remembered head is not that of any log"}
	}
	return &BrokenError{Line: c.line, Seq: c.want.Seq,
		Reason: fmt.Sprintf("cut off: the log ends at entry %d, the remembered head is entry %d", c.head.Seq, c.want.Seq)}
}

// broken blames the line after the last good one.
func (c *chain) broken(format string, args ...any) error {
	return &BrokenError{Line: c.line + 1, Seq: c.head.Seq + 1, Reason: fmt.Sprintf(format, args...)}
}

func (c *chain) report() Report {
	return Report{Entries: uint64(c.line), Bytes: c.end, First: c.first, Last: c.last, Head: c.head, Remembered: c.want}
}

// links returns the hashes at the end of a line.
func links(line []byte) (prev, sum []byte, ok bool) {
	if len(line) < suffixLen {
		return nil, nil, false
	}
	tail := line[len(line)-suffixLen:]
	tail, ok1 := bytes.CutPrefix(tail, []byte(prevMember))
	tail, ok2 := bytes.CutSuffix(tail, []byte(lineEnd))
	if !ok1 || !ok2 || string(tail[hexLen:hexLen+len(hashMember)]) != hashMember {
		return nil, nil, false
	}
	return tail[:hexLen], tail[hexLen+len(hashMember):], true
}

// opening returns the number and time at the beginning of a line.
func opening(line []byte) (seq uint64, at time.Time, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"seq":`))
	if !ok {
		return 0, time.Time{}, false
	}
	number, rest, ok1 := bytes.Cut(rest, []byte(`,"at":"`))
	if !ok1 || len(rest) < len(atLayout) {
		return 0, time.Time{}, false
	}
	seq, err1 := strconv.ParseUint(string(number), 10, 64)
	at, err2 := time.Parse(time.RFC3339Nano, string(rest[:len(atLayout)]))
	return seq, at, err1 == nil && err2 == nil
}
