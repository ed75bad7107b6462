package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // a static binary on a machine without zone files knows them too

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

var (
	errHoursFixed = errors.New(`business_hours wants zone, days and hours written out, as in business_hours(now, "Europe/Berlin", "Mon-Fri", "09:00-17:00")`)
	errDays       = errors.New(`want days such as "Mon-Fri" or "Mon,Wed,Sat-Sun"`)
	errHours      = errors.New(`want hours such as "09:00-17:00"; "22:00-06:00" goes past midnight and belongs to the day on which it begins`)
)

// hours are times of the week in a zone.
type hours struct {
	zone       *time.Location
	days       [7]bool // by time.Weekday
	start, end int     // minutes of the day; end <= start goes past midnight
}

func parseHours(zone, days, span string) (hours, error) {
	if zone == "" || zone == "Local" || len(zone) > 64 {
		return hours{}, fmt.Errorf("%q: want a time zone such as %q or %q", clip(zone, 64), "UTC", "Europe/Berlin")
	}
	loc, err := time.LoadLocation(zone)
	if err != nil {
		return hours{}, fmt.Errorf("%q is no known time zone; want one such as %q", zone, "Europe/Berlin")
	}
	h := hours{zone: loc}
	for part := range strings.SplitSeq(days, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		from, ok1 := weekday(first)
		to, ok2 := weekday(last)
		if !ok1 || !ok2 {
			return hours{}, fmt.Errorf("%q: %w", clip(days, 64), errDays)
		}
		for d := from; ; d = (d + 1) % 7 {
			h.days[d] = true
			if d == to {
				break
			}
		}
	}
	start, end, ok := strings.Cut(span, "-")
	if ok {
		h.start, ok = minutes(start)
	}
	if ok {
		h.end, ok = minutes(end)
	}
	if !ok || h.start == 24*60 || h.start == h.end {
		return hours{}, fmt.Errorf("%q: %w", clip(span, 64), errHours)
	}
	return h, nil
}

func weekday(s string) (int, bool) {
	for d := range 7 {
		if time.Weekday(d).String()[:3] == s {
			return d, true
		}
	}
	return 0, false
}

// minutes reads "HH:MM", up to "24:00".
func minutes(s string) (int, bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	h, err1 := strconv.ParseUint(s[:2], 10, 8)
	m, err2 := strconv.ParseUint(s[3:], 10, 8)
	if err1 != nil || err2 != nil || h > 24 || m > 59 || h == 24 && m > 0 {
		return 0, false
	}
	return int(h)*60 + int(m), true
}

// contains: the first minute counts, the last does not. The wall clock of the zone
// decides, so an hour that summer time skips or repeats is skipped or repeated.
func (h hours) contains(t time.Time) bool {
	t = t.In(h.zone)
	minute, day := t.Hour()*60+t.Minute(), int(t.Weekday())
	if h.start < h.end {
		return h.days[day] && h.start <= minute && minute < h.end
	}
	return h.days[day] && minute >= h.start || h.days[(day+6)%7] && minute < h.end
}

func (h hours) holds(v ref.Val) ref.Val {
	t, ok := v.(types.Timestamp)
	if !ok {
		return types.MaybeNoSuchOverloadErr(v)
	}
	return types.Bool(h.contains(t.Time))
}
