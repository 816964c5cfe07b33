package jwe_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"keyd/internal/jwe"
)

// sameHeader holds the quick reader to what the thorough one says: it may give
// up on any header, and must not read one differently.
func sameHeader(tb testing.TB, text string) {
	tb.Helper()
	got, ok := jwe.ReadPlain(text)
	if !ok {
		return
	}
	if want, err := jwe.ReadMembers(text); err != nil || got != want {
		tb.Errorf("%q is read as %q, member by member it is %q, %v", text, got, want, err)
	}
}

func many(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"x%d":""`, i)
	}
	return b.String()
}

func TestOrdinaryHeadersAreReadInOnePass(t *testing.T) {
	for text, want := range map[string][3]string{
		plainHeader: {"RSA-OAEP-256", "A256GCM", ""},
		`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"6da49495-1632-43cd-9a03-dd324603ecd7"}`: {"RSA-OAEP-256", "A256GCM", "6da49495-1632-43cd-9a03-dd324603ecd7"},
		"\r\n{\t\"enc\" : \"A256GCM\" , \"url\" : \"/v1/cases\", \"alg\" : \"dir\" } ":        {"dir", "A256GCM", ""},
		`{` + algAndEnc + `,"typ":"JOSE","cty":"json","":"","Alg":"x","ZIP":"DEF"}`:           {"RSA-OAEP-256", "A256GCM", ""},
		`{` + algAndEnc + many(14) + `}`:                                                      {"RSA-OAEP-256", "A256GCM", ""},
	} {
		if got, ok := jwe.ReadPlain(text); !ok || got != want {
			t.Errorf("%s: got %q, %v, want %q", text, got, ok, want)
		}
		sameHeader(t, text)
	}
}

func TestOtherHeadersAreLeftToTheThoroughReader(t *testing.T) {
	for _, text := range []string{
		``, ` `, `{`, `{}`, `[]`, `{"`, `{"alg`, `{"alg"`, `{"alg":`, `{"alg":"`, `{` + algAndEnc, `{` + algAndEnc + `,`, `{` + algAndEnc + `,}`,
		plainHeader + plainHeader, plainHeader + `,`, plainHeader + "\x00", "\v" + plainHeader, "\u00a0" + plainHeader, `{"alg":"x"}`, `{"enc":"x"}`,
		`{"alg":"","enc":"x"}`, `{` + algAndEnc + `,"x":1}`, `{` + algAndEnc + `,"x":null}`, `{` + algAndEnc + `,"x":["y"]}`,
		`{` + algAndEnc + `,"kid":"\u0061"}`, `{` + algAndEnc + `,"\u0061lg":"dir"}`, `{` + algAndEnc + `,"kid":"é"}`, `{` + algAndEnc + ",\"kid\":\"\xff\"}",
		`{` + algAndEnc + ",\"kid\":\"\n\"}", `{` + algAndEnc + `,"kid":"a","kid":"b"}`, `{` + algAndEnc + `,"x":"a","x":"a"}`, `{` + algAndEnc + `,"zip":"DEF"}`, `{` + algAndEnc + `,"crit":"x"}`,
		`{` + algAndEnc + many(15) + `}`, `{` + algAndEnc + many(200) + `,"alg":"dir"}`,
	} {
		if got, ok := jwe.ReadPlain(text); ok {
			t.Errorf("%q: read as %q", text, got)
		}
	}
}

// Every header one byte away from an ordinary one, and every one with a piece
// of JSON put in or a stretch left out.
func TestNoSmallChangeIsReadDifferently(t *testing.T) {
	const header = ` {"alg":"R","enc":"A", "kid":"k","x":"" }`
	pieces := []string{`"`, `\`, `\"`, `\u0061`, `\ud800`, `{}`, `[]`, `,`, `:`, `""`, `"alg":"d",`, `"crit":"",`, `"x":"",`, `null`, `é`, "\xff", "\ufffd"}
	for i := range len(header) {
		for b := range 256 {
			sameHeader(t, header[:i]+string([]byte{byte(b)})+header[i:])
			sameHeader(t, header[:i]+string([]byte{byte(b)})+header[i+1:])
		}
		for _, piece := range pieces {
			sameHeader(t, header[:i]+piece+header[i:])
		}
		for j := i; j <= len(header); j++ {
			sameHeader(t, header[:i]+header[j:])
			sameHeader(t, header[:j]+header[i:]) // a stretch twice
		}
	}
}

// FuzzHeaderAgainstReference: what the quick reader reads the thorough one
// reads the same.
func FuzzHeaderAgainstReference(f *testing.F) {
	for _, text := range slices.Concat([]string{plainHeader, " " + plainHeader + "\n", `{"a":"b","a":"b"}`, `{"alg":"\"","enc":"\\"}`},
		[]string{`{` + algAndEnc + `,"kid":"é"}`, `{` + algAndEnc + `,"zip":""}`, `{` + algAndEnc + `,"x":{}}`, `{` + algAndEnc + many(15) + `}`}) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { sameHeader(t, text) })
}

// An envelope is decoded into one buffer, and nothing is made on the way there
// that an ordinary header does not need.
func TestParsingAnOrdinaryEnvelopeAllocatesLittle(t *testing.T) {
	compact := []byte(build(`{` + algAndEnc + `,"kid":"6da49495-1632-43cd-9a03-dd324603ecd7"}`))
	p := everything()
	if got := testing.AllocsPerRun(100, func() { _, _ = jwe.Parse(compact, p) }); got > 3 {
		t.Errorf("%v allocations, want the header, the parts and the message", got)
	}
}

func TestPartsCannotRunIntoEachOther(t *testing.T) {
	compact := build(plainHeader)
	m, err := jwe.Parse([]byte(compact), everything())
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{m.Envelope.AAD, m.Envelope.EncryptedKey, m.Envelope.IV, m.Envelope.Ciphertext, m.Envelope.Tag} {
		_ = append(part, "over the end"...)
	}
	if got := serialize(m); got != compact {
		t.Errorf("after appending to each part the message is\n%s", got)
	}
}
