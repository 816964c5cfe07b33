package boundary_test

import (
	"encoding/base64"
	"encoding/hex"
	"strings"
	"testing"

	"keyd/internal/boundary"
)

// The content layers of the worked examples in the RFCs, given the content key
// they print. The key layers of those examples (RSA-OAEP with SHA-1, RSA1_5,
// A128KW) are algorithms keyd refuses.
func TestPublishedVectorsOpen(t *testing.T) {
	b64 := func(s string) []byte {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return b
	}
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return b
	}
	// RFC 7518 appendix B shares everything but the key and the result.
	kerckhoffs := "A cipher system must not be required to be secret, and it must be able to fall into the hands of the enemy without inconvenience"
	appendixB := boundary.Envelope{
		IV:  unhex("1af38c2dc2b96ffdd86694092341bc04"),
		AAD: []byte("The second principle of Auguste Kerckhoffs"),
	}
	upTo := func(n byte) []byte {
		var key []byte
		for b := range n {
			key = append(key, b)
		}
		return key
	}
	for _, v := range []struct {
		name, enc       string
		cek             []byte
		iv, aad         []byte
		ciphertext, tag []byte
		plaintext       string
	}{
		{
			name: "RFC 7516 A.1", enc: boundary.A256GCM,
			cek:        unhex("b1a1f480548fe1733fb403ff6b9ad4f68a076e5b702e22692f82cb2e7aea40fc"),
			aad:        []byte("eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ"),
			iv:         b64("48V1_ALb6US04U3b"),
			ciphertext: b64("5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A"),
			tag:        b64("XFBoMYUZodetZdvTiFvSkQ"),
			plaintext:  "The true sign of intelligence is not knowledge but imagination.",
		}, {
			name: "RFC 7516 A.2", enc: boundary.A128CBCHS256,
			cek:        unhex("04d31fc5549dfcfe0b649dfa3faa6ace6b7cd42d6f6b09dbc8b100f08f9c2ccf"),
			aad:        []byte("eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0"),
			iv:         b64("AxY8DCtDaGlsbGljb3RoZQ"),
			ciphertext: b64("KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY"),
			tag:        b64("9hH0vgRfYgPnAHOd8stkvw"),
			plaintext:  "Live long and prosper.",
		}, {
			name: "RFC 7516 A.3", enc: boundary.A128CBCHS256,
			cek:        unhex("04d31fc5549dfcfe0b649dfa3faa6ace6b7cd42d6f6b09dbc8b100f08f9c2ccf"),
			aad:        []byte("eyJhbGciOiJBMTI4S1ciLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0"),
			iv:         b64("AxY8DCtDaGlsbGljb3RoZQ"),
			ciphertext: b64("KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY"),
			tag:        b64("U0m_YmjN04DJvceFICbCVQ"),
			plaintext:  "Live long and prosper.",
		}, {
			name: "RFC 7518 B.1", enc: boundary.A128CBCHS256,
			cek: upTo(32), iv: appendixB.IV, aad: appendixB.AAD,
			ciphertext: unhex(`c80edfa32ddf39d5ef00c0b468834279a2e46a1b8049f792f76bfe54b903a9c9
				a94ac9b47ad2655c5f10f9aef71427e2fc6f9b3f399a221489f16362c7032336
				09d45ac69864e3321cf82935ac4096c86e133314c54019e8ca7980dfa4b9cf1b
				384c486f3a54c51078158ee5d79de59fbd34d848b3d69550a67646344427ade5
				4b8851ffb598f7f80074b9473c82e2db`),
			tag:       unhex("652c3fa36b0a7c5b3219fab3a30bc1c4"),
			plaintext: kerckhoffs,
		}, {
			name: "RFC 7518 B.3", enc: boundary.A256CBCHS512,
			cek: upTo(64), iv: appendixB.IV, aad: appendixB.AAD,
			ciphertext: unhex(`4affaaadb78c31c5da4b1b590d10ffbd3dd8d5d302423526912da037ecbcc7bd
				822c301dd67c373bccb584ad3e9279c2e6d12a1374b77f077553df829410446b
				36ebd97066296ae6427ea75c2e0846a11a09ccf5370dc80bfecbad28c73f09b3
				a3b75e662a2594410ae496b2e2e6609e31e6e02cc837f053d21f37ff4f51950b
				be2638d09dd7a4930930806d0703b1f6`),
			tag:       unhex("4dd3b4c088a7f45c216839645b2012bf2e6269a8c56a816dbc1b267761955bc5"),
			plaintext: kerckhoffs,
		}, {
			name: "RFC 7520 5.2", enc: boundary.A256GCM,
			cek: b64("mYMfsggkTAm0TbvtlFh2hyoXnbEzJQjMxmgLN3d8xXA"),
			aad: []byte("eyJhbGciOiJSU0EtT0FFUCIsImtpZCI6InNhbXdpc2UuZ2FtZ2VlQGhvYmJpdG9uLmV4YW1wbGUiLCJlbmMiOiJBMjU2R0NNIn0"),
			iv:  b64("-nBoKLH0YkLZPSI9"),
			ciphertext: b64("o4k2cnGN8rSSw3IDo1YuySkqeS_t2m1GXklSgqBdpACm6UJuJowOHC5ytjqYgRL-I-soPlwqMUf4UgRWWeaOGNw6vGW-xyM01lTYxrXfVzIIaRdhYtEMRBvBWbEwP7ua1DRfvaOjgZv6Ifa3brcAM64d8p5lhhNcizPersuhw5f-pGYzseva-TUaL8iWnctc-sSwy7SQmRkfhDjwbz0fz6kFovEgj64X1I5s7E6GLp5fnbYGLa1QUiML" +
				"7Cc2GxgvI7zqWo0YIEc7aCflLG1-8BboVWFdZKLK9vNoycrYHumwzKluLWEbSVmaPpOslY2n525DxDfWaVFUfKQxMF56vn4B9QMpWAbnypNimbM8zVOw"),
			tag: b64("UCGiqJxhBI3IFVdPalHHvA"),
			plaintext: "You can trust us to stick with you through thick and thin\u2013to the bitter end. And you can trust us to keep any secret of yours\u2013closer than you keep it yourself. " +
				"But you cannot trust us to let you face trouble alone, and go off without a word. We are your friends, Frodo.",
		},
	} {
		env := &boundary.Envelope{Enc: v.enc, IV: v.iv, Ciphertext: v.ciphertext, Tag: v.tag, AAD: v.aad}
		got, err := boundary.OpenWithCEK(env, v.cek, 1)
		if err != nil || string(got) != v.plaintext {
			t.Errorf("%s: got %q, %v, want %q", v.name, got, err, v.plaintext)
		}
	}
}
