package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// HeadPath is where the head of a log is remembered unless Config says
// otherwise: audit.head beside audit.jsonl.
func HeadPath(log string) string {
	return strings.TrimSuffix(log, filepath.Ext(log)) + ".head"
}

// readHead reads a remembered head. That there is none is reported by ok, since
// it means something else to each caller.
func readHead(path string) (head Head, ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Head{}, false, nil
	}
	if err != nil {
		return Head{}, false, fmt.Errorf("reading the remembered head: %w", err)
	}
	if json.Unmarshal(b, &head) != nil || len(head.Hash) != hexLen || !bytes.Equal(headText(head), b) {
		// It is replaced as a whole, so no crash leaves half of one.
		return Head{}, false, &BrokenError{Reason: fmt.Sprintf("the remembered head in %s is not readable", path)}
	}
	return head, true, nil
}

// headText is the content of a head file.
func headText(h Head) []byte { return fmt.Appendf(nil, "{\"seq\":%d,\"hash\":%q}\n", h.Seq, h.Hash) }

// writeHead replaces the remembered head as a whole. The entries up to head
// must be on the disk already.
func writeHead(path string, head Head) error {
	temp := path + ".tmp"
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("writing the head: %w", err)
	}
	_, err = f.Write(headText(head))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("writing the head: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a name in a directory last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing the directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing the directory: %w", err)
	}
	return nil
}
