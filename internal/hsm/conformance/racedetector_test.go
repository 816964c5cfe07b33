//go:build race

package conformance_test

// raceDetector: the race detector's own bookkeeping grows the process.
const raceDetector = true
