package client

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Status returns the whole picture: backends, keys, partners, problems.
func (c *Client) Status(ctx context.Context) (*Status, error) {
	return get[Status](ctx, c, "/v1/status", nil)
}

// Doctor has every invariant checked.
func (c *Client) Doctor(ctx context.Context) (*Doctor, error) {
	return get[Doctor](ctx, c, "/v1/doctor", nil)
}

// VersionInfo returns which build the daemon is.
func (c *Client) VersionInfo(ctx context.Context) (*VersionInfo, error) {
	return get[VersionInfo](ctx, c, "/v1/version", nil)
}

// Keys returns every key.
func (c *Client) Keys(ctx context.Context) ([]Key, error) {
	return list[Key](ctx, c, "/v1/keys", nil)
}

// Key returns a key with its versions.
func (c *Client) Key(ctx context.Context, name string) (*Key, error) {
	path, err := under("keys", name, "")
	if err != nil {
		return nil, err
	}
	return get[Key](ctx, c, path, nil)
}

// Evidence returns the whole life of a key as one document, which
// `keyd audit verify --bundle` verifies. That it was asked for is in the audit
// log.
func (c *Client) Evidence(ctx context.Context, key string) (json.RawMessage, error) {
	path, err := under("keys", key, "/evidence")
	if err != nil {
		return nil, err
	}
	document, err := get[json.RawMessage](ctx, c, path, nil)
	if err != nil {
		return nil, err
	}
	return *document, nil
}

// Version returns a version with its history.
func (c *Client) Version(ctx context.Context, kid string) (*Version, error) {
	path, err := under("versions", kid, "")
	if err != nil {
		return nil, err
	}
	return get[Version](ctx, c, path, nil)
}

// CreateKey creates a key; its first version follows.
func (c *Client) CreateKey(ctx context.Context, body CreateKey, dryRun bool) (*Change, error) {
	return c.change(ctx, "/v1/keys", body, dryRun)
}

// Rotate starts a rotation of a key.
func (c *Client) Rotate(ctx context.Context, key string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "keys", key, "/rotate", nil, dryRun)
}

// Adopt takes over a key pair that exists in the backend.
func (c *Client) Adopt(ctx context.Context, key string, body Adopt, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "keys", key, "/adopt", body, dryRun)
}

// Confirm says that the partner has a version's public key.
func (c *Client) Confirm(ctx context.Context, kid, reason string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "versions", kid, "/confirm", Reason{reason}, dryRun)
}

// Activate makes a version the active one.
func (c *Client) Activate(ctx context.Context, kid, reason string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "versions", kid, "/activate", Reason{reason}, dryRun)
}

// Compromise closes a version for ever and starts a rotation.
func (c *Client) Compromise(ctx context.Context, kid, reason string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "versions", kid, "/compromise", Reason{reason}, dryRun)
}

// Destroy has a version's private key deleted from its backend.
func (c *Client) Destroy(ctx context.Context, kid, reason string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "versions", kid, "/destroy", Reason{reason}, dryRun)
}

// Rescue calls off the deletion of a version's private key while its backend
// waits with it.
func (c *Client) Rescue(ctx context.Context, kid, reason string, dryRun bool) (*Change, error) {
	return c.changeOf(ctx, "versions", kid, "/rescue", Reason{reason}, dryRun)
}

// Partners returns every partner.
func (c *Client) Partners(ctx context.Context) ([]Partner, error) {
	return list[Partner](ctx, c, "/v1/partners", nil)
}

// RefreshPartner fetches a partner's public key afresh. A dry run stores
// nothing.
func (c *Client) RefreshPartner(ctx context.Context, partner string, dryRun bool) (*PartnerKey, error) {
	path, err := under("partners", partner, "/refresh")
	if err != nil {
		return nil, err
	}
	q := call{method: http.MethodPost, path: path}
	if dryRun {
		q.query = url.Values{"dry_run": {"true"}}
	}
	return ask[PartnerKey](ctx, c, q)
}

// Orphans returns the private keys that stand in a backend and that no version
// has.
func (c *Client) Orphans(ctx context.Context, backend string) ([]Orphan, error) {
	path, err := under("backends", backend, "/orphans")
	if err != nil {
		return nil, err
	}
	return list[Orphan](ctx, c, path, nil)
}

// DestroyOrphans destroys those that it names.
func (c *Client) DestroyOrphans(ctx context.Context, backend string, body DestroyOrphans, dryRun bool) (*DestroyedOrphans, error) {
	path, err := under("backends", backend, "/orphans/destroy")
	if err != nil {
		return nil, err
	}
	return post[DestroyedOrphans](ctx, c, path, body, dryRun)
}

// AuditTail returns the last n entries of the audit log, as they stand in it.
func (c *Client) AuditTail(ctx context.Context, n int) ([]json.RawMessage, error) {
	return list[json.RawMessage](ctx, c, "/v1/audit", url.Values{"tail": {strconv.Itoa(n)}})
}

// AuditAfter returns up to limit entries after the one numbered seq, as they
// stand in the audit log.
func (c *Client) AuditAfter(ctx context.Context, seq uint64, limit int) ([]json.RawMessage, error) {
	return list[json.RawMessage](ctx, c, "/v1/audit",
		url.Values{"after": {strconv.FormatUint(seq, 10)}, "limit": {strconv.Itoa(limit)}})
}

// AuditReport is the answer of GET /v1/audit/verify.
type AuditReport struct {
	OK     bool   `json:"ok"`
	Broken string `json:"broken,omitempty"` // where and how, if not ok
	Report struct {
		Entries    uint64    `json:"entries"`
		Bytes      int64     `json:"bytes"`
		First      time.Time `json:"first,omitzero"`
		Last       time.Time `json:"last,omitzero"`
		Head       Head      `json:"head"`
		Remembered *Head     `json:"remembered,omitempty"` // the head that the log was held against
	} `json:"report"`
}

// AuditVerify has the daemon verify its audit log. `keyd audit verify` does it
// without trusting the daemon.
func (c *Client) AuditVerify(ctx context.Context) (*AuditReport, error) {
	return get[AuditReport](ctx, c, "/v1/audit/verify", nil)
}

// Backup writes a snapshot of the registry to w and returns its SHA-256 in hex.
// After an error w holds part of a snapshot or a damaged one.
func (c *Client) Backup(ctx context.Context, w io.Writer) (sum string, err error) {
	resp, err := c.do(ctx, call{method: http.MethodGet, path: "/v1/backup", accept: typeOctets})
	if err != nil {
		return "", err
	}
	defer discard(resp)
	hash := sha256.New()
	if _, err := io.Copy(io.MultiWriter(w, hash), resp.Body); err != nil {
		return "", fmt.Errorf("copying the backup: %w", err)
	}
	// After the body: the daemon knows the sum only then.
	want := resp.Trailer.Get("Keyd-Sha256")
	if want == "" {
		want = resp.Header.Get("Keyd-Sha256")
	}
	got := hex.EncodeToString(hash.Sum(nil))
	switch want {
	case got:
		return got, nil
	case "":
		return "", fmt.Errorf("%w: it came without its checksum", ErrIncomplete)
	default:
		return "", fmt.Errorf("%w: its SHA-256 is %s, the daemon sent %s", ErrIncomplete, got, want)
	}
}

// list asks for an array.
func list[T any](ctx context.Context, c *Client, path string, query url.Values) ([]T, error) {
	all, err := get[[]T](ctx, c, path, query)
	if err != nil {
		return nil, err
	}
	return *all, nil
}

// changeOf asks for an operation on something named by the caller.
func (c *Client) changeOf(ctx context.Context, collection, name, operation string, body any, dryRun bool) (*Change, error) {
	path, err := under(collection, name, operation)
	if err != nil {
		return nil, err
	}
	return c.change(ctx, path, body, dryRun)
}
