package boundary_test

import (
	"testing"

	"keyd/internal/boundary"
)

func TestAFloorIsMetByItsOwnLevelAndDeeperOnes(t *testing.T) {
	levels := []boundary.Level{boundary.Raw, boundary.Unwrap, boundary.Sealed} // by depth
	for i, level := range levels {
		for j, floor := range levels {
			if got := level.AtLeast(floor); got != (i >= j) {
				t.Errorf("%s.AtLeast(%s) = %v", level, floor, got)
			}
		}
		if !level.AtLeast("") {
			t.Errorf("%s.AtLeast(no floor) = false", level)
		}
		if got, err := boundary.ParseLevel(string(level)); got != level || err != nil {
			t.Errorf("ParseLevel(%q) = %q, %v", level, got, err)
		}
	}
	for _, unknown := range []string{"", "SEALED", "host"} {
		if boundary.Level(unknown).AtLeast("") {
			t.Errorf("the unknown level %q meets a floor", unknown)
		}
		if got, err := boundary.ParseLevel(unknown); err == nil {
			t.Errorf("ParseLevel(%q) = %q, want an error", unknown, got)
		}
	}
}
