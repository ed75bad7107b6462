package gateway

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/policy"
)

// metrics are the gateway's own figures. Labels come from closed sets: method
// ids, classes, status codes; never from what an agent sends.
type metrics struct {
	calls     *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	inFlight  prometheus.Gauge
	duration  *prometheus.HistogramVec
	commits   *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	bytes     prometheus.Counter
	unsettled prometheus.Gauge
	exchanges *prometheus.CounterVec
	// credentials counts calls for which no Google token could be had.
	credentials *prometheus.CounterVec

	decisions     *prometheus.CounterVec
	evaluation    prometheus.Histogram
	disagreements *prometheus.CounterVec
	recordings    *prometheus.CounterVec
	held          prometheus.Counter
	overBudget    *prometheus.CounterVec
	receipts      *prometheus.CounterVec
	lost          prometheus.Gauge
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_calls_total", Help: "Calls that went upstream, by method, class and HTTP status given to the agent.",
		}, []string{"method", "class", "status"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_refusals_total", Help: "Calls that went nowhere, by reason.",
		}, []string{"reason"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "trailgate_calls_in_flight", Help: "Calls being served."}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "trailgate_call_seconds", Help: "From arrival to the outcome's commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 3, 12),
		}, []string{"class"}),
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "trailgate_commit_seconds", Help: "Until an entry is durable, by kind.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 2.5, 12),
		}, []string{"kind"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_commit_failures_total", Help: "Entries that could not be made durable; each refused its call.",
		}, []string{"kind"}),
		bytes:     prometheus.NewCounter(prometheus.CounterOpts{Name: "trailgate_response_bytes_total", Help: "Body bytes handed to agents."}),
		unsettled: prometheus.NewGauge(prometheus.GaugeOpts{Name: "trailgate_unsettled_intents", Help: "Intents of earlier runs that are still without outcome or settlement."}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_token_exchanges_total", Help: "Token exchanges (RFC 8693), by result: ok, or the OAuth error.",
		}, []string{"result"}),
		credentials: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_credential_failures_total", Help: "Calls for which no Google credential could be had, by connection.",
		}, []string{"connection"}),
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_decisions_total", Help: "What the policy decided, by effect; \"failed\" is a rule that could not be evaluated, and denies.",
		}, []string{"effect"}),
		evaluation: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trailgate_policy_seconds", Help: "Evaluation of the policy for a call, without dry runs.",
			Buckets: prometheus.ExponentialBuckets(0.000005, 3, 10),
		}),
		recordings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_recordings_total", Help: "Answers whose rows were to be kept, by what became of them: kept or failed.",
		}, []string{"result"}),
		disagreements: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_statement_disagreements_total", Help: "Statements that BigQuery reads otherwise than the gateway, by when that was found: dry_run or final.",
		}, []string{"stage"}),
		held: prometheus.NewCounter(prometheus.CounterOpts{Name: "trailgate_held_total", Help: "Questions put to humans."}),
		overBudget: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_budget_events_total", Help: "By budget and event: refused, or warning level reached.",
		}, []string{"budget", "event"}),
		receipts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trailgate_receipt_failures_total", Help: "Connectors' receipts that are not as they should be, by flag.",
		}, []string{"flag"}),
		lost: prometheus.NewGauge(prometheus.GaugeOpts{Name: "trailgate_lost_intents", Help: "Intents of this run whose tunnel was lost and that are to be settled."}),
	}
	if r != nil {
		r.MustRegister(m.receipts, m.lost)
		r.MustRegister(m.decisions, m.evaluation, m.disagreements, m.recordings, m.held, m.overBudget)
		r.MustRegister(m.exchanges, m.credentials, m.calls, m.refusals, m.inFlight, m.duration, m.commits, m.failures, m.bytes, m.unsettled)
	}
	return m
}

func (m *metrics) commit(kind trailgate.Kind, took time.Duration, err error) {
	if err != nil {
		m.failures.WithLabelValues(string(kind)).Inc()
		return
	}
	m.commits.WithLabelValues(string(kind)).Observe(took.Seconds())
}

func (m *metrics) decision(d policy.Decision, took time.Duration) {
	m.evaluation.Observe(took.Seconds())
	effect := d.Effect
	if d.Failed {
		effect = "failed"
	}
	m.decisions.WithLabelValues(effect).Inc()
}

func (m *metrics) outcome(e *trailgate.Entry) {
	m.calls.WithLabelValues(e.Method, string(e.Class), strconv.Itoa(e.Outcome.Status)).Inc()
	m.duration.WithLabelValues(string(e.Class)).Observe(time.Duration(e.Outcome.DurationNanos).Seconds())
	m.bytes.Add(float64(e.Outcome.Bytes))
}
