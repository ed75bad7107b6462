package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// The gateway's own life is in the trail too, as entries of kind "gateway".
const (
	actionStart  = "serve.start"
	actionStop   = "serve.stop"
	actionReload = "serve.reload"
)

// How the gateway that ran before ended, as the start entry tells it.
const (
	previousNone    = "none"    // this is the first start
	previousClean   = "clean"   // its stop entry is in the trail
	previousUnclean = "unclean" // it was killed, or crashed; what it left open gets settled
	previousUnknown = "unknown" // too many entries ago to look
)

// lookBack bounds how many entries previousStop reads. Between a stop and the
// next start there are only the entries of local commands.
const lookBack = 20_000

// previousStop finds the newest start or stop in the trail.
func previousStop(ctx context.Context, t *trail.Trail) (string, error) {
	size := t.Size()
	for n := uint64(0); n < lookBack; n++ {
		if n == size {
			return previousNone, nil
		}
		raw, err := t.Get(ctx, size-1-n)
		if err != nil {
			return "", fmt.Errorf("look for the previous stop: %w", err)
		}
		var e struct {
			Kind  trailgate.Kind `json:"kind"`
			Event struct {
				Action string `json:"action"`
			} `json:"event"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return "", fmt.Errorf("look for the previous stop: entry %d: %w", size-1-n, err)
		}
		if e.Kind != trailgate.KindGateway {
			continue
		}
		switch e.Event.Action {
		case actionStop:
			return previousClean, nil
		case actionStart:
			return previousUnclean, nil
		}
	}
	return previousUnknown, nil
}

// appendTimeout bounds how long an entry about the gateway itself may take.
const appendTimeout = 30 * time.Second

// gatewayEntry commits an entry about the gateway itself.
func (p *parts) gatewayEntry(ctx context.Context, action string, detail map[string]string) (*trailgate.Entry, error) {
	e := &trailgate.Entry{
		ID:      strings.ToLower(ulid.MustNew(ulid.Timestamp(p.now()), rand.Reader).String()),
		Kind:    trailgate.KindGateway,
		Gateway: p.self,
		Event:   &trailgate.Event{Action: action, Target: p.self.ID, Detail: detail},
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), appendTimeout)
	defer cancel()
	if err := p.trail.Append(ctx, e); err != nil {
		return nil, fmt.Errorf("record %s: %w", action, err)
	}
	return e, nil
}
