package jwe_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"keyd/internal/boundary"
	"keyd/internal/jwe"
)

// BenchmarkParse: keyd's parser beside go-jose's, and what refusing costs.
func BenchmarkParse(b *testing.B) {
	for _, size := range []int{256, 16 << 10, 512 << 10} {
		compact := build(`{"alg":"RSA-OAEP-256","enc":"A256GCM","kid":"6da49495-1632-43cd-9a03-dd324603ecd7"}`, 256, 12, size, 16)
		raw := []byte(compact)
		b.Run(fmt.Sprintf("keyd/%d", size), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jwe.Parse(raw, everything()); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("go-jose/%d", size), func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jose.ParseEncryptedCompact(compact, []jose.KeyAlgorithm{jose.RSA_OAEP_256}, theirEncs()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	for name, junk := range map[string]string{
		"dots":         strings.Repeat(".", 1<<20),
		"another alg":  build(`{"alg":"RSA1_5","enc":"A256GCM"}`, 256, 12, 512<<10, 16),
		"deep nesting": build(`{` + algAndEnc + `,"x":` + strings.Repeat("[", 1500) + strings.Repeat("]", 1500) + `}`),
	} {
		raw := []byte(junk)
		b.Run("refused/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := jwe.Parse(raw, everything()); err == nil {
					b.Fatal("parsed")
				}
			}
		})
	}
}

// BenchmarkSeal is the whole of it, public key operation and all.
func BenchmarkSeal(b *testing.B) {
	plaintext := make([]byte, 1000)
	for b.Loop() {
		if _, err := jwe.Seal(&testKey().PublicKey, jwe.SealHeader{Alg: jwe.SealRSAOAEP256, KID: "k", Enc: boundary.A256GCM}, plaintext); err != nil {
			b.Fatal(err)
		}
	}
}
