package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/approval"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/webhook"
)

// actionDeliver tells what became of a notice.
const actionDeliver = "webhook.deliver"

// Notices beside the gateway's own.
const (
	noticeApproved = "approval.approved"
	noticeDenied   = "approval.denied"
)

// newWebhooks makes what tells others of calls that wait; nil where nobody is told.
func (p *parts) newWebhooks() (*webhook.Sender, error) {
	list := p.cfg.Approval.Webhooks
	if len(list) == 0 {
		return nil, nil
	}
	client, err := httpClient("")
	if err != nil {
		return nil, err
	}
	client.Timeout = 0 // the sender has its own
	cfg := webhook.Config{HTTP: client, Log: p.log, Delivered: p.recordDelivery, Gateway: p.cfg.ID}
	for _, w := range list {
		secret, err := webhookSecret(w)
		if err != nil {
			return nil, fmt.Errorf("webhook %s: secret_file: %w", w.Name, err)
		}
		cfg.Endpoints = append(cfg.Endpoints, webhook.Endpoint{Name: w.Name, URL: w.URL, Secret: secret, Format: w.Format, Events: w.Events})
	}
	return webhook.New(cfg)
}

func webhookSecret(w config.Webhook) ([]byte, error) {
	text, err := readSecret(w.SecretFile)
	if err != nil {
		return nil, err
	}
	return webhook.ParseSecret(text)
}

// notify tells of what became of a held call. It does not block.
func (p *parts) notify(ctx context.Context, what string, a approval.Request) {
	if p.webhooks == nil {
		return
	}
	title := map[string]string{
		"approval.held":     "%s asks: may this run?",
		"approval.expired":  "%s's call was not decided in time",
		"approval.released": "%s's call went on",
		noticeApproved:      "%s's call was approved",
		noticeDenied:        "%s's call was denied",
	}[what]
	n := webhook.Notice{
		// The same for the same news, also after a restart: receivers drop what they know.
		ID: a.ID + "." + what, Type: what, Time: time.Now(), Gateway: p.cfg.ID, Subject: a.ID,
		Title: fmt.Sprintf(title, a.Principal.Agent), Statement: a.Statement, StatementCut: a.StatementCut, Link: p.approvalLink(a.ID),
	}
	add := func(name, value string) {
		if value != "" {
			n.Fields = append(n.Fields, webhook.Field{Name: name, Value: value})
		}
	}
	add("agent", a.Principal.Agent)
	add("on behalf of", a.Principal.Human)
	add("connection", a.Connection)
	add("rule", strings.TrimSpace(a.Rule+" "+a.Reason))
	add("writes", strings.Join(a.Tables.Written, " "))
	add("reads", strings.Join(a.Tables.Read, " "))
	if a.Facts.Ran {
		add("would process", bytesText(a.Facts.Bytes))
	}
	for _, v := range a.Votes {
		add(string(v.Verdict), strings.TrimSpace(v.Human+" "+v.Reason))
	}
	if a.State == approval.StatePending {
		add("expires", a.Expires.UTC().Format(time.RFC3339))
		add("decide", "trailgate approval approve "+a.ID)
	}
	p.webhooks.Send(ctx, n)
}

// approvalLink is where a human who signs in can look at it.
func (p *parts) approvalLink(id string) string {
	if p.adminURL == "" {
		return ""
	}
	return strings.TrimSuffix(p.adminURL, "/") + "/approvals/" + id
}

// voted tells of a decision.
func (p *parts) voted(ctx context.Context, a approval.Request) {
	switch a.State {
	case approval.StateApproved:
		p.notify(ctx, noticeApproved, a)
	case approval.StateDenied:
		p.notify(ctx, noticeDenied, a)
	}
}

// remind tells again of what waits: notices that were not sent when the gateway last
// stopped are gone.
func (p *parts) remind(ctx context.Context) {
	if p.webhooks == nil {
		return
	}
	for _, a := range p.approvals.List(approval.Filter{State: approval.StatePending, Limit: approval.DefaultMaxPending}) {
		p.notify(ctx, "approval.held", a)
	}
}

// recordDelivery writes what became of a notice.
func (p *parts) recordDelivery(ctx context.Context, d webhook.Delivery) {
	id, err := ulid.New(ulid.Timestamp(time.Now()), rand.Reader)
	if err != nil {
		p.log.ErrorContext(ctx, "record a notice", "err", err)
		return
	}
	detail := map[string]string{"webhook": d.Endpoint, "type": d.Notice.Type, "attempts": strconv.Itoa(d.Attempts)}
	if d.Status != 0 {
		detail["status"] = strconv.Itoa(d.Status)
	}
	if d.Error != "" {
		detail["error"] = d.Error
		p.log.WarnContext(ctx, "a notice was not delivered", "webhook", d.Endpoint, "type", d.Notice.Type, "approval", d.Notice.Subject, "err", d.Error)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err = p.trail.Append(ctx, &trailgate.Entry{
		ID: strings.ToLower(id.String()), Kind: trailgate.KindGateway, Gateway: p.self,
		Event: &trailgate.Event{Action: actionDeliver, Target: d.Notice.Subject, Detail: detail},
	})
	if err != nil {
		p.log.ErrorContext(ctx, "a notice's delivery is not on record", "err", err)
	}
}
