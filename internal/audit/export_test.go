package audit

import (
	"bytes"
	"io"
)

// File is what the log does with its file.
type File = file

// Through puts wrap between the log and the disk.
func (c Config) Through(wrap func(File) File) Config {
	c.wrap = wrap
	return c
}

// Remembering puts remember between the log and its head file. The head that
// Open writes is not among them.
func (c Config) Remembering(remember func(real func() error) error) Config {
	c.remember = func(path string, head Head) error {
		return remember(func() error { return writeHead(path, head) })
	}
	return c
}

// Watch is what Open reads a log through.
func Watch(r io.Reader, total int64, progress func(done, total int64)) io.Reader {
	return watch(r, total, progress)
}

// VerifyBytes verifies a log in memory, without looking twice at a torn end.
func VerifyBytes(log []byte, want *Head) (Report, error) {
	c := newChain(want)
	err := c.read(bytes.NewReader(log))
	if err == nil && c.torn > 0 {
		err = c.broken("torn")
	}
	if err == nil {
		err = c.reached()
	}
	return c.report(), err
}

// VerifyReader is the streaming part of Open alone.
func VerifyReader(r io.Reader) error { return newChain(nil).read(r) }

// The limits that tests reach.
const (
	MaxLine  = maxLine
	MaxTorn  = maxTorn
	MaxText  = maxText
	MaxValue = maxValue
)
