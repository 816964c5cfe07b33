package main

import (
	"context"
	"fmt"

	"keyd/internal/api"
	"keyd/internal/audit"
)

// playground is a partner that answers with an envelope for us when asked.
type playground interface {
	Playground(ctx context.Context, kid string) (compact []byte, err error)
}

// canary asks a partner's playground for an answer sealed to us and opens it the
// way any answer is opened.
type canary struct {
	partner string
	remote  playground
	opener  *api.Opener
}

// Probe returns the kid that the playground's answer named.
func (c canary) Probe(ctx context.Context, kid string) (string, error) {
	compact, err := c.remote.Playground(ctx, kid)
	if err != nil {
		return "", err
	}
	opened, err := c.opener.Open(ctx, audit.System, c.partner, compact)
	if err != nil {
		return "", fmt.Errorf("opening the playground's answer: %w", err)
	}
	clear(opened.Plaintext)
	return opened.KID, nil
}
