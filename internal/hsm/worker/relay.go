package worker

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	maxLine    = 8 << 10 // of what a worker writes
	maxLinesAt = 100     // in a burst
	perSecond  = 10
)

// relay hands a worker's log on, and everything else that is written there: by
// the module, or by Go when the module crashes. A module that does not stop is
// not listened to.
func relay(from io.ReadCloser, log *slog.Logger) {
	defer func() { _ = from.Close() }() // it was only read
	lines := bufio.NewReaderSize(from, maxLine)
	left, at, dropped := float64(maxLinesAt), time.Now(), 0
	for {
		line, tooLong, err := lines.ReadLine()
		if err != nil {
			break
		}
		if tooLong {
			line = bytes.Clone(line) // the next read is into the same buffer
		}
		for tooLong && err == nil {
			_, tooLong, err = lines.ReadLine()
		}
		now := time.Now()
		left, at = min(left+now.Sub(at).Seconds()*perSecond, maxLinesAt), now
		if left < 1 {
			dropped++
			continue
		}
		left--
		if dropped > 0 {
			log.Warn("the worker wrote more than is logged", "lines", dropped)
			dropped = 0
		}
		record(log, line)
	}
	if dropped > 0 {
		log.Warn("the worker wrote more than is logged", "lines", dropped)
	}
}

// record logs one line. A record of the worker's own logger keeps its level,
// message and attributes.
func record(log *slog.Logger, line []byte) {
	line = bytes.TrimSpace(line)
	if len(line) == 0 {
		return
	}
	var level slog.Level
	var fields map[string]any
	text, isText := "", false
	if line[0] == '{' && json.Unmarshal(line, &fields) == nil {
		text, isText = fields[slog.MessageKey].(string)
		name, _ := fields[slog.LevelKey].(string)
		isText = isText && level.UnmarshalText([]byte(name)) == nil
	}
	if !isText {
		log.Warn("the worker's module or runtime wrote a line", "line", strings.ToValidUTF8(string(line), "?"))
		return
	}
	var attrs []slog.Attr
	for name, value := range fields {
		// The daemon's own record has a time, and log names the backend.
		if name != slog.MessageKey && name != slog.LevelKey && name != slog.TimeKey && name != "backend" {
			attrs = append(attrs, slog.Any(name, value))
		}
	}
	slices.SortFunc(attrs, func(a, b slog.Attr) int { return strings.Compare(a.Key, b.Key) })
	log.LogAttrs(context.Background(), level, text, attrs...)
}
