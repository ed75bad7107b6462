package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/admin"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail"
	"github.com/trailgate/trailgate/internal/witness"
)

// cosigner has the trail's checkpoints cosigned by the witnesses of a policy.
type cosigner struct{ *witness.Client }

// Cosign is trail.Cosigner's.
func (c cosigner) Cosign(ctx context.Context, cp *trailgate.Checkpoint, known uint64, urgent bool, prove func(old uint64) (tlog.TreeProof, error)) *trail.Cosigned {
	a := c.Client.Cosign(ctx, cp, known, urgent, prove)
	out := &trail.Cosigned{Raw: a.Raw, Cosignatures: a.Cosignatures, Quorum: a.Quorum, Failed: a.Failed, Believed: c.Believed(a.Against)}
	for _, x := range a.Against {
		out.Against = append(out.Against, trail.Contradiction(x))
	}
	return out
}

// readPolicy reads a witness policy.
func readPolicy(path string) (*trailgate.WitnessPolicy, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the witness policy: %w", err)
	}
	p, err := trailgate.ParseWitnessPolicy(raw)
	if err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	return p, nil
}

// readLogKey reads a log's verifier key from a file.
func readLogKey(path string) (note.Verifier, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	v, err := note.NewVerifier(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return v, nil
}

// newWitnessClient makes what asks the configured witnesses; nil where there are none.
func newWitnessClient(cfg *config.Config) (*witness.Client, *trailgate.WitnessPolicy, error) {
	w := cfg.Trail.Witnesses
	if !w.On() {
		return nil, nil, nil
	}
	policy, err := readPolicy(w.PolicyFile.String())
	if err != nil {
		return nil, nil, err
	}
	key, err := readLogKey(filepath.Join(cfg.DataDir.String(), "log.pub"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, nil // what is missing is for the trail to say
	}
	if err != nil {
		return nil, nil, fmt.Errorf("the log's key: %w", err)
	}
	http, err := httpClient(w.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("trail.witnesses.ca_file: %w", err)
	}
	client, err := witness.NewClient(witness.ClientConfig{Policy: policy, Log: key, HTTP: http, Timeout: w.Timeout})
	if err != nil {
		return nil, nil, usagef("%s: %w", w.PolicyFile, err)
	}
	return client, policy, nil
}

// witnessing makes what the trail needs of witnesses.
func (p *parts) witnessing() (trail.Witnessing, error) {
	client, policy, err := newWitnessClient(p.cfg)
	if err != nil || client == nil {
		return trail.Witnessing{}, err
	}
	p.witnesses = client
	p.witnessPolicy = policy
	w := trail.Witnessing{Cosigner: cosigner{client}, Policy: policy}
	if p.cfg.Trail.Witnesses.Require {
		w.MaxAge = p.cfg.Trail.Witnesses.MaxAge
	}
	return w, nil
}

// watchWitnesses ends the gateway when witnesses contradict its log.
func (p *parts) watchWitnesses(ctx context.Context) error {
	return trailError(p.trail.RolledBack(ctx), p.cfg)
}

// witnessInfo is how the witnesses do, for the API; nil where there are none.
func (p *parts) witnessInfo() *admin.Witnesses {
	if p.witnesses == nil {
		return nil
	}
	s := p.trail.Witnessed()
	info := &admin.Witnesses{
		Needed: p.witnessPolicy.Quorum(), Quorum: s.Quorum, Size: s.Size, Require: p.cfg.Trail.Witnesses.Require,
	}
	if !s.At.IsZero() {
		at := s.At.UTC()
		info.At = &at
	}
	cosigned := map[string]trailgate.Cosignature{}
	for _, c := range s.Cosignatures {
		cosigned[c.Witness] = c
	}
	for _, w := range p.witnesses.Status() {
		one := admin.Witness{Name: w.Witness, Key: w.Key, URL: w.URL, Size: w.Size, Error: w.Error, Disputes: w.Disputes}
		if c, ok := cosigned[w.Witness]; ok {
			at := c.Time
			one.Cosigned = &at
		}
		info.Witnesses = append(info.Witnesses, one)
	}
	return info
}

// witnessMetrics tells how the witnesses do when that is asked for.
type witnessMetrics struct{ p *parts }

var (
	witnessQuorum = prometheus.NewDesc("trailgate_witness_quorum", "1 where the last checkpoint that was shown to the witnesses found a quorum, else 0.", nil, nil)
	witnessAge    = prometheus.NewDesc("trailgate_witness_quorum_age_seconds", "How long ago the last quorum was. Absent where none is known.", nil, nil)
	witnessSize   = prometheus.NewDesc("trailgate_witness_quorum_entries", "Entries under the last checkpoint that found a quorum.", nil, nil)
	witnessAsked  = prometheus.NewDesc("trailgate_witness_checkpoints_total", "Checkpoints shown to the witnesses since the start, by whether there was a quorum.", []string{"quorum"}, nil)
	witnessUp     = prometheus.NewDesc("trailgate_witness_up", "1 where the witness cosigned when it was last asked, else 0.", []string{"witness"}, nil)
	witnessLast   = prometheus.NewDesc("trailgate_witness_cosigned_entries", "Entries under the last checkpoint that the witness cosigned.", []string{"witness"}, nil)
)

// Describe implements prometheus.Collector.
func (m witnessMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{witnessQuorum, witnessAge, witnessSize, witnessAsked, witnessUp, witnessLast} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m witnessMetrics) Collect(ch chan<- prometheus.Metric) {
	s := m.p.trail.Witnessed()
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	ch <- prometheus.MustNewConstMetric(witnessQuorum, prometheus.GaugeValue, flag(s.Quorum))
	ch <- prometheus.MustNewConstMetric(witnessSize, prometheus.GaugeValue, float64(s.Size))
	if !s.At.IsZero() {
		ch <- prometheus.MustNewConstMetric(witnessAge, prometheus.GaugeValue, m.p.now().Sub(s.At).Seconds())
	}
	ch <- prometheus.MustNewConstMetric(witnessAsked, prometheus.CounterValue, float64(s.Asked-s.Lost), "yes")
	ch <- prometheus.MustNewConstMetric(witnessAsked, prometheus.CounterValue, float64(s.Lost), "no")
	for _, w := range m.p.witnesses.Status() {
		ch <- prometheus.MustNewConstMetric(witnessUp, prometheus.GaugeValue, flag(w.Error == "" && !w.At.IsZero()), w.Witness)
		ch <- prometheus.MustNewConstMetric(witnessLast, prometheus.GaugeValue, float64(w.Size), w.Witness)
	}
}
