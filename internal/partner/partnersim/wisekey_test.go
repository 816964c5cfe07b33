package partnersim_test

import (
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"keyd/internal/partner/partnersim"
)

func TestWiseKeyParameters(t *testing.T) {
	sim := partnersim.New(partnersim.Options{})
	c := direct(t, sim).login()
	sim.Rotate(partnersim.Wise)
	path := "/v1/auth/jose/response/public-keys?"
	for query, want := range map[string]int{
		"":                         400,
		"scope=PAYLOAD_ENCRYPTION": 400,
		"algorithm=RSA_OAEP_256":   400,
		"algorithm=RSA-OAEP-256&scope=PAYLOAD_ENCRYPTION":                     422,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_SIGNING":                        422,
		"algorithm=RSA_OAEP_256&scope=payload_encryption":                     422,
		"algorithm=ES512&scope=PAYLOAD_SIGNING":                               404, // documented, not pretended
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION":                     200,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version":             422,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version=x":           422,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version=0":           404,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version=1":           200,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version=3":           404,
		"algorithm=RSA_OAEP_256&scope=PAYLOAD_ENCRYPTION&version=99999999999": 422,
	} {
		if a := c.do("GET", path+query, nil, ""); a.status != want {
			t.Errorf("?%s: got %d, want %d", query, a.status, want)
		}
	}
	first, v1 := c.fetch("&version=1")
	newest, v2 := c.fetch("")
	if v1 != 1 || v2 != 2 || first.Equal(newest) {
		t.Errorf("versions %d and %d, same key: %t", v1, v2, first.Equal(newest))
	}
}

func TestWiseKeyShapes(t *testing.T) {
	type wiseKey struct {
		KeyID       string
		KeyMaterial struct{ Algorithm, KeyMaterial string }
	}
	get := func(o partnersim.Options) []byte {
		return direct(t, partnersim.New(o)).login().do("GET", wiseKeyPath, nil, "").body
	}
	var plain wiseKey
	must(t, json.Unmarshal(get(partnersim.Options{}), &plain))
	if uuid.Validate(plain.KeyID) != nil || plain.KeyMaterial.Algorithm != "RSA_OAEP_256" || strings.Contains(plain.KeyMaterial.KeyMaterial, "\n") {
		t.Errorf("by default: %+v", plain)
	}
	parsePublic(t, plain.KeyMaterial.KeyMaterial)

	var array []wiseKey
	must(t, json.Unmarshal(get(partnersim.Options{ArrayReply: true, ExtraFields: true}), &array))
	if len(array) != 1 || array[0].KeyID == "" {
		t.Errorf("as an array: %+v", array)
	}

	var broken wiseKey
	must(t, json.Unmarshal(get(partnersim.Options{MaterialNewlines: true}), &broken))
	lines := strings.Split(broken.KeyMaterial.KeyMaterial, "\n")
	if len(lines) != 8 || len(lines[0]) != 64 || lines[7] != "" {
		t.Errorf("with newlines: %q", lines)
	}
	parsePublic(t, strings.Join(lines, ""))

	if raw := string(get(partnersim.Options{OmitWiseKeyID: true})); strings.Contains(raw, "keyId") {
		t.Errorf("without keyId: %s", raw)
	}
	var more map[string]any
	must(t, json.Unmarshal(get(partnersim.Options{ExtraFields: true}), &more))
	if len(more) != 5 || more["addedWithoutNotice"] == nil {
		t.Errorf("with a field more: %v", more)
	}
}

func TestOldWiseKeyOpensForTheOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			overlap time.Duration
			want    [3]bool // opens right after the rotation, in the last second of an hour, after it
		}{{0, [3]bool{true, true, true}}, {time.Hour, [3]bool{true, true, false}}, {-1, [3]bool{false, false, false}}} {
			sim := partnersim.New(partnersim.Options{KeyOverlap: tc.overlap})
			c := direct(t, sim).login()
			c.day(0)
			old, _ := c.fetch("")
			if v := sim.Rotate(partnersim.Wise); v != 2 {
				t.Fatalf("version %d", v)
			}
			for i, wait := range []time.Duration{0, time.Hour - time.Second, time.Second} {
				time.Sleep(wait)
				a := c.do("POST", probePath, joseHeaders(), seal(t, old, nil, `{"message":""}`))
				if (a.status == 200) != tc.want[i] {
					t.Errorf("overlap %s, step %d: %d", tc.overlap, i, a.status)
				}
				if a.status != 200 {
					generic500(t, a)
				}
			}
			fresh, _ := c.fetch("")
			if a := c.do("POST", probePath, joseHeaders(), seal(t, fresh, nil, `{"message":""}`)); a.status != 200 {
				t.Errorf("overlap %s, new key: %d", tc.overlap, a.status)
			}
		}
	})
}
