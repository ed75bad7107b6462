package config_test

import (
	"strings"
	"testing"

	"github.com/trailgate/trailgate/internal/config"
)

// TestWitnesses: what the trail section may say of witnesses and of places for checkpoints.
func TestWitnesses(t *testing.T) {
	c, err := config.Parse("/etc/trailgate/t.yaml", []byte(`
trail:
  witnesses: {policy_file: w.policy, require: true}
  checkpoints:
    send_to:
    - {name: a, file: /mnt/a}
    - {name: b, webhook: "https://h.example/x", secret_file: s}
    - {name: c, put: "http://127.0.0.1:9/x-{size}?sig=1", headers_file: h}
`))
	if err != nil {
		t.Fatal(err)
	}
	if w := c.Trail.Witnesses; !w.On() || w.PolicyFile != "/etc/trailgate/w.policy" || !w.Require || w.MaxAge == 0 || w.Timeout == 0 {
		t.Errorf("%+v", w)
	}
	if s := c.Trail.Checkpoints; s.Every == 0 || len(s.SendTo) != 3 || s.SendTo[1].SecretFile != "/etc/trailgate/s" || s.SendTo[2].HeadersFile != "/etc/trailgate/h" {
		t.Errorf("%+v", s)
	}
	for _, tt := range []struct{ yaml, says string }{
		{"witnesses: {require: true}", "set policy_file too"},
		{"witnesses: {policy_file: w, require: true, max_age: 15s, timeout: 10s}", "twice the timeout"},
		{"witnesses: {timeout: 1ms}", "want 100ms"},
		{"checkpoints: {every: 1ms}", "want 1s"},
		{"checkpoints: {send_to: [{name: a}]}", "one of file, webhook and put"},
		{"checkpoints: {send_to: [{name: a, file: f, put: 'https://x'}]}", "one of file, webhook and put"},
		{"checkpoints: {send_to: [{name: A, file: f}]}", "lower-case"},
		{"checkpoints: {send_to: [{name: a, file: f}, {name: a, file: g}]}", "there already"},
		{"checkpoints: {send_to: [{name: a, file: f/}]}", "not a directory"},
		{"checkpoints: {send_to: [{name: a, webhook: 'https://h/x'}]}", "secret_file"},
		{"checkpoints: {send_to: [{name: a, file: f, secret_file: s}]}", "secret_file"},
		{"checkpoints: {send_to: [{name: a, file: f, headers_file: s}]}", "headers_file"},
		{"checkpoints: {send_to: [{name: a, put: 'http://h.example/x'}]}", "want https"},
		{"checkpoints: {send_to: [{name: a, put: 'https://u:hunter2@h.example/x'}]}", "without a password"},
		{"checkpoints: {send_to: [" + strings.Repeat("{name: a, file: f}, ", 21) + "]}", "at most 20"},
	} {
		_, err := config.Parse("t.yaml", []byte("trail: {"+tt.yaml+"}\n"))
		if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want something about %q", tt.yaml, err, tt.says)
		}
	}
}
