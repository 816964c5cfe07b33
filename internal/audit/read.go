package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
)

// Read returns up to limit entries (all, if limit is 0) after the entry
// numbered after. It finds them without reading what is before, and does not
// verify: see Verify. The log may be in use meanwhile.
func Read(path string, after uint64, limit int) ([]Entry, error) {
	r, err := openReader(path)
	if err != nil {
		return nil, err
	}
	defer r.close()
	return r.entries(after, limit)
}

// Tail returns the last n entries of a log.
func Tail(path string, n int) ([]Entry, error) {
	r, err := openReader(path)
	if err != nil || n <= 0 {
		return nil, err
	}
	defer r.close()
	last, err := r.last()
	if err != nil {
		return nil, err
	}
	return r.entries(last-min(last, uint64(n)), n)
}

// reader reads the complete lines of a log as it was when it was opened.
type reader struct {
	file   *os.File
	size   int64
	window []byte // of lineAfter
}

func (r *reader) close() { _ = r.file.Close() } // nothing was written

func openReader(path string) (*reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("reading the audit log: %w", errors.Join(err, f.Close()))
	}
	return &reader{file: f, size: info.Size(), window: make([]byte, 2*maxLine)}, nil
}

func (r *reader) entries(after uint64, limit int) ([]Entry, error) {
	from, err := r.seek(after)
	if err != nil {
		return nil, err
	}
	var found []Entry
	err = r.lines(from, func(line []byte) (bool, error) {
		e, err := decode(line)
		if err == nil && e.Seq > after {
			found = append(found, e)
		}
		return limit <= 0 || len(found) < limit, err
	})
	return found, err
}

// lines calls f with each complete line from an offset on, without its newline,
// until f says stop. What stands after the last newline is not a line yet.
func (r *reader) lines(from int64, f func(line []byte) (more bool, err error)) error {
	buf := bufio.NewReaderSize(io.NewSectionReader(r.file, from, r.size-from), 8*maxLine)
	for {
		line, err := buf.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading the audit log %s: %w", r.file.Name(), err)
		}
		more, err := f(line[:len(line)-1])
		if err != nil {
			return fmt.Errorf("reading the audit log %s: %w", r.file.Name(), err)
		}
		if !more {
			return nil
		}
	}
}

// seek returns an offset at the beginning of a line, at most a few lines before
// the first entry after the one numbered after: entries are in order, so it
// halves the file until little is left.
func (r *reader) seek(after uint64) (int64, error) {
	low, high := int64(0), r.size
	for high-low > 2*maxLine {
		middle := low + (high-low)/2
		start, seq, err := r.lineAfter(middle)
		if err != nil {
			return 0, err
		}
		if start < high && seq <= after {
			low = start
		} else {
			high = middle
		}
	}
	return low, nil
}

// lineAfter finds the first line that begins after offset and its number. At
// the end of the log the line begins at its size.
func (r *reader) lineAfter(offset int64) (start int64, seq uint64, err error) {
	b := r.window[:min(int64(len(r.window)), r.size-offset)]
	n, err := r.file.ReadAt(b, offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, fmt.Errorf("reading the audit log %s: %w", r.file.Name(), err)
	}
	before, rest, found := bytes.Cut(b[:n], []byte("\n"))
	if !found || len(rest) == 0 {
		return r.size, 0, nil
	}
	seq, _, ok := opening(rest)
	if !ok && bytes.IndexByte(rest, '\n') >= 0 {
		return 0, 0, fmt.Errorf("reading the audit log %s at byte %d: %w", r.file.Name(), offset, errNoEntry)
	}
	if !ok {
		return r.size, 0, nil
	}
	return offset + int64(len(before)) + 1, seq, nil
}

// last returns the number of the last complete line, 0 if there is none.
func (r *reader) last() (uint64, error) {
	from := max(0, r.size-3*maxLine)
	b := make([]byte, r.size-from)
	if _, err := r.file.ReadAt(b, from); err != nil && !errors.Is(err, io.EOF) {
		return 0, fmt.Errorf("reading the audit log %s: %w", r.file.Name(), err)
	}
	end := bytes.LastIndexByte(b, '\n')
	if end < 0 {
		return 0, nil
	}
	line := b[bytes.LastIndexByte(b[:end], '\n')+1 : end]
	seq, _, ok := opening(line)
	if !ok {
		return 0, fmt.Errorf("reading the last line of the audit log %s: %w", r.file.Name(), errNoEntry)
	}
	return seq, nil
}

// errNoEntry is for a line that no log wrote; Verify says where it is.
var errNoEntry = fmt.Errorf("%w: a line is not an entry", ErrBroken)

// decode reads one line. The entry keeps a copy of it.
func decode(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errNoEntry, err)
	}
	e.Raw = bytes.Clone(line)
	return e, nil
}
