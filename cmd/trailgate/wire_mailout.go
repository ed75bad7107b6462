package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/mailout"
	"github.com/trailgate/trailgate/internal/webhook"
)

// Entries about checkpoints that are sent away: when a place begins to fail, and
// when it takes them again.
const (
	actionSendFailed    = "checkpoint.send_failed"
	actionSendRecovered = "checkpoint.send_recovered"
)

// sentName, in the data directory, remembers which checkpoints were sent where.
const sentName = "checkpoints-sent.json"

// newMailout makes what sends checkpoints away; nil where they go nowhere.
func (p *parts) newMailout() (*mailout.Sender, error) {
	c := p.cfg.Trail.Checkpoints
	if len(c.SendTo) == 0 {
		return nil, nil
	}
	cfg := mailout.Config{
		Every: c.Every, State: filepath.Join(p.cfg.DataDir.String(), sentName),
		Newest: p.trail.Checkpoint, Changed: p.recordSending, Log: p.log,
	}
	for _, to := range c.SendTo {
		place := mailout.Place{Name: to.Name}
		client, err := httpClient(to.CAFile)
		if err != nil {
			return nil, fmt.Errorf("trail.checkpoints.send_to %s: ca_file: %w", to.Name, err)
		}
		switch {
		case to.File != "":
			place.Send = mailout.File(to.File.String())
		case to.Put != "":
			place.Send = mailout.Put(client, to.Put, to.HeadersFile.String())
		default:
			secret, err := webhookSecret(config.Webhook{SecretFile: to.SecretFile})
			if err != nil {
				return nil, fmt.Errorf("trail.checkpoints.send_to %s: secret_file: %w", to.Name, err)
			}
			place.Send = mailout.Webhook(client, to.Webhook, p.cfg.ID, time.Now, func(id string, at time.Time, body []byte) string {
				return webhook.Sign(secret, id, at, body)
			})
		}
		cfg.Places = append(cfg.Places, place)
	}
	return mailout.New(cfg)
}

// recordSending writes that a place began to fail, or that it takes checkpoints again.
func (p *parts) recordSending(ctx context.Context, place string, cp *trailgate.Checkpoint, cause error) {
	action, detail := actionSendRecovered, map[string]string{"place": place, "size": fmt.Sprint(cp.Size)}
	if cause != nil {
		action, detail["error"] = actionSendFailed, cause.Error()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if _, err := p.gatewayEntry(ctx, action, detail); err != nil {
		p.log.ErrorContext(ctx, "what became of a checkpoint that was sent is not on record", "place", place, "err", err)
	}
}

// mailoutMetrics tells how sending goes when that is asked for.
type mailoutMetrics struct{ sender *mailout.Sender }

var (
	sentSize     = prometheus.NewDesc("trailgate_checkpoint_sent_entries", "Entries under the checkpoint that the place got last.", []string{"place"}, nil)
	sentTime     = prometheus.NewDesc("trailgate_checkpoint_sent_timestamp_seconds", "When that was. Absent where it got none.", []string{"place"}, nil)
	sendFailures = prometheus.NewDesc("trailgate_checkpoint_send_failures_total", "Tries to send a checkpoint that failed since the start.", []string{"place"}, nil)
	sendFailing  = prometheus.NewDesc("trailgate_checkpoint_send_failing", "1 where the last try failed, else 0.", []string{"place"}, nil)
)

// Describe implements prometheus.Collector.
func (m mailoutMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sentSize, sentTime, sendFailures, sendFailing} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m mailoutMetrics) Collect(ch chan<- prometheus.Metric) {
	for _, s := range m.sender.Status() {
		failing := 0.0
		if s.Error != "" {
			failing = 1
		}
		ch <- prometheus.MustNewConstMetric(sentSize, prometheus.GaugeValue, float64(s.Size), s.Place)
		if !s.At.IsZero() {
			ch <- prometheus.MustNewConstMetric(sentTime, prometheus.GaugeValue, float64(s.At.Unix()), s.Place)
		}
		ch <- prometheus.MustNewConstMetric(sendFailures, prometheus.CounterValue, float64(s.Failures), s.Place)
		ch <- prometheus.MustNewConstMetric(sendFailing, prometheus.GaugeValue, failing, s.Place)
	}
}
