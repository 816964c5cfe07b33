package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"keyd/internal/boundary"
	"keyd/internal/registry"
	"keyd/internal/rotation"
)

const day = registry.Duration(24 * time.Hour)

// setDefaults fills what may be left out.
func (c *config) setDefaults() {
	or(&c.Instance, "keyd")
	or(&c.StateDir, "/var/lib/keyd")
	or(&c.Listen.Client.Path, "/run/keyd/keyd.sock")
	or(&c.Listen.Client.Mode, "0660")
	or(&c.Listen.Admin.Path, "/run/keyd/admin.sock")
	or(&c.Listen.Admin.Mode, "0660")
	or(&c.Listen.Metrics, "127.0.0.1:9464")
	or(&c.Audit.Decrypts, "all")
	or(&c.Limits.Envelope, 1<<20)
	or(&c.Limits.Plaintext, 512<<10)
	or(&c.Limits.ExchangeTTL, registry.Duration(3*time.Minute))
	or(&c.Limits.Exchanges, 1024)
	or(&c.Limits.ExchangesPerUser, c.Limits.Exchanges)
	or(&c.Limits.Calls, 64)
	or(&c.Log.Level, "info")
	for name, b := range c.Backends {
		or(&b.Sessions, 8)
		or(&b.SessionWait, registry.Duration(2*time.Second))
		or(&b.CallTimeout, registry.Duration(10*time.Second))
		c.Backends[name] = b
	}
	for name, p := range c.Partners {
		p.setDefaults()
		c.Partners[name] = p
	}
	for name, k := range c.Keys {
		usual := k.material().Usual()
		k.Algorithm, k.Bits, k.Curve = usual.Algorithm, usual.Bits, usual.Curve
		or(&k.ValidFor, new(150*day))
		or(&k.DrainFor, new(30*day))
		or(&k.Canary, "open")
		c.Keys[name] = k
	}
}

func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// validate reports every problem of the config, each with its path.
func (c *config) validate() error {
	var p problems
	p.name("instance", c.Instance)
	if !filepath.IsAbs(c.StateDir) {
		p.add("state_dir", "%q is not an absolute path", c.StateDir)
	}
	p.socket("listen.client", c.Listen.Client)
	p.socket("listen.admin", c.Listen.Admin)
	if c.Listen.Client.Path == c.Listen.Admin.Path {
		p.add("listen", "client and admin share the socket %s", c.Listen.Client.Path)
	}
	p.loopback("listen.metrics", c.Listen.Metrics)
	p.oneOf("audit.decrypts", c.Audit.Decrypts, "all", "failures", "off")
	p.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	p.oneOf("log.format", c.Log.Format, "", "json", "text")
	p.limits(c.Limits)
	p.roles(c)
	tokens := map[[3]string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Backends)) {
		b := c.Backends[name]
		p.backend("backends."+name, name, b)
		if b.Type != typePKCS11 {
			continue
		}
		// Each would log in by itself, and take the other's keys for its own.
		token := [3]string{b.Module, b.TokenLabel, b.TokenSerial}
		if other := tokens[token]; other != "" {
			p.add("backends."+name, "is the token of backend %s", other)
		}
		tokens[token] = name
	}
	p.partners(c)
	owner := map[keyUse]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Keys)) {
		p.key("keys."+name, name, c.Keys[name], c)
		use := keyUse{c.Keys[name].Partner, c.Keys[name].Algorithm == boundary.PS256}
		if other := owner[use]; other != "" {
			p.add("keys."+name, "partner %s already has the key %s", use.partner, other)
		}
		owner[use] = name
	}
	for _, name := range slices.Sorted(maps.Keys(c.Partners)) {
		if slices.Contains(c.Partners[name].uses(name), boundary.PS256) && owner[keyUse{name, true}] == "" {
			p.add("partners."+name, "it asks for signed assertions: name a key for it with algorithm: PS256, or set authorization: caller")
		}
	}
	return errors.Join(p...)
}

// problems collects what is wrong with a config.
type problems []error

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, fmt.Errorf("  %s: %s", path, fmt.Sprintf(format, args...)))
}

func (p *problems) check(path string, err error) {
	if err != nil {
		p.add(path, "%v", err)
	}
}

func (p *problems) name(path, name string) {
	if !nameRE.MatchString(name) {
		p.add(path, "%q: want lower-case letters, digits and dashes, a letter first, at most 63", name)
	}
}

func (p *problems) oneOf(path, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		p.add(path, "%q: want one of %s", value, strings.Join(allowed, ", "))
	}
}

func (p *problems) between(path string, value, low, high int) {
	if value < low || value > high {
		p.add(path, "%d: want %d to %d", value, low, high)
	}
}

func (p *problems) socket(path string, s socketConfig) {
	// sun_path holds 108 bytes with its terminator (unix(7)).
	if !filepath.IsAbs(s.Path) || len(s.Path) > 107 {
		p.add(path+".path", "%q: want an absolute path of at most 107 bytes", s.Path)
	}
	if mode, err := strconv.ParseUint(s.Mode, 8, 32); err != nil || mode > 0o777 {
		p.add(path+".mode", "%q: want an octal mode such as \"0660\"", s.Mode)
	}
	if s.Group != "" {
		_, err := groupID(s.Group)
		p.check(path+".group", err)
	}
}

func (p *problems) loopback(path, addr string) {
	if addr == "off" {
		return
	}
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		p.add(path, "%q: want a loopback address such as 127.0.0.1:9464, or off", addr)
	}
}

func (p *problems) roles(c *config) {
	p.who("roles.operator", c.Roles.Operator)
	p.who("roles.auditor", c.Roles.Auditor)
	for i, client := range c.Roles.Clients {
		path := fmt.Sprintf("roles.clients[%d]", i)
		if _, ok := c.Partners[client.Partner]; !ok && client.Partner != "*" {
			p.add(path+".partner", "no partner %q is configured", client.Partner)
		}
		p.who(path, client.whoConfig)
		for _, grant := range client.May {
			p.oneOf(path+".may", grant, slices.Sorted(maps.Keys(grants))...)
		}
	}
}

func (p *problems) who(path string, who whoConfig) {
	for _, name := range who.Users {
		_, err := userID(name)
		p.check(path+".users", err)
	}
	for _, name := range who.Groups {
		_, err := groupID(name)
		p.check(path+".groups", err)
	}
}

func (p *problems) level(path, level string) {
	if level != "" {
		_, err := boundary.ParseLevel(level)
		p.check(path, err)
	}
}

func (p *problems) key(path, name string, k keyConfig, c *config) {
	p.name(path, name)
	if _, ok := c.Partners[k.Partner]; !ok {
		p.add(path+".partner", "no partner %q is configured", k.Partner)
	}
	if b, ok := c.Backends[k.Backend]; !ok {
		p.add(path+".backend", "no backend %q is configured", k.Backend)
	} else if b.Type == typeLost {
		p.add(path+".backend", "%s is lost: new versions need another backend", k.Backend)
	}
	p.check(path+".algorithm", k.material().Check())
	if uses := c.Partners[k.Partner].uses(k.Partner); uses != nil && !slices.Contains(uses, k.Algorithm) {
		p.add(path+".algorithm", "%s is of no use with partner %s: %s", k.Algorithm, k.Partner, say(uses))
	}
	p.level(path+".min_boundary", k.MinBoundary)
	p.check(path, rotation.ValidatePolicy(k.policy()))
}

// say names what a partner has keys of ours for.
func say(uses []string) string {
	if len(uses) == 0 {
		return "it seals nothing to us, and asks for no signature"
	}
	return "want " + strings.Join(uses, " or ")
}

// keyUse is what a partner has one key for.
type keyUse struct {
	partner string
	signs   bool
}

func (k keyConfig) material() boundary.Material {
	return boundary.Material{Algorithm: k.Algorithm, Bits: k.Bits, Curve: k.Curve}
}

func (k keyConfig) policy() registry.Policy {
	return registry.Policy{Rotate: k.Rotate, ValidFor: *k.ValidFor, DrainFor: *k.DrainFor,
		SettleFor: k.SettleFor, Canary: k.Canary, MinBoundary: k.MinBoundary, First: k.First}
}

func (p *problems) partners(c *config) {
	for _, name := range slices.Sorted(maps.Keys(c.Partners)) {
		p.partner("partners."+name, name, c.Partners[name])
		if ttl := c.Limits.ExchangeTTL; c.Partners[name].Timeout > ttl {
			p.add("partners."+name+".timeout", "longer than limits.exchange_ttl, %s: a reply could come when its exchange is over", ttl)
		}
	}
}

func isLoopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// userID and groupID take a name or a number.
func userID(name string) (int, error) {
	if id, err := strconv.Atoi(name); err == nil && id >= 0 {
		return id, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(u.Uid)
}

func groupID(name string) (int, error) {
	if id, err := strconv.Atoi(name); err == nil && id >= 0 {
		return id, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}
