package jwe_test

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/big"
	"os"
	"strings"
	"testing"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// Examples from Wise's documentation of its JOSE endpoints. No private key was
// published for any of them. The two that end in 02 and 04 were damaged on
// their way into the documentation: two characters too many make a tag of 18
// bytes.
const (
	wiseRequest  = "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiUlNBLU9BRVAtMjU2In0.W_WPBDXclMryaywqAB-_yC1hUYukKmZxByhE9d1G8hClc2HpewkryILGJW4uVTUeRdo1oVWd68TPIqi7bqMGUsrT-3MI4ggVSjC1rf8Lf1xTZ8-GHjSPso8tFBXnydOKzggi6fnfk98BIW76Rnxkn6sW79LH5NgN1spTOoh8-tI3i_wbHdqJOxTReaUNMYZobm7wxedZcRxhsaSrVqx2qdELeqkfwgvB1DRbHTF_PTe4W0ibMbcJivHjiDf6oAV9vXgVhYb66rhB43pgdFDv4nY1mkQC45R5T6CBdzv80EdAVOj1G4bktHyJWaJzHVsGozpxsNj3bt1AopyvDO8tsw.WLOO5WH4ZpBPi-8B.0g3eUpQPvRIaTbgUi6sH0WejsJ1nLWDGnDKTktZrkquLQlCMmIguj0I5UCyqXEo.URtTniRvfGxrKRLK63trug"
	wiseCases    = "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiUlNBLU9BRVAtMjU2IiwidXJsIjoiL3YxL2Nhc2VzIn0.B9g-Z3eJrKFK7eALNjL363ZXHn_us_axnfIJqB4GH8ayvL2QvK8OVlrONI3HGlq80zNzaFGSugzMzptJeQxa3jz92QK3Ks-JVRUH9vEMe99fDEuvvIWHKRA-yuCs1UBRSYjt1NxskX9Vo97xmjzLyy5ysOrz5SJYJj2okKnZ7DZuNNfZ7m6wKqxFJDJ2S_y6uJQXGiv5isip1WGd54qagiK5L_9pACZNBAG9IBErojY8L0xruCjkt1-2jktyDa6t1euER_CSstiYM55Lie2EZKnDKVIJ1zOuOEqMPOFEbwNhZaJyspNiWeu0l87zo7K8_Vu6VCeSaVo0fvH7Fm6Dtg.yenUpQ_KISjo0JMk.nk5h-UKewy4wJsCk2prAK5bmUbc-PQEPHW3YtxUMBk8u5X59bHXOsol5H4foKPeRvUIw8lx-yOLck2pvh7QESUoiWSwVguuKn3w-V3AdhhTXm6Bzij_6wndusILAHThBHlwRrUuU1amG69nNxDsLNv_zmZ1ZSZfwJz01sy6dcKEolD4xH72hPIBYKrNk5ihkiV8DgzTVF-rAcBODTQ10PTd4ZWIDsvTGL49neD9WcLMVpaUwG8NMOARY4w_pr0ikTlcjFUP2vOFhq6I1KwxrRJFRNb60ifY2w-_-2Dmab4kWtwTFrkFCj2T8hUV0vZQcYldxUGCDPnSIPaHk_x9O-y66lMwyyi70ug.AMyL0XyQJ6roHeGAc_Du1Q"
	wiseResponse = "eyJraWQiOiI2ZGE0OTQ5NS0xNjMyLTQzY2QtOWEwMy1kZDMyNDYwM2VjZDciLCJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiUlNBLU9BRVAtMjU2In0.qwMqgFXRI84THQdCHhxNe5yvKOuKp2rAMH62xQ1OioPatnLfxqPHJUX0as13B3g3JKaqGgF0qMi7r3QbJ_cXNFBIg1yenCwWv4192J73-kEkCSyS-FflDCNfih1z1mm95ftAE7FhHJVG5tcSm_B0-bPU3SbjB3SDhR3QlLX5o_sQmYkQay8PKSssyBS5tCjuKdz-9QNvZtNADPujKrJGe5hE5r7ShcNwVUS2vpMXANiQTzZnQ2L3j_m07Rru-PgMxHTD2uR621B87YfTHonWDJe4XogA_pMWD_hzHVQKT7Il--2YOtv8PTnLge-uVvRTgqUiYUdvq85nPyDKsOQMnQ.zprknKK9W4iAX7YA.LJWA6oRcYj0LruM3GLPtZ0CtVNpI0Zs9WFrARDd464kKxSlu15LBiFFCFwOHbeKoRudfp8Br7MfRIlaTLHxPEE1xoBB8jZN8fakAcApU.OlMATtfF9XMtYJtTsGuBGQ02"
	wiseDirect   = "eyJlbmMiOiJBMjU2R0NNIiwiYWxnIjoiZGlyIn0..gTnxA4uYrCTWVNp1.jQ3dDidM2Z8RuYkgQt1ydJ6xYy5uG3CH72-pioHlZPqucxPWeN1pWwmceQKgpGulJmw3nYLRNkgCa9yQHMofpFIlV5HQJS6mQDxZP4G2kj3bFKvByckRYQQ3v3W7TkjfVL4NAVlrDqxx3G29-qblRwbyneMP.mVY_uctEfEAleVVbHjcqdA04"
)

// The worked examples of RFC 7516 and RFC 7520 whose key is encrypted with RSA.
// Their content layers are opened by the tests of package boundary.
const (
	rfc7516A1 = "eyJhbGciOiJSU0EtT0FFUCIsImVuYyI6IkEyNTZHQ00ifQ.OKOawDo13gRp2ojaHV7LFpZcgV7T6DVZKTyKOMTYUmKoTCVJRgckCL9kiMT03JGeipsEdY3mx_etLbbWSrFr05kLzcSr4qKAq7YN7e9jwQRb23nfa6c9d-StnImGyFDbSv04uVuxIp5Zms1gNxKKK2Da14B8S4rzVRltdYwam_lDp5XnZAYpQdb76FdIKLaVmqgfwX7XWRxv2322i-vDxRfqNzo_tETKzpVLzfiwQyeyPGLBIO56YJ7eObdv0je81860ppamavo35UgoRdbYaBcoh9QcfylQr66oc6vFWXRcZ_ZT2LawVCWTIy3brGPi6UklfCpIMfIjf7iGdXKHzg.48V1_ALb6US04U3b.5eym8TW_c8SuK0ltJ3rpYIzOeDQz7TALvtu6UG9oMo4vpzs9tX_EFShS8iB7j6jiSdiwkIr3ajwQzaBtQD_A.XFBoMYUZodetZdvTiFvSkQ"
	rfc7516A2 = "eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.UGhIOguC7IuEvf_NPVaXsGMoLOmwvc1GyqlIKOK1nN94nHPoltGRhWhw7Zx0-kFm1NJn8LE9XShH59_i8J0PH5ZZyNfGy2xGdULU7sHNF6Gp2vPLgNZ__deLKxGHZ7PcHALUzoOegEI-8E66jX2E4zyJKx-YxzZIItRzC5hlRirb6Y5Cl_p-ko3YvkkysZIFNPccxRU7qve1WYPxqbb2Yw8kZqa2rMWI5ng8OtvzlV7elprCbuPhcCdZ6XDP0_F8rkXds2vE4X-ncOIM8hAYHHi29NX0mcKiRaD0-D-ljQTP-cFPgwCp6X-nZZd9OHBv-B3oWh2TbqmScqXMR4gp_A.AxY8DCtDaGlsbGljb3RoZQ.KDlTtXchhZTGufMYmOYGS4HffxPSUrfmqCHXaI9wOGY.9hH0vgRfYgPnAHOd8stkvw"
	rfc7520   = "eyJhbGciOiJSU0EtT0FFUCIsImtpZCI6InNhbXdpc2UuZ2FtZ2VlQGhvYmJpdG9uLmV4YW1wbGUiLCJlbmMiOiJBMjU2R0NNIn0.rT99rwrBTbTI7IJM8fU3Eli7226HEB7IchCxNuh7lCiud48LxeolRdtFF4nzQibeYOl5S_PJsAXZwSXtDePz9hk-BbtsTBqC2UsPOdwjC9NhNupNNu9uHIVftDyucvI6hvALeZ6OGnhNV4v1zx2k7O1D89mAzfw-_kT3tkuorpDU-CpBENfIHX1Q58-Aad3FzMuo3Fn9buEP2yXakLXYa15BUXQsupM4A1GD4_H4Bd7V3u9h8Gkg8BpxKdUV9ScfJQTcYm6eJEBz3aSwIaK4T3-dwWpuBOhROQXBosJzS1asnuHtVMt2pKIIfux5BC6huIvmY7kzV7W7aIUrpYm_3H4zYvyMeq5pGqFmW2k8zpO878TRlZx7pZfPYDSXZyS0CfKKkMozT_qiCwZTSz4duYnt8hS4Z9sGthXn9uDqd6wycMagnQfOTs_lycTWmY-aqWVDKhjYNRf03NiwRtb5BE-tOdFwCASQj3uuAgPGrO2AWBe38UjQb0lvXn1SpyvYZ3WFc7WOJYaTa7A8DRn6MC6T-xDmMuxC0G7S2rscw5lQQU06MvZTlFOt0UvfuKBa03cxA_nIBIhLMjY2kOTxQMmpDPTr6Cbo8aKaOnx6ASE5Jx9paBpnNmOOKH35j_QlrQhDWUN6A2Gg8iFayJ69xDEdHAVCGRzN3woEI2ozDRs.-nBoKLH0YkLZPSI9.o4k2cnGN8rSSw3IDo1YuySkqeS_t2m1GXklSgqBdpACm6UJuJowOHC5ytjqYgRL-I-soPlwqMUf4UgRWWeaOGNw6vGW-xyM01lTYxrXfVzIIaRdhYtEMRBvBWbEwP7ua1DRfvaOjgZv6Ifa3brcAM64d8p5lhhNcizPersuhw5f-pGYzseva-TUaL8iWnctc-sSwy7SQmRkfhDjwbz0fz6kFovEgj64X1I5s7E6GLp5fnbYGLa1QUiML7Cc2GxgvI7zqWo0YIEc7aCflLG1-8BboVWFdZKLK9vNoycrYHumwzKluLWEbSVmaPpOslY2n525DxDfWaVFUfKQxMF56vn4B9QMpWAbnypNimbM8zVOw.UCGiqJxhBI3IFVdPalHHvA"
)

func TestWisesExamples(t *testing.T) {
	for _, v := range []struct {
		name, compact string
		err           error
		says          string
	}{
		{name: "a request", compact: wiseRequest},
		{name: "a request with its url", compact: wiseCases},
		{name: "a response, damaged", compact: wiseResponse, err: jwe.ErrMalformed, says: "the authentication tag is 18 bytes, A256GCM has 16"},
		{name: "the same, repaired", compact: strings.TrimSuffix(wiseResponse, "02")},
		{name: "a direct response, damaged", compact: wiseDirect, err: jwe.ErrAlgorithm, says: `alg "dir" is never accepted here, want RSA-OAEP-256`},
		{name: "the same, repaired", compact: strings.TrimSuffix(wiseDirect, "04"), err: jwe.ErrAlgorithm, says: `alg "dir" is never accepted`},
	} {
		m, err := jwe.Parse([]byte(v.compact), everything())
		if v.err != nil {
			if !errors.Is(err, v.err) || !strings.Contains(err.Error(), v.says) {
				t.Errorf("%s: got %v, want %v saying %q", v.name, err, v.err, v.says)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", v.name, err)
			continue
		}
		if got := serialize(m); got != v.compact {
			t.Errorf("%s: reads back as\n%s", v.name, got)
		}
		if !m.Fits(rsaOf(2048)) || !m.Fits(rsaOf(2047)) || m.Fits(rsaOf(3072)) || m.Fits(rsaOf(4096)) || m.Fits(rsaOf(2056)) {
			t.Errorf("%s: want an encrypted key of 2048 bits, got %d bytes", v.name, len(m.Envelope.EncryptedKey))
		}
	}
}

func TestWisesHeadersAreRead(t *testing.T) {
	m, err := jwe.Parse([]byte(wiseCases), everything())
	if err != nil {
		t.Fatal(err)
	}
	if m.KID != "" || string(members(t, m)["url"]) != `"/v1/cases"` || len(members(t, m)) != 3 {
		t.Errorf("got kid %q, header %q", m.KID, members(t, m))
	}
	m, err = jwe.Parse([]byte(strings.TrimSuffix(wiseResponse, "02")), everything())
	if err != nil {
		t.Fatal(err)
	}
	if m.KID != "6da49495-1632-43cd-9a03-dd324603ecd7" || m.Envelope.Alg != boundary.RSAOAEP256 || m.Envelope.Enc != boundary.A256GCM {
		t.Errorf("got kid %q, alg %q, enc %q", m.KID, m.Envelope.Alg, m.Envelope.Enc)
	}
}

func TestTheRFCsExamplesUseAlgorithmsThatAreRefused(t *testing.T) {
	for name, v := range map[string]struct{ compact, says string }{
		"RFC 7516 A.1": {rfc7516A1, `alg "RSA-OAEP" is never accepted here, want RSA-OAEP-256`},
		"RFC 7516 A.2": {rfc7516A2, `alg "RSA1_5" is never accepted here, want RSA-OAEP-256`},
		"RFC 7520 5.2": {rfc7520, `alg "RSA-OAEP" is never accepted here, want RSA-OAEP-256`},
	} {
		_, err := jwe.Parse([]byte(v.compact), everything())
		if !errors.Is(err, jwe.ErrAlgorithm) || !strings.Contains(err.Error(), v.says) {
			t.Errorf("%s: got %v, want ErrAlgorithm saying %q", name, err, v.says)
		}
	}
}

// testdata/envelopes.json is from another implementation; envelopes.py beside
// it says how it was made.
func TestEnvelopesOfAnotherImplementationOpen(t *testing.T) {
	text, err := os.ReadFile("testdata/envelopes.json")
	if err != nil {
		t.Fatal(err)
	}
	var data struct {
		Keys      map[int]map[string]string
		Envelopes []struct {
			Bits                    int
			Enc, Plaintext, Compact string
		}
	}
	if err := json.Unmarshal(text, &data); err != nil {
		t.Fatal(err)
	}
	if len(data.Envelopes) != 3*len(encs()) {
		t.Fatalf("got %d envelopes, want %d", len(data.Envelopes), 3*len(encs()))
	}
	for _, v := range data.Envelopes {
		m, err := jwe.Parse([]byte(v.Compact), everything())
		if err != nil {
			t.Errorf("%d bits, %s: %v", v.Bits, v.Enc, err)
			continue
		}
		if m.Envelope.Enc != v.Enc || !m.Fits(rsaOf(v.Bits)) || string(members(t, m)["typ"]) != `"JOSE"` {
			t.Errorf("%d bits, %s: got enc %s, %d bytes of key, header %q", v.Bits, v.Enc, m.Envelope.Enc, len(m.Envelope.EncryptedKey), members(t, m))
		}
		got, err := open(jwkOf(t, data.Keys[v.Bits]), m)
		if err != nil || string(got) != v.Plaintext {
			t.Errorf("%d bits, %s: got %q, %v, want %q", v.Bits, v.Enc, got, err, v.Plaintext)
		}
	}
}

func jwkOf(t *testing.T, jwk map[string]string) *rsa.PrivateKey {
	t.Helper()
	number := func(name string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(jwk[name])
		if err != nil {
			t.Fatalf("%s of the key: %v", name, err)
		}
		return new(big.Int).SetBytes(b)
	}
	key := &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: number("n"), E: int(number("e").Int64())},
		D:         number("d"), Primes: []*big.Int{number("p"), number("q")},
	}
	if err := key.Validate(); err != nil {
		t.Fatalf("the key: %v", err)
	}
	return key
}
