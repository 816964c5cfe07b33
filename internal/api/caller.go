package api

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/user"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"keyd/internal/audit"
)

// Role is what a caller may be.
type Role string

const (
	// RoleClient seals and opens for a partner.
	RoleClient Role = "client"
	// RoleOperator administers, and reads what an auditor reads.
	RoleOperator Role = "operator"
	// RoleAuditor reads.
	RoleAuditor Role = "auditor"
)

// AnyPartner in a rule stands for every partner.
const AnyPartner = "*"

// Rule gives a role to users and groups. A process is in a group if it is its
// own (the effective gid), or if the group database says so of its user.
type Rule struct {
	Role    Role
	Partner string // of a client: the partner's name, or AnyPartner
	UIDs    []int
	GIDs    []int
}

func (r Rule) check() error {
	switch r.Role {
	case RoleClient:
		if r.Partner == "" {
			return errors.New("api: a rule for clients names no partner")
		}
	case RoleOperator, RoleAuditor:
		if r.Partner != "" {
			return fmt.Errorf("api: a rule for the role %s names the partner %q", r.Role, r.Partner)
		}
	default:
		return fmt.Errorf("api: a rule gives the role %q, which there is not", r.Role)
	}
	return nil
}

// peer is the process at the other end of a unix socket, as the kernel noted it
// when it connected.
type peer struct{ uid, gid, pid int }

type peerKey struct{}

// withPeer asks for the peer's credentials once for each connection. A
// connection without them has no peer and so no role.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return ctx
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return ctx
	}
	var cred *syscall.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || failed != nil {
		return ctx
	}
	return context.WithValue(ctx, peerKey{}, peer{uid: int(cred.Uid), gid: int(cred.Gid), pid: int(cred.Pid)})
}

// remember is how long a user's name and groups are taken as known: a
// connection may live for days, and whoever is taken out of a group must not
// stay in it that long.
const remember = 10 * time.Second

// maxAccounts bounds what is remembered.
const maxAccounts = 1024

// callers knows who has which role.
type callers struct {
	rules []Rule

	mu    sync.Mutex
	known map[int]account // by uid
}

type account struct {
	name   string
	groups []int
	until  time.Time
}

func newCallers(rules []Rule) *callers {
	return &callers{rules: rules, known: map[int]account{}}
}

// identify says who a peer is, as the audit log names it. The role is set when
// one was found for what is asked.
func (c *callers) identify(p peer, ok bool) (audit.Actor, []int) {
	if !ok {
		return audit.Actor{UID: -1, GID: -1, User: "unknown"}, nil
	}
	a := c.account(p.uid)
	return audit.Actor{UID: p.uid, GID: p.gid, PID: p.pid, User: a.name}, a.groups
}

func (c *callers) account(uid int) account {
	at := time.Now()
	c.mu.Lock()
	a, ok := c.known[uid]
	c.mu.Unlock()
	if ok && at.Before(a.until) {
		return a
	}
	a = lookup(uid)
	a.until = at.Add(remember)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxAccounts {
		clear(c.known)
	}
	c.known[uid] = a
	return a
}

// lookup asks the user database. A user that it does not know, as in a
// container, has a number and no groups besides its own.
func lookup(uid int) account {
	number := strconv.Itoa(uid)
	u, err := user.LookupId(number)
	if err != nil {
		return account{name: number}
	}
	a := account{name: u.Username}
	ids, err := u.GroupIds()
	if err != nil {
		return a
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			a.groups = append(a.groups, gid)
		}
	}
	return a
}

// role finds the first of the roles that the caller has for a partner.
func (c *callers) role(actor audit.Actor, groups []int, roles []Role, partner string) (Role, bool) {
	if actor.UID < 0 {
		return "", false
	}
	for _, role := range roles {
		for i := range c.rules {
			rule := &c.rules[i]
			if rule.Role != role || role == RoleClient && rule.Partner != AnyPartner && rule.Partner != partner {
				continue
			}
			if slices.Contains(rule.UIDs, actor.UID) || slices.Contains(rule.GIDs, actor.GID) ||
				slices.ContainsFunc(groups, func(gid int) bool { return slices.Contains(rule.GIDs, gid) }) {
				return role, true
			}
		}
	}
	return "", false
}
