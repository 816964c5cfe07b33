package main

import (
	"flag"

	"keyd/internal/partner/partnersim"
)

// names are the partners that can be pretended.
func names() []string {
	var list []string
	for _, p := range partnersim.Partners() {
		list = append(list, string(p))
	}
	return list
}

// wiseFlags are what Wise's documents leave open, and what all partners share.
func wiseFlags(fs *flag.FlagSet, o *partnersim.Options) {
	fs.StringVar(&o.TokenFormat, "token-format", partnersim.TokenJWT, "access tokens: uuid, jwt or either")
	fs.DurationVar(&o.TokenLifetime, "token-lifetime", 0, "life of an access token (default 11h59m59s)")
	fs.DurationVar(&o.ClockOffset, "clock-offset", 0, "the partners' clock against this host's")
	fs.StringVar(&o.ResponseKID, "response-kid", partnersim.NamedInJOSE, "where a request names the key for its reply: jose, header:NAME or none")
	fs.BoolVar(&o.RequireKID, "require-kid", false, "refuse a request that could name a key and does not")
	fs.StringVar(&o.Unnamed, "unnamed", partnersim.UseNewest, "key used when none is named: newest, oldest or random")
	fs.DurationVar(&o.ActivationLag, "activation-lag", 0, "time from a key's upload to its first use")
	fs.IntVar(&o.DuplicateUpload, "duplicate-upload", 201, "status of an upload repeated word for word: 201, 409 or 500")
	fs.IntVar(&o.ConflictUpload, "conflict-upload", 409, "status of a keyId used again for another key: 409 or 400")
	fs.DurationVar(&o.KeyOverlap, "key-overlap", 0, "how long an old key of a partner still opens (default for ever; negative not at all)")
	fs.BoolVar(&o.ArrayReply, "array-reply", false, "answer Wise's public key in an array")
	fs.BoolVar(&o.MaterialNewlines, "material-newlines", false, "break Wise's key material into lines")
	fs.BoolVar(&o.OmitWiseKeyID, "omit-wise-key-id", false, "leave keyId out of Wise's public key")
	fs.BoolVar(&o.ExtraFields, "extra-fields", false, "add an unknown field to every JSON answer")
}

// otherFlags are what the documents of the others leave open.
func otherFlags(fs *flag.FlagSet, o *partnersim.Options) {
	fs.StringVar(&o.CardKeyForm, "card-key", partnersim.KeySPKI, "how the card data host writes its key: spki, pem, base64-pem or pkcs1")
	fs.StringVar(&o.CardReply, "card-reply", partnersim.CardSealed, "what it answers with: sealed, quoted, framed or clear")
	fs.IntVar(&o.CardBadKey, "card-bad-key", 500, "status of a request it cannot open: 500 or 400")
	fs.StringVar(&o.JackHenryClientID, "jackhenry-client-id", "", "client `name` at Jack Henry (default "+partnersim.DemoJackHenryClientID+")")
	fs.DurationVar(&o.JackHenryTokenLifetime, "jackhenry-token-lifetime", 0, "life of an access token of Jack Henry's (default 10m)")
	fs.StringVar(&o.JackHenryPEM, "jackhenry-pem", partnersim.KeyBase64PEM, "how Jack Henry writes its key: base64-pem, pem or spki")
	fs.StringVar(&o.JackHenryKeyForm, "jackhenry-key-form", partnersim.KeySPKI, "how it wants ours: spki, point, base64-pem, jwk or base64-jwk")
	fs.StringVar(&o.JackHenryReplyKID, "jackhenry-reply-kid", partnersim.ReplyKIDNone, "the kid of its replies: none, thumbprint or jwk")
	fs.StringVar(&o.PowensKeys, "powens-keys", partnersim.KeysSingle, "how Powens shows its key: single or set")
	fs.DurationVar(&o.VenlyTokenLifetime, "venly-token-lifetime", 0, "life of an access token of Venly's (default 6m)")
	fs.StringVar(&o.VenlyHash, "venly-hash", partnersim.HashBase64, "how Venly wants the hash of a body: base64 or hex")
	fs.StringVar(&o.GenericAlg, "jwe-alg", "RSA-OAEP-256", "the alg of the partner of no name: RSA-OAEP-256, ECDH-ES, ECDH-ES+A128KW or ECDH-ES+A256KW")
	fs.StringVar(&o.GenericEnc, "jwe-enc", "A256GCM", "its enc: A256GCM, A128GCM, A128CBC-HS256 or A256CBC-HS512")
	fs.StringVar(&o.GenericMember, "jwe-member", "", "the JSON `member` that holds a JWE there (default: the body is one)")
	fs.StringVar(&o.GenericKeyHeader, "jwe-key-header", "", "an HTTP `header` that must name the key there")
	fs.StringVar(&o.GenericAuth, "jwe-auth", partnersim.AuthToken, "what it takes in Authorization: token, basic (the client's id and secret) or secret (that one as a bearer token)")
	fs.StringVar(&o.GenericAPIKey, "jwe-api-key", "", "an HTTP `header` that must have the client secret there")
}
