package policy_test

import (
	"context"
	"fmt"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/trailgate/trailgate/internal/policy"
)

func TestBusinessHours(t *testing.T) {
	for _, tt := range []struct {
		args, now string
		want      bool
	}{
		{`"UTC", "Mon-Fri", "09:00-17:00"`, "2026-11-23T09:00:00Z", true}, // a Monday
		{`"UTC", "Mon-Fri", "09:00-17:00"`, "2026-11-23T08:59:59Z", false},
		{`"UTC", "Mon-Fri", "09:00-17:00"`, "2026-11-23T16:59:59Z", true},
		{`"UTC", "Mon-Fri", "09:00-17:00"`, "2026-11-23T17:00:00Z", false},
		{`"UTC", "Mon-Fri", "09:00-17:00"`, "2026-11-22T12:00:00Z", false},          // Sunday
		{`"Europe/Berlin", "Mon-Fri", "09:00-17:00"`, "2026-11-23T08:00:00Z", true}, // UTC+1
		{`"Europe/Berlin", "Mon-Fri", "09:00-17:00"`, "2026-07-20T07:00:00Z", true}, // UTC+2
		{`"Europe/Berlin", "Mon-Fri", "09:00-17:00"`, "2026-07-20T15:00:00Z", false},
		{`"America/New_York", "Mon", "00:00-24:00"`, "2026-11-23T04:59:00Z", false}, // still Sunday there
		{`"America/New_York", "Mon", "00:00-24:00"`, "2026-11-23T05:00:00Z", true},
		{`"UTC", "Fri-Mon", "00:00-24:00"`, "2026-11-22T12:00:00Z", true},
		{`"UTC", "Fri-Mon", "00:00-24:00"`, "2026-11-24T12:00:00Z", false},
		{`"UTC", "Mon,Wed", "00:00-24:00"`, "2026-11-25T12:00:00Z", true},
		{`"UTC", "Mon", "22:00-06:00"`, "2026-11-23T23:00:00Z", true},
		{`"UTC", "Mon", "22:00-06:00"`, "2026-11-24T05:59:00Z", true}, // Monday's night
		{`"UTC", "Mon", "22:00-06:00"`, "2026-11-24T06:00:00Z", false},
		{`"UTC", "Mon", "22:00-06:00"`, "2026-11-23T05:00:00Z", false}, // Sunday's
	} {
		now, err := time.Parse(time.RFC3339, tt.now)
		if err != nil {
			t.Fatal(err)
		}
		d, _ := rules(t, "r allow: business_hours(now, "+tt.args+")").Evaluate(context.Background(), &policy.Input{Now: now})
		if got := d.Effect == policy.Allow; got != tt.want || d.Failed {
			t.Errorf("%s at %s: %v (%s)", tt.args, tt.now, got, d.Reason)
		}
	}
}

// TestHoursComplement: a span and the one that begins where it ends share the
// week between them, in every zone and through every change of its clocks.
func TestHoursComplement(t *testing.T) {
	zones := []string{"UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Pacific/Apia"}
	rapid.Check(t, func(t *rapid.T) {
		zone := rapid.SampledFrom(zones).Draw(t, "zone")
		a := rapid.IntRange(0, 24*60-1).Draw(t, "start")
		b := rapid.IntRange(0, 24*60-1).Filter(func(b int) bool { return b != a }).Draw(t, "end")
		now := time.Unix(rapid.Int64Range(1.7e9, 1.9e9).Draw(t, "now"), 0)
		span := func(a, b int) string { return fmt.Sprintf("%02d:%02d-%02d:%02d", a/60, a%60, b/60, b%60) }
		if a == 0 || b == 0 {
			return
		}
		text := rulesYAML(fmt.Sprintf(`both allow: business_hours(now, %q, "Mon-Sun", %q) != business_hours(now, %q, "Mon-Sun", %q)`, zone, span(a, b), zone, span(b, a)))
		s, err := policy.Load([]policy.File{{Name: "p", Data: []byte(text)}})
		if err != nil {
			t.Fatal(err)
		}
		if d, _ := s.Evaluate(context.Background(), &policy.Input{Now: now}); d.Effect != policy.Allow {
			t.Errorf("%s %s at %v: %+v", zone, span(a, b), now, d)
		}
	})
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "1000": 1000, "10MB": 1e7, "2TB": 2e12, "2 TB": 2e12, "1.5TB": 15e11, "1KiB": 1024, "1.5KiB": 1536, "1GiB": 1 << 30, "8PB": 8e15,
		"9223372036854775807": math.MaxInt64, "0.000001MB": 1, "1B": 1,
		"": -1, "TB": -1, "-1": -1, "1e3": -1, "1.TB": -1, ".5TB": -1, "1tb": -1, "1T": -1, "9224PB": -1, "1.2.3": -1, "١": -1, "0x10": -1, "1_000": -1, "+1": -1,
		"9223372036854775808": -1,
	} {
		got, err := policy.ParseSize(text)
		if (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v; want %d", text, got, err, want)
		}
	}
	for n, want := range map[int64]string{
		0: "0 B", 999: "999 B", 1000: "1.00 kB", 5_000_000_000_000: "5.00 TB", 12_345_678: "12.3 MB", 123_456_789: "123 MB", math.MaxInt64: "9223 PB",
	} {
		if got := policy.FormatBytes(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
	// Sizes in conditions.
	for when, want := range map[string]string{
		"2.TB == 2000000000000": "allow", "1.5.GB == 1500000000": "allow", "1.KiB == 1024": "allow", "request.bytes < 10.MB": "allow",
		"2 * 1.TB == 2.TB": "allow", "[1.kB].exists(x, x == 1000)": "allow",
	} {
		if d, _ := rules(t, "r allow: "+when).Evaluate(context.Background(), &policy.Input{}); d.Effect != want {
			t.Errorf("%s: %+v", when, d)
		}
	}
}
