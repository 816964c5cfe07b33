package kms

import (
	"context"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"keyd/internal/boundary"
)

// evidence is what KMS says of a key. There is no attribute for "the private
// key cannot be read": KMS has no operation that returns one.
func (b *Backend) evidence(key *types.KeyMetadata) boundary.Evidence {
	can := abilityOf(key)
	e := boundary.Evidence{At: time.Now().UTC(), Backend: "kms", Device: b.device(), Mechanism: string(key.KeySpec),
		Level: levels[can.algorithm()], Attributes: can.attributes()}
	maps.Copy(e.Attributes, map[string]string{
		"Arn": deref(key.Arn), "KeySpec": string(key.KeySpec), "KeyState": string(key.KeyState),
		"Origin": string(key.Origin), "KeyManager": string(key.KeyManager),
		"MultiRegion": strconv.FormatBool(aws.ToBool(key.MultiRegion)), "Description": deref(key.Description)})
	if key.CreationDate != nil {
		e.Attributes["CreationDate"] = key.CreationDate.UTC().Format(time.RFC3339)
	}
	if key.CustomKeyStoreId != nil {
		e.Attributes["CustomKeyStoreId"] = *key.CustomKeyStoreId
	}
	problem := func(bad bool, text string) {
		if bad {
			e.Problems = append(e.Problems, text)
		}
	}
	problem(key.Origin == types.OriginTypeExternal, "Origin=EXTERNAL: the private key was made elsewhere and imported")
	problem(key.Origin == types.OriginTypeExternalKeyStore, "Origin=EXTERNAL_KEY_STORE: the private key is not in AWS KMS")
	problem(key.KeyManager == types.KeyManagerTypeAws, "KeyManager=AWS: keyd cannot delete it")
	problem(aws.ToBool(key.MultiRegion) && !b.cfg.MultiRegion, "MultiRegion=true: the private key can be replicated to other Regions")
	return e
}

// fresh is how long KMS counts as well after it answered. A health check that
// asked each time would cost more than the keys.
const fresh = 30 * time.Second

// Health says whether KMS answers.
func (b *Backend) Health(ctx context.Context) boundary.Health {
	h := boundary.Health{Backend: b.cfg.Name, Kind: "kms", Floor: b.cfg.MinBoundary, Levels: maps.Clone(levels), Sessions: cap(b.slots), InUse: len(b.slots)}
	if since := time.Since(time.Unix(0, b.well.Load())); since < 0 || since > fresh {
		out, err := call(ctx, b, listing, "ListAliases", b.client.ListAliases, &kms.ListAliasesInput{Limit: aws.Int32(1)})
		switch {
		case err != nil:
			h.Err = err.Error()
		case len(out.Aliases) > 0:
			b.noteAccount(deref(out.Aliases[0].AliasArn))
		}
	}
	h.Device = b.device()
	return h
}

func (b *Backend) noteAccount(arn string) {
	if parts := strings.Split(arn, ":"); len(parts) > 5 {
		b.account.Store(&parts[4])
	}
}

func (b *Backend) device() map[string]string {
	d := map[string]string{"service": "AWS KMS", "region": b.cfg.Region}
	if b.cfg.Endpoint != "" {
		d["endpoint"] = b.cfg.Endpoint
	}
	if b.cfg.FIPS {
		d["fips"] = "true"
	}
	if account := b.account.Load(); account != nil {
		d["account"] = *account
	}
	return d
}
