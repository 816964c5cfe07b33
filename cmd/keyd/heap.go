package main

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much a heap, which is a few MiB, may grow before garbage is
// collected: at Go's own 100 that is many times a second under load, a tenth of
// the daemon's work and a twentieth of that of a token's library.
const gcPercent = 300

// collectLess has garbage collected less often, unless GOGC says how often.
func collectLess() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
