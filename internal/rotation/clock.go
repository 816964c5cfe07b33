package rotation

import (
	"log/slog"
	"time"

	"github.com/robfig/cron/v3"

	"keyd/internal/registry"
)

// clock wakes the engine when a key's schedule fires. It decides nothing: what
// is due stands in the registry, and a firing missed is made up for there.
type clock struct {
	cron    *cron.Cron
	engine  *Engine
	entries map[string]clockEntry // by key
}

type clockEntry struct {
	spec string
	id   cron.EntryID
}

func (e *Engine) newClock() *clock {
	// The library's own documentation says that jobs recover by default; the
	// code does not, and a panicking job would end the process.
	logger := cronLogger{e.log}
	c := cron.New(cron.WithLocation(time.UTC), cron.WithLogger(logger),
		cron.WithChain(cron.Recover(logger), cron.SkipIfStillRunning(logger)))
	c.Start()
	return &clock{cron: c, engine: e, entries: map[string]clockEntry{}}
}

// follow makes the entries those of the keys' policies.
func (c *clock) follow(keys []registry.Key) {
	for _, key := range keys {
		old, ok := c.entries[key.Name]
		if ok && old.spec == key.Policy.Rotate {
			continue
		}
		schedule, err := parseSchedule(key.Policy.Rotate)
		if err != nil {
			c.engine.log.Error("a key has a schedule that cannot be read", "key", key.Name, "err", err)
			continue
		}
		if ok {
			c.cron.Remove(old.id)
		}
		id := c.cron.Schedule(schedule, cron.FuncJob(c.engine.Wake))
		c.entries[key.Name] = clockEntry{spec: key.Policy.Rotate, id: id}
	}
}

func (c *clock) stop() { <-c.cron.Stop().Done() }

// cronLogger hands the library's messages to slog: what it does every minute
// is for debugging, a panic is not.
type cronLogger struct{ log *slog.Logger }

func (l cronLogger) Info(msg string, args ...any) { l.log.Debug("cron: "+msg, args...) }
func (l cronLogger) Error(err error, msg string, args ...any) {
	l.log.Error("cron: "+msg, append([]any{"err", err}, args...)...)
}
