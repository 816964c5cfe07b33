package audit

import (
	"io"
	"time"
)

// reportEvery is how often Config.Progress is called.
const reportEvery = time.Second

// watched is a reader that says how far it has come.
type watched struct {
	io.Reader
	done, total int64
	reported    time.Time
	progress    func(done, total int64)
}

// watch returns r itself if nobody wants to know.
func watch(r io.Reader, total int64, progress func(done, total int64)) io.Reader {
	if progress == nil {
		return r
	}
	return &watched{Reader: r, total: total, reported: time.Now(), progress: progress}
}

// Read reports what was read before, which has been verified by now.
func (w *watched) Read(b []byte) (int, error) {
	if now := time.Now(); now.Sub(w.reported) >= reportEvery {
		w.reported = now
		w.progress(w.done, w.total)
	}
	n, err := w.Reader.Read(b)
	w.done += int64(n)
	return n, err
}
