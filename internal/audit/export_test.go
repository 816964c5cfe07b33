package audit

import (
	"bytes"
	"io"
)

// File is what the writer does with its file.
type File = file

// Through puts wrap between the log and the disk.
func (c Config) Through(wrap func(File) File) Config {
	c.wrap = wrap
	return c
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
