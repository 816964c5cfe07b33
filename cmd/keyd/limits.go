package main

import (
	"time"

	"keyd/internal/api"
	"keyd/internal/registry"
)

type limitsConfig struct {
	// Envelope is the largest envelope opened, in bytes.
	Envelope int `yaml:"envelope"`
	// Plaintext is the largest plaintext sealed, in bytes.
	Plaintext int `yaml:"plaintext"`
	// ExchangeTTL is how long an exchange waits for its reply.
	ExchangeTTL registry.Duration `yaml:"exchange_ttl"`
	// Exchanges is how many may wait at a time with each partner,
	// ExchangesPerUser those of one user.
	Exchanges        int `yaml:"exchanges"`
	ExchangesPerUser int `yaml:"exchanges_per_user"`
	// Calls is how many calls are under way with each partner at a time.
	Calls int `yaml:"calls"`
}

func (p *problems) limits(l limitsConfig) {
	p.between("limits.envelope", l.Envelope, 1<<10, 64<<20)
	p.between("limits.plaintext", l.Plaintext, 1<<10, 48<<20)
	p.between("limits.exchanges", l.Exchanges, 1, 64<<10)
	p.between("limits.exchanges_per_user", l.ExchangesPerUser, 1, 64<<10)
	p.between("limits.calls", l.Calls, 1, 256)
	if ttl := l.ExchangeTTL; ttl < registry.Duration(time.Second) || ttl > registry.Duration(time.Hour) {
		p.add("limits.exchange_ttl", "%s: want 1s to 1h", ttl)
	}
}

// carried is how large what is carried to a partner and back may be: the largest
// envelope, and the largest plaintext once it is sealed.
func (l limitsConfig) carried() int { return max(l.Envelope, 2*l.Plaintext+64<<10) }

func (l limitsConfig) exchanges() api.ExchangeLimits {
	return api.ExchangeLimits{TTL: time.Duration(l.ExchangeTTL), PerPartner: l.Exchanges, PerUser: l.ExchangesPerUser}
}
