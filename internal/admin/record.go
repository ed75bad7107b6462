package admin

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/trail"
)

// What admin entries tell, their event.action.
const (
	actionSearch  = "trail.search"
	actionFollow  = "trail.follow"
	actionShow    = "trail.show"
	actionProve   = "trail.prove"
	actionStats   = "trail.stats"
	actionBlob    = "trail.blob"
	actionLog     = "trail.log"
	actionRebuild = "index.rebuild"

	actionAgents      = "agent.list"
	actionAgentAdd    = "agent.add"
	actionAgentRevoke = "agent.revoke"
	actionTokens      = "token.list"
	actionTokenIssue  = "token.issue"
	actionTokenRevoke = "token.revoke"
	actionTokenRotate = "token.rotate"

	actionSessionRevoke = "session.revoke"
	actionCheck         = "connection.check"
)

// reading are the actions that change nothing.
var reading = []string{
	actionSearch, actionFollow, actionShow, actionProve, actionStats, actionBlob, actionLog, actionAgents, actionTokens,
}

// Bounds on texts of callers in an entry, bytes. All together stay below
// trailgate.MaxEntryBytes however JSON escapes them.
const (
	maxTarget    = 256
	maxUserAgent = 256
	maxDetail    = 8 << 10 // all values of a detail together
)

// record makes durable who asks for what, before it is given or done. Its error
// says that it must not be.
func (a *API) record(r *request, action, target string, detail map[string]string) (id string, err error) {
	e, err := a.recordEntry(r, action, target, detail)
	if err != nil {
		return "", err
	}
	return e.ID, nil
}

// recordEntry is record, and returns the whole entry.
func (a *API) recordEntry(r *request, action, target string, detail map[string]string) (*trailgate.Entry, error) {
	e := &trailgate.Entry{
		Kind:   trailgate.KindAdmin,
		Client: r.who.client,
		Event:  &trailgate.Event{Action: action, Target: clip(target, maxTarget), Actor: r.who.actor, Via: r.who.via},
	}
	if agent := r.Header.Get("User-Agent"); agent != "" {
		e.Claims = &trailgate.Claims{UserAgent: clip(agent, maxUserAgent)}
	}
	left := maxDetail
	for _, name := range sortedKeys(detail) {
		value := clip(detail[name], left)
		if value == "" {
			continue
		}
		if e.Event.Detail == nil {
			e.Event.Detail = map[string]string{}
		}
		e.Event.Detail[name] = value
		left = max(left-len(value), 0)
	}
	err := a.append(r.Context(), e)
	if errors.Is(err, trail.ErrFrozen) && slices.Contains(reading, action) {
		// Nothing more is recorded in a log that was ended, and it is there to be read by
		// whoever may read its files.
		return &trailgate.Entry{}, nil
	}
	if err != nil {
		return nil, &Error{
			Code:    http.StatusServiceUnavailable,
			Message: fmt.Sprintf("nothing was done: it could not be recorded first: %v", err),
			cause:   fmt.Errorf("record %s: %w", action, err),
		}
	}
	return e, nil
}

// change records what is about to be changed, has it done, and where that
// fails records so.
func (a *API) change(r *request, action, target string, detail map[string]string, effect func() error) error {
	id, err := a.record(r, action, target, detail)
	if err != nil {
		return err
	}
	// Durable now: that somebody wants the change. A crash here leaves an entry
	// whose change did not take place, or took place just before.
	if err := effect(); err != nil {
		if _, rerr := a.record(r, action, target, map[string]string{"failed": err.Error(), "attempt": id}); rerr != nil {
			a.cfg.Log.ErrorContext(r.Context(), "the trail has a change that failed, and not that it did", "action", action, "entry", id, "err", rerr)
		}
		return err
	}
	return nil
}

// append commits an entry whatever becomes of the caller's connection: what
// was begun under its name must not go unrecorded because it hung up.
func (a *API) append(ctx context.Context, e *trailgate.Entry) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), a.cfg.CommitTimeout)
	defer cancel()
	id, err := ulid.New(ulid.Timestamp(a.cfg.Now()), rand.Reader)
	if err != nil {
		return fmt.Errorf("make an id: %w", err)
	}
	e.ID = strings.ToLower(id.String())
	e.Gateway = a.cfg.Gateway
	return a.cfg.Trail.Append(ctx, e)
}

// clip makes s valid UTF-8 of at most n bytes, and shows where it cut.
func clip(s string, n int) string {
	const mark = "…"
	s = strings.ToValidUTF8(s, "�")
	switch {
	case len(s) <= n:
		return s
	case n < len(mark):
		return ""
	}
	return strings.ToValidUTF8(s[:n-len(mark)], "") + mark
}
