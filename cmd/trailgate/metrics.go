package main

import (
	"regexp"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/trail"
)

// newRegistry makes the registry of one process. The data path registers what
// it counts itself.
func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(
		// What of the heap is alive tells a leak from garbage that waits for its collection.
		collectors.NewGoCollector(collectors.WithGoCollectorRuntimeMetrics(
			collectors.GoRuntimeMetricsRule{Matcher: regexp.MustCompile(`^/gc/heap/live:bytes$`)})),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	)
	return r
}

// trailMetrics tells the trail's and the index's own figures when they are
// asked for.
type trailMetrics struct {
	trail *trail.Trail
	index *index.Index
}

// figure is one metric that is read from a snapshot.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(trail.Stats) float64
}

func newFigure(name, help string, kind prometheus.ValueType, read func(trail.Stats) float64) figure {
	return figure{prometheus.NewDesc("trailgate_trail_"+name, help, nil, nil), kind, read}
}

var trailFigures = []figure{
	newFigure("entries", "Durable entries.", prometheus.GaugeValue, func(s trail.Stats) float64 { return float64(s.Size) }),
	newFigure("integrated_entries", "Entries in the tiled log.", prometheus.GaugeValue, func(s trail.Stats) float64 { return float64(s.Integrated) }),
	newFigure("published_entries", "Entries under the newest checkpoint.", prometheus.GaugeValue, func(s trail.Stats) float64 { return float64(s.Published) }),
	newFigure("journal_bytes", "What the journal holds beyond the newest checkpoint.", prometheus.GaugeValue, func(s trail.Stats) float64 { return float64(s.JournalBytes) }),
	newFigure("free_bytes", "Free space on the trail's disk.", prometheus.GaugeValue, func(s trail.Stats) float64 { return float64(s.FreeBytes) }),
	newFigure("commits_total", "Journal commits since the start; each makes one or more entries durable.", prometheus.CounterValue, func(s trail.Stats) float64 { return float64(s.Commits) }),
	newFigure("refused_total", "Entries refused since the start, and with them the calls they stood for.", prometheus.CounterValue, func(s trail.Stats) float64 { return float64(s.Refused) }),
	newFigure("failures_total", "Journal writes that failed since the start.", prometheus.CounterValue, func(s trail.Stats) float64 { return float64(s.Failures) }),
	newFigure("sync_seconds_total", "Time spent in journal writes and fdatasync since the start.", prometheus.CounterValue, func(s trail.Stats) float64 { return s.SyncTime.Seconds() }),
}

var (
	trailReady  = prometheus.NewDesc("trailgate_trail_ready", "1 where entries are accepted, else 0.", nil, nil)
	indexCursor = prometheus.NewDesc("trailgate_index_entries", "Entries that the search index holds.", nil, nil)
)

// Describe implements prometheus.Collector.
func (m *trailMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range trailFigures {
		ch <- f.desc
	}
	ch <- trailReady
	ch <- indexCursor
}

// Collect implements prometheus.Collector.
func (m *trailMetrics) Collect(ch chan<- prometheus.Metric) {
	stats := m.trail.Stats()
	for _, f := range trailFigures {
		ch <- prometheus.MustNewConstMetric(f.desc, f.kind, f.read(stats))
	}
	ready := 0.0
	if m.trail.Ready() == nil {
		ready = 1
	}
	ch <- prometheus.MustNewConstMetric(trailReady, prometheus.GaugeValue, ready)
	ch <- prometheus.MustNewConstMetric(indexCursor, prometheus.GaugeValue, float64(m.index.Cursor()))
}
