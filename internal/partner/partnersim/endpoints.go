package partnersim

// Endpoint names one of a partner's endpoints.
type Endpoint string

// The endpoints a Sim answers. Any stands for each of them a fault can strike.
const (
	Any Endpoint = "any"

	EndpointToken      Endpoint = "token"           // POST /oauth/token
	EndpointUpload     Endpoint = "upload"          // POST /v1/auth/jose/request/public-keys
	EndpointWiseKey    Endpoint = "wise-key"        // GET  /v1/auth/jose/response/public-keys
	EndpointProbe      Endpoint = "playground-get"  // GET  /v1/auth/jose/playground/jwe
	EndpointPlayground Endpoint = "playground-post" // POST /v1/auth/jose/playground/jwe
	EndpointDirect     Endpoint = "playground-dir"  // POST /v1/auth/jose/playground/jwe-direct-encryption
	EndpointCaseCreate Endpoint = "case-create"     // POST /v1/cases
	EndpointCase       Endpoint = "case-get"        // GET  /v1/cases/{id}
	EndpointPIN        Endpoint = "pin-create"      // POST /v1/user/pin
	EndpointPINVerify  Endpoint = "pin-verify"      // POST /v1/one-time-token/pin/verify
	EndpointPIN2       Endpoint = "pin2-create"     // POST /v2/profiles/{id}/pin
	EndpointPIN2Verify Endpoint = "pin2-verify"     // POST /v2/profiles/{id}/pin/verify

	EndpointCardKey     Endpoint = "card-key"     // GET  /twcard-data/v1/clientSideEncryption/fetchEncryptingKey
	EndpointCardDetails Endpoint = "card-details" // POST /twcard-data/v1/sensitive-card-data/details
	EndpointCardPIN     Endpoint = "card-pin"     // POST /twcard-data/v1/sensitive-card-data/pin
	EndpointCardPreset  Endpoint = "card-preset"  // POST /twcard-data/v1/sensitive-card-data/preset-pin
)

// Those of Jack Henry, below /jackhenry.
const (
	EndpointJackHenryToken Endpoint = "jackhenry-token" // POST /a/oidc-provider/api/v0/token
	EndpointJackHenryKey   Endpoint = "jackhenry-key"   // GET  /api/card-mgmt/v1/encryption-utils/public-key/pem
	EndpointSearchByPAN    Endpoint = "search-by-pan"   // POST /api/card-mgmt/v1/{institution}/card-credentials/search-by-pan
	EndpointCardToken      Endpoint = "card-token"      // POST /api/card-mgmt/v1/{institution}/tokenization/card-tokens
	EndpointValidateCard   Endpoint = "validate-card"   // POST /api/card-mgmt/v1/{institution}/digital-wallets/validations/encrypted-card-data
)

// Those of Powens, below /powens/2.0, and of Venly, below /venly.
const (
	EndpointPowensToken Endpoint = "powens-token" // POST /auth/token
	EndpointPowensKey   Endpoint = "powens-key"   // GET  /publickey
	EndpointConnect     Endpoint = "connect"      // POST /users/me/connections
	EndpointReconnect   Endpoint = "reconnect"    // POST /users/me/connections/{id}

	EndpointVenlyToken   Endpoint = "venly-token"   // POST /auth/realms/Arkane/protocol/openid-connect/token
	EndpointVenlyKeys    Endpoint = "venly-keys"    // GET  /api/security
	EndpointTransaction  Endpoint = "transaction"   // POST /api/transactions
	EndpointUserCreate   Endpoint = "user-create"   // POST /api/users
	EndpointMethodCreate Endpoint = "method-create" // POST /api/users/{user}/signing-methods
	EndpointMethodUpdate Endpoint = "method-update" // PUT  /api/users/{user}/signing-methods/{id}
)

// Those of a partner of no name, below /generic.
const (
	EndpointGenericToken  Endpoint = "generic-token"  // POST /oauth/token
	EndpointGenericJWKS   Endpoint = "generic-jwks"   // GET  /jwks.json
	EndpointGenericPEM    Endpoint = "generic-pem"    // GET  /key.pem
	EndpointGenericKey    Endpoint = "generic-key"    // GET  /v1/key
	EndpointGenericEcho   Endpoint = "generic-echo"   // POST /v1/echo
	EndpointGenericDirect Endpoint = "generic-direct" // POST /v1/direct
	EndpointGenericFields Endpoint = "generic-fields" // POST /v1/fields
)

// traits are what faults need to know of an endpoint.
type traits struct {
	sealed bool // it answers with a JWE
	open   bool // it asks for no access token
}

var endpoints = map[Endpoint]traits{
	Any:                {},
	EndpointToken:      {open: true},
	EndpointUpload:     {},
	EndpointWiseKey:    {},
	EndpointProbe:      {sealed: true},
	EndpointPlayground: {sealed: true},
	EndpointDirect:     {sealed: true},
	EndpointCaseCreate: {sealed: true},
	EndpointCase:       {sealed: true},
	EndpointPIN:        {},
	EndpointPINVerify:  {sealed: true},
	EndpointPIN2:       {},
	EndpointPIN2Verify: {},

	EndpointCardKey:     {},
	EndpointCardDetails: {sealed: true},
	EndpointCardPIN:     {sealed: true},
	EndpointCardPreset:  {},

	EndpointJackHenryToken: {open: true},
	EndpointJackHenryKey:   {},
	EndpointSearchByPAN:    {sealed: true},
	EndpointCardToken:      {},
	EndpointValidateCard:   {},

	EndpointPowensToken: {open: true},
	EndpointPowensKey:   {open: true},
	EndpointConnect:     {},
	EndpointReconnect:   {},

	EndpointVenlyToken:   {open: true},
	EndpointVenlyKeys:    {open: true},
	EndpointTransaction:  {},
	EndpointUserCreate:   {},
	EndpointMethodCreate: {},
	EndpointMethodUpdate: {},

	EndpointGenericToken:  {open: true},
	EndpointGenericJWKS:   {open: true},
	EndpointGenericPEM:    {open: true},
	EndpointGenericKey:    {},
	EndpointGenericEcho:   {sealed: true},
	EndpointGenericDirect: {sealed: true},
	EndpointGenericFields: {},
}

func (e Endpoint) sealed() bool { return endpoints[e].sealed }

func (e Endpoint) known() bool {
	_, ok := endpoints[e]
	return ok
}
