package trail_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"k8s.io/klog/v2"

	"github.com/trailgate/trailgate/internal/trail"
)

// TestRedirectTesseraLogs: what Tessera says goes to the logger that was named last,
// and naming one is no race with what goroutines of earlier trails still say. (The
// demo opens a gateway for its history and then one for good.)
func TestRedirectTesseraLogs(t *testing.T) {
	t.Cleanup(func() { trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler)) })
	var one, two bytes.Buffer
	trail.RedirectTesseraLogs(slog.New(slog.NewTextHandler(&one, nil)))
	klog.Info("the first")
	trail.RedirectTesseraLogs(slog.New(slog.NewTextHandler(&two, nil)))
	klog.Info("the second")
	if got := one.String(); !strings.Contains(got, "the first") || strings.Contains(got, "the second") {
		t.Errorf("the first logger has %q", got)
	}
	if got := two.String(); !strings.Contains(got, "the second") || strings.Contains(got, "the first") {
		t.Errorf("the second logger has %q", got)
	}

	trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler))
	var talkers sync.WaitGroup
	for range 4 {
		talkers.Go(func() {
			for range 100 {
				klog.V(1).Infof("done with %s", "an appender")
				klog.Warning("still here")
			}
		})
	}
	for range 100 {
		trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler))
	}
	talkers.Wait()
}
