//go:build tokens

package conformance_test

import "testing"

func TestOpenCryptokiIsAsDocumented(t *testing.T) { documented(t, "openCryptoki") }

func TestTPMIsAsDocumented(t *testing.T) { documented(t, "TPM") }
