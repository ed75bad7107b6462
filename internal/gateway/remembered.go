package gateway

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	rememberedThings = prometheus.NewDesc("trailgate_remembered", "Things that the gateway remembers for calls to come, by what they are; each kind has a bound.", []string{"what"}, nil)
	rememberedBytes  = prometheus.NewDesc("trailgate_remembered_bytes", "About what they take, where that is what bounds them.", []string{"what"}, nil)
)

// remembered tells how much a gateway remembers when that is asked for.
type remembered struct{ g *Gateway }

// Describe implements prometheus.Collector.
func (m remembered) Describe(ch chan<- *prometheus.Desc) {
	ch <- rememberedThings
	ch <- rememberedBytes
}

// Collect implements prometheus.Collector.
func (m remembered) Collect(ch chan<- prometheus.Metric) {
	g := m.g
	tell(ch, "job_owners", &g.owners.mu, &g.owners.all)
	tell(ch, "running_jobs", &g.running.mu, &g.running.all)
	tell(ch, "sessions", &g.tallies.mu, &g.tallies.sum)
	tell(ch, "billed_jobs", &g.tallies.mu, &g.tallies.billed)
	tell(ch, "limited_results", &g.reads.mu, &g.reads.all)
	tell(ch, "result_pages", &g.places.mu, &g.places.all)
	tell(ch, "table_schemas", &g.schemas.mu, &g.schemas.all)
}

func tell[V any](ch chan<- prometheus.Metric, what string, mu sync.Locker, r *recent[V]) {
	mu.Lock()
	n, bytes := r.used.Len(), r.bytes
	mu.Unlock()
	ch <- prometheus.MustNewConstMetric(rememberedThings, prometheus.GaugeValue, float64(n), what)
	if r.room > 0 {
		ch <- prometheus.MustNewConstMetric(rememberedBytes, prometheus.GaugeValue, float64(bytes), what)
	}
}
