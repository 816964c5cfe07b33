//go:build !race

package hsm_test

const raceDetector = false
