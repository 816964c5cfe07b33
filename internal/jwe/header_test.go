package jwe_test

import (
	"strings"
	"testing"

	"keyd/internal/jwe"
)

const algAndEnc = `"alg":"RSA-OAEP-256","enc":"A256GCM"`

func TestHeadersThatAreRefused(t *testing.T) {
	long := strings.Repeat("x", 1000)
	for _, v := range []struct {
		header string
		want   error
		says   string
	}{
		{``, jwe.ErrMalformed, "not a JSON object"},
		{`null`, jwe.ErrMalformed, "not a JSON object"},
		{`[]`, jwe.ErrMalformed, "not a JSON object"},
		{`"alg"`, jwe.ErrMalformed, "not a JSON object"},
		{`7`, jwe.ErrMalformed, "not a JSON object"},
		{`{`, jwe.ErrMalformed, "not a JSON object"},
		{`{` + algAndEnc + `,}`, jwe.ErrMalformed, "not a JSON object"},
		{`{` + algAndEnc + `}{}`, jwe.ErrMalformed, "not a JSON object"},
		{`{` + algAndEnc + `} x`, jwe.ErrMalformed, "not a JSON object"},
		{`{` + algAndEnc + `} // comment`, jwe.ErrMalformed, "not a JSON object"},
		{`{'alg':'RSA-OAEP-256'}`, jwe.ErrMalformed, "not a JSON object"},
		{"\xef\xbb\xbf{" + algAndEnc + "}", jwe.ErrMalformed, "not a JSON object"},
		{"{" + algAndEnc + ",\"x\":\"\xff\"}", jwe.ErrMalformed, "not UTF-8"},
		{"{" + algAndEnc + ",\"x\":\"\xed\xa0\x80\"}", jwe.ErrMalformed, "not UTF-8"},

		{`{}`, jwe.ErrMalformed, "has no alg"},
		{`{"enc":"A256GCM"}`, jwe.ErrMalformed, "has no alg"},
		{`{"alg":"RSA-OAEP-256"}`, jwe.ErrMalformed, "has no enc"},
		{`{"alg":"","enc":"A256GCM"}`, jwe.ErrMalformed, "has no alg"},
		{`{"ALG":"RSA-OAEP-256","enc":"A256GCM"}`, jwe.ErrMalformed, "has no alg"},
		{`{"alg":"RSA-OAEP-256","Enc":"A256GCM"}`, jwe.ErrMalformed, "has no enc"},
		{`{"alg":null,"enc":"A256GCM"}`, jwe.ErrMalformed, "alg in the header is not a string"},
		{`{"alg":["RSA-OAEP-256"],"enc":"A256GCM"}`, jwe.ErrMalformed, "alg in the header is not a string"},
		{`{"alg":"RSA-OAEP-256","enc":1}`, jwe.ErrMalformed, "enc in the header is not a string"},
		{`{` + algAndEnc + `,"kid":7}`, jwe.ErrMalformed, "kid in the header is not a string"},
		{`{` + algAndEnc + `,"kid":null}`, jwe.ErrMalformed, "kid in the header is not a string"},
		{`{` + algAndEnc + `,"kid":"\ud800"}`, jwe.ErrMalformed, "kid in the header is not Unicode"},
		{`{` + algAndEnc + `,"typ":{}}`, jwe.ErrMalformed, "typ in the header is not a string"},
		{`{` + algAndEnc + `,"cty":true}`, jwe.ErrMalformed, "cty in the header is not a string"},
		{`{` + algAndEnc + `,"url":[]}`, jwe.ErrMalformed, "url in the header is not a string"},

		{`{"alg":"RSA-OAEP-256",` + algAndEnc + `}`, jwe.ErrMalformed, `has "alg" twice`},
		{`{"alg":"dir",` + algAndEnc + `}`, jwe.ErrMalformed, `has "alg" twice`},
		{`{` + algAndEnc + `,"\u0061lg":"dir"}`, jwe.ErrMalformed, `has "alg" twice`},
		{`{` + algAndEnc + `,"kid":"a","kid":"b"}`, jwe.ErrMalformed, `has "kid" twice`},
		{`{` + algAndEnc + `,"x":{"y":1,"y":2}}`, jwe.ErrMalformed, `has "y" twice`},
		{`{` + algAndEnc + `,"x":[{"y":1,"y":2}]}`, jwe.ErrMalformed, `has "y" twice`},
		{`{` + algAndEnc + `,"\n":1,"\n":2}`, jwe.ErrMalformed, `has "\n" twice`},
		{`{` + algAndEnc + `,"` + long + `":1,"` + long + `":2}`, jwe.ErrMalformed, `twice`},
		{`{` + algAndEnc + `,"\ud800":1,"\udfff":2}`, jwe.ErrMalformed, "name is not Unicode"},
		{`{` + algAndEnc + `,"x":[[[[]]]]}`, jwe.ErrMalformed, "nested more than 4 deep"},
		{`{` + algAndEnc + `,"x":{"x":{"x":{"x":{}}}}}`, jwe.ErrMalformed, "nested more than 4 deep"},
		{`{` + algAndEnc + `,"x":` + strings.Repeat("[", 1500) + strings.Repeat("]", 1500) + `}`, jwe.ErrMalformed, "nested more than 4 deep"},

		{`{` + algAndEnc + `,"zip":"DEF"}`, jwe.ErrAlgorithm, "zip: compressed content"},
		{`{` + algAndEnc + `,"zip":null}`, jwe.ErrAlgorithm, "zip: compressed content"},
		{`{` + algAndEnc + `,"crit":["exp"],"exp":1}`, jwe.ErrAlgorithm, "crit: a critical extension is never accepted"},
		{`{` + algAndEnc + `,"crit":["alg"]}`, jwe.ErrAlgorithm, "crit: a critical extension is never accepted"},
		{`{` + algAndEnc + `,"crit":[]}`, jwe.ErrAlgorithm, "crit: a critical extension is never accepted"},
		{`{` + algAndEnc + `,"crit":null}`, jwe.ErrAlgorithm, "crit: a critical extension is never accepted"},
		{`{"alg":"` + long + `","enc":"A256GCM"}`, jwe.ErrAlgorithm, `alg "xxx`},
		{`{"alg":"\u001b[2J\n","enc":"A256GCM"}`, jwe.ErrAlgorithm, `alg "\x1b[2J\n"`},
		{`{"alg":"RSA-OAEP-256","enc":"\u202egcm"}`, jwe.ErrAlgorithm, `enc "\u202egcm"`},
		{`{"alg":"RSA-OAEP-256","enc":"` + long + `"}`, jwe.ErrAlgorithm, `enc "xxx`},
	} {
		refused(t, v.header, build(v.header), v.want, v.says)
	}
}

// RFC 7516 §4: members that are not understood are ignored. Nothing they name
// is fetched, and no key in them is used.
func TestHeadersThatAreAccepted(t *testing.T) {
	for header, kid := range map[string]string{
		`{` + algAndEnc + `}`:                                                              "",
		`{"enc":"A256GCM","kid":"x","alg":"RSA-OAEP-256"}`:                                 "x",
		` { "alg" : "RSA-OAEP-256" , "enc" : "A256GCM" } `:                                 "",
		`{"\u0061lg":"RSA\u002dOAEP-256","enc":"A256GCM"}`:                                 "",
		`{` + algAndEnc + `,"kid":""}`:                                                     "",
		`{` + algAndEnc + `,"kid":"schl\u00fcssel \ud83d\udd11"}`:                          "schlüssel 🔑",
		`{` + algAndEnc + `,"KID":"other","kid":"x"}`:                                      "x",
		`{` + algAndEnc + `,"Crit":["x"],"ZIP":"DEF"}`:                                     "",
		`{` + algAndEnc + `,"typ":"JOSE","cty":"json","url":"/v1/cases","version":1}`:      "",
		`{` + algAndEnc + `,"jku":"https://example.com/keys","x5u":"https://example.com"}`: "",
		`{` + algAndEnc + `,"jwk":{"kty":"RSA","x5c":["a","b"]},"epk":{},"x":1e999}`:       "",
	} {
		m, err := jwe.Parse([]byte(build(header)), everything())
		if err != nil {
			t.Errorf("%s: %v", header, err)
			continue
		}
		if m.KID != kid || m.Envelope.Enc != "A256GCM" {
			t.Errorf("%s: got kid %q, enc %q", header, m.KID, m.Envelope.Enc)
		}
	}
}
