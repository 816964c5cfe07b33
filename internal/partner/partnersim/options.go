package partnersim

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// The credentials a Sim accepts when it is given none. They are published here
// and protect nothing.
const (
	DemoClientID     = "demo-client"
	DemoClientSecret = "demo-secret-not-for-production"

	DemoJackHenryClientID = "demo-client-of-jackhenry"
)

// Ways a request names the key its reply is to be sealed to, for
// Options.ResponseKID. A third way is NamedInHeader plus the header's name.
const (
	NamedInJOSE   = "jose"    // the kid of the request's own JOSE header; a request without body names none
	NamedNowhere  = "none"    // nothing in a request names a key
	NamedInHeader = "header:" // prefix: an HTTP header, so also on a GET
)

// Which usable key seals the reply when the request names none, for Options.Unnamed.
const (
	UseNewest = "newest" // the latest upload
	UseOldest = "oldest"
	UseRandom = "random" // a client must not care: the reply's kid tells
)

// What access tokens look like, for Options.TokenFormat.
const (
	TokenUUID   = "uuid"   // 36 characters, until 7 January 2027
	TokenJWT    = "jwt"    // an encrypted JWT of several KiB
	TokenEither = "either" // one or the other at random, as in production during the migration
)

// Options is what a Sim is made from. The zero value is partners as documented;
// most fields settle something the documents leave open or state in two ways.
type Options struct {
	// Partners are those pretended: all if empty.
	Partners []Partner
	// ClientID and ClientSecret are the credentials that token endpoints accept,
	// but for Jack Henry's. Both empty: DemoClientID and DemoClientSecret.
	ClientID     string
	ClientSecret string
	// TokenFormat is TokenUUID, TokenJWT (if empty) or TokenEither.
	TokenFormat string
	// TokenLifetime is expires_in, in whole seconds. Zero: 43199 s.
	TokenLifetime time.Duration
	// ClockOffset shifts Wise's clock against the real one.
	ClockOffset time.Duration

	// ResponseKID says where a request names the key for its reply: NamedInJOSE
	// (if empty), NamedNowhere, or NamedInHeader followed by the header's name.
	ResponseKID string
	// RequireKID answers 500 to a request that could name a key and does not.
	RequireKID bool
	// Unnamed picks the key when none is named: UseNewest (if empty), UseOldest, UseRandom.
	Unnamed string
	// ActivationLag is how long after its upload a key is first used.
	ActivationLag time.Duration
	// DuplicateUpload is the status of an upload repeated word for word: 201 (if
	// zero), 409 or 500. The key stays as it was first uploaded.
	DuplicateUpload int
	// ConflictUpload is the status of an upload that reuses a keyId for
	// something else: 409 (if zero) or 400.
	ConflictUpload int
	// KeyOverlap is how long an old key of a partner opens requests after a
	// rotation. Zero: for ever. Negative: not at all.
	KeyOverlap time.Duration
	// ArrayReply wraps Wise's public key in an array of one.
	ArrayReply bool
	// MaterialNewlines breaks Wise's key material into lines of 64, as older
	// documents show it.
	MaterialNewlines bool
	// OmitWiseKeyID leaves keyId out of Wise's public key: the schema has it, no
	// published sample does.
	OmitWiseKeyID bool
	// CardKeyForm is how the card data host writes its key: KeySPKI (if empty),
	// KeyPEM, KeyBase64PEM or KeyPKCS1.
	CardKeyForm string
	// CardReply is how it answers: CardSealed (if empty), CardQuoted, CardFramed
	// or CardClear.
	CardReply string
	// CardBadKey is the status of a request it cannot open: 500 (if zero) or 400.
	CardBadKey int
	// JackHenryClientID is the client whose assertions are taken:
	// DemoJackHenryClientID if empty. Their key is registered later.
	JackHenryClientID string
	// JackHenryTokenLifetime is expires_in of its tokens, in whole seconds. Zero:
	// 600 s; nothing is documented.
	JackHenryTokenLifetime time.Duration
	// JackHenryPEM is how it writes its key: KeyBase64PEM (if empty), KeyPEM or
	// KeySPKI.
	JackHenryPEM string
	// JackHenryKeyForm is how it wants a client's key: KeySPKI (if empty),
	// KeyPoint, KeyBase64PEM, KeyJWK or KeyBase64JWK.
	JackHenryKeyForm string
	// JackHenryReplyKID is the kid of its replies: ReplyKIDNone (if empty),
	// ReplyKIDThumbprint or ReplyKIDJWK.
	JackHenryReplyKID string
	// PowensKeys is how Powens shows its key: KeysSingle (if empty) or KeysSet.
	PowensKeys string
	// VenlyTokenLifetime is expires_in of its tokens, in whole seconds. Zero:
	// 360 s.
	VenlyTokenLifetime time.Duration
	// VenlyHash is how it wants the hash of a body: HashBase64 (if empty) or
	// HashHex.
	VenlyHash string
	// GenericAlg is the alg of the partner of no name: RSA-OAEP-256 (if empty),
	// ECDH-ES, ECDH-ES+A128KW or ECDH-ES+A256KW. GenericEnc is its enc: A256GCM
	// (if empty), A128GCM, A128CBC-HS256 or A256CBC-HS512.
	GenericAlg, GenericEnc string
	// GenericMember is the member that holds a JWE; empty: the JWE is the body.
	GenericMember string
	// GenericKeyHeader is an HTTP header that must name the key; empty: none.
	GenericKeyHeader string
	// GenericAuth is what it takes in Authorization: AuthToken (if empty), AuthBasic
	// or AuthSecret. GenericAPIKey is an HTTP header that must have the client
	// secret, besides; empty: none.
	GenericAuth, GenericAPIKey string
	// ExtraFields adds an unknown field to each JSON answer: Wise adds fields
	// without notice.
	ExtraFields bool
}

func (o Options) withDefaults() Options {
	if o.ClientID == "" && o.ClientSecret == "" {
		o.ClientID, o.ClientSecret = DemoClientID, DemoClientSecret
	}
	set(&o.TokenFormat, TokenJWT)
	set(&o.TokenLifetime, 43199*time.Second)
	set(&o.ResponseKID, NamedInJOSE)
	set(&o.Unnamed, UseNewest)
	set(&o.DuplicateUpload, http.StatusCreated)
	set(&o.ConflictUpload, http.StatusConflict)
	set(&o.JackHenryClientID, DemoJackHenryClientID)
	set(&o.JackHenryTokenLifetime, 10*time.Minute)
	set(&o.JackHenryPEM, KeyBase64PEM)
	set(&o.JackHenryKeyForm, KeySPKI)
	set(&o.JackHenryReplyKID, ReplyKIDNone)
	set(&o.PowensKeys, KeysSingle)
	set(&o.GenericAlg, string(jose.RSA_OAEP_256))
	set(&o.GenericEnc, string(jose.A256GCM))
	set(&o.GenericAuth, AuthToken)
	set(&o.VenlyTokenLifetime, 6*time.Minute)
	set(&o.VenlyHash, HashBase64)
	set(&o.CardKeyForm, KeySPKI)
	set(&o.CardReply, CardSealed)
	set(&o.CardBadKey, http.StatusInternalServerError)
	return o
}

func set[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// Validate says everything that is wrong with o. Empty fields are never wrong,
// except one half of the credentials.
func (o Options) Validate() error {
	o = o.withDefaults()
	var errs []error
	oneOf := func(field string, ok bool, got any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: want %s", field, got, want))
		}
	}
	oneOf("ClientID", o.ClientID != "" && !strings.Contains(o.ClientID, ":"), fmt.Sprintf("%q", o.ClientID), "a name without a colon")
	oneOf("ClientSecret", o.ClientSecret != "", "empty", "a secret beside the ClientID")
	oneOf("TokenFormat", slices.Contains([]string{TokenUUID, TokenJWT, TokenEither}, o.TokenFormat), o.TokenFormat, "uuid, jwt or either")
	oneOf("TokenLifetime", o.TokenLifetime >= time.Second && o.TokenLifetime%time.Second == 0, o.TokenLifetime, "whole seconds")
	for _, p := range o.Partners {
		oneOf("Partners", partners[p] != nil, fmt.Sprintf("%q", p), "some of "+fmt.Sprint(Partners()))
	}
	header, inHeader := strings.CutPrefix(o.ResponseKID, NamedInHeader)
	oneOf("ResponseKID", o.ResponseKID == NamedInJOSE || o.ResponseKID == NamedNowhere || inHeader && isToken(header),
		o.ResponseKID, "jose, none or header:NAME")
	oneOf("Unnamed", slices.Contains([]string{UseNewest, UseOldest, UseRandom}, o.Unnamed), o.Unnamed, "newest, oldest or random")
	oneOf("ActivationLag", o.ActivationLag >= 0, o.ActivationLag, "no negative time")
	oneOf("DuplicateUpload", slices.Contains([]int{201, 409, 500}, o.DuplicateUpload), o.DuplicateUpload, "201, 409 or 500")
	oneOf("ConflictUpload", slices.Contains([]int{409, 400}, o.ConflictUpload), o.ConflictUpload, "409 or 400")
	oneOf("JackHenryTokenLifetime", o.JackHenryTokenLifetime >= time.Second && o.JackHenryTokenLifetime%time.Second == 0, o.JackHenryTokenLifetime, "whole seconds")
	oneOf("JackHenryPEM", slices.Contains([]string{KeyBase64PEM, KeyPEM, KeySPKI}, o.JackHenryPEM), o.JackHenryPEM, "base64-pem, pem or spki")
	oneOf("JackHenryKeyForm", slices.Contains([]string{KeySPKI, KeyPoint, KeyBase64PEM, KeyJWK, KeyBase64JWK}, o.JackHenryKeyForm), o.JackHenryKeyForm,
		"spki, point, base64-pem, jwk or base64-jwk")
	oneOf("JackHenryReplyKID", slices.Contains([]string{ReplyKIDNone, ReplyKIDThumbprint, ReplyKIDJWK}, o.JackHenryReplyKID), o.JackHenryReplyKID, "none, thumbprint or jwk")
	oneOf("GenericAlg", slices.Contains([]string{"RSA-OAEP-256", "ECDH-ES", "ECDH-ES+A128KW", "ECDH-ES+A256KW"}, o.GenericAlg), o.GenericAlg, "RSA-OAEP-256 or one of ECDH-ES")
	oneOf("GenericEnc", slices.Contains([]string{"A256GCM", "A128GCM", "A128CBC-HS256", "A256CBC-HS512"}, o.GenericEnc), o.GenericEnc, "an enc of RFC 7518")
	oneOf("GenericKeyHeader", o.GenericKeyHeader == "" || isToken(o.GenericKeyHeader), o.GenericKeyHeader, "the name of a header")
	oneOf("GenericAuth", slices.Contains([]string{AuthToken, AuthBasic, AuthSecret}, o.GenericAuth), o.GenericAuth, "token, basic or secret")
	oneOf("GenericAPIKey", o.GenericAPIKey == "" || isToken(o.GenericAPIKey), o.GenericAPIKey, "the name of a header")
	oneOf("PowensKeys", slices.Contains([]string{KeysSingle, KeysSet}, o.PowensKeys), o.PowensKeys, "single or set")
	oneOf("VenlyTokenLifetime", o.VenlyTokenLifetime >= time.Second && o.VenlyTokenLifetime%time.Second == 0, o.VenlyTokenLifetime, "whole seconds")
	oneOf("VenlyHash", slices.Contains([]string{HashBase64, HashHex}, o.VenlyHash), o.VenlyHash, "base64 or hex")
	oneOf("CardKeyForm", slices.Contains([]string{KeySPKI, KeyPEM, KeyBase64PEM, KeyPKCS1}, o.CardKeyForm), o.CardKeyForm, "spki, pem, base64-pem or pkcs1")
	oneOf("CardReply", slices.Contains([]string{CardSealed, CardQuoted, CardFramed, CardClear}, o.CardReply), o.CardReply, "sealed, quoted, framed or clear")
	oneOf("CardBadKey", slices.Contains([]int{400, 500}, o.CardBadKey), o.CardBadKey, "400 or 500")
	if len(errs) > 0 {
		return fmt.Errorf("partner simulator options: %w", errors.Join(errs...))
	}
	return nil
}

// isToken reports whether s can be the name of an HTTP header (RFC 9110 §5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, r)
	})
}
