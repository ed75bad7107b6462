package sandbox

import (
	"database/sql/driver"
	"fmt"
	"strings"
	"time"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// units are the date parts of fixed length.
var units = map[string]time.Duration{
	"MICROSECOND": time.Microsecond, "MILLISECOND": time.Millisecond, "SECOND": time.Second, "MINUTE": time.Minute, "HOUR": time.Hour,
	"DAY": 24 * time.Hour, "WEEK": 7 * 24 * time.Hour,
}

// maxSpan is more than the microseconds between the years 1 and 9999.
const maxSpan = 320_000_000_000_000_000

// months are the date parts that count months.
var months = map[string]int64{"MONTH": 1, "QUARTER": 3, "YEAR": 12}

func moment(v driver.Value) (time.Time, error) {
	t, ok := readTime(text(v))
	if !ok {
		return time.Time{}, raise("Invalid timestamp: '%s'", text(v))
	}
	return t, nil
}

// shift makes the _ADD (sign 1) and _SUB (sign -1) functions of a type.
func shift(typ string, sign int64) scalar {
	return scalar{3, true, func(a []driver.Value) (driver.Value, error) {
		t, err := moment(a[0])
		if err != nil {
			return nil, err
		}
		n, part := sign*whole(a[1]), text(a[2])
		overflow := raise("Adding %d %s to %s overflows", n, part, text(a[0]))
		if u, ok := units[part]; ok {
			if abs := max(n, -n); abs < 0 || abs > maxSpan/u.Microseconds() {
				return nil, overflow
			}
			t = time.UnixMicro(t.UnixMicro() + n*u.Microseconds())
		} else if m, ok := months[part]; ok {
			if n > 200_000 || n < -200_000 {
				return nil, overflow
			}
			t = addMonths(t, n*m)
		} else {
			return nil, raise("%s cannot be added", part)
		}
		if y := t.UTC().Year(); y < 1 || y > 9999 {
			return nil, overflow
		}
		return layoutTime(typ, t), nil
	}}
}

// addMonths keeps to the last day of a shorter month, as BigQuery does.
func addMonths(t time.Time, n int64) time.Time {
	t = t.UTC()
	first := time.Date(t.Year(), t.Month()+time.Month(n), 1, t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
	last := first.AddDate(0, 1, -1).Day()
	return first.AddDate(0, 0, min(t.Day(), last)-1)
}

// truncate makes the _TRUNC functions of a type.
func truncate(typ string) scalar {
	return scalar{2, true, func(a []driver.Value) (driver.Value, error) {
		t, err := moment(a[0])
		if err != nil {
			return nil, err
		}
		t, ok := floorTime(t.UTC(), text(a[1]))
		if !ok {
			return nil, raise("%s cannot be truncated to", text(a[1]))
		}
		return layoutTime(typ, t), nil
	}}
}

func floorTime(t time.Time, part string) (time.Time, bool) {
	day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	switch part {
	case "DAY":
		return day, true
	case "WEEK":
		return day.AddDate(0, 0, -int(t.Weekday())), true
	case "ISOWEEK":
		return day.AddDate(0, 0, -(int(t.Weekday())+6)%7), true
	case "MONTH":
		return day.AddDate(0, 0, 1-t.Day()), true
	case "QUARTER":
		return time.Date(t.Year(), (t.Month()-1)/3*3+1, 1, 0, 0, 0, 0, time.UTC), true
	case "YEAR":
		return time.Date(t.Year(), 1, 1, 0, 0, 0, 0, time.UTC), true
	}
	if u, ok := units[part]; ok {
		return t.Truncate(u), true
	}
	return t, false
}

// difference is TIMESTAMP_DIFF: whole units between; or, with calendar,
// DATE_DIFF: boundaries crossed.
func difference(calendar bool) scalar {
	return scalar{3, true, func(a []driver.Value) (driver.Value, error) {
		x, err := moment(a[0])
		if err != nil {
			return nil, err
		}
		y, err := moment(a[1])
		if err != nil {
			return nil, err
		}
		part := text(a[2])
		if m, ok := months[part]; ok {
			return (monthNumber(x) / m) - (monthNumber(y) / m), nil
		}
		u, ok := units[part]
		if !ok && part != "ISOWEEK" {
			return nil, raise("%s has no difference", part)
		}
		if calendar {
			if part == "WEEK" || part == "ISOWEEK" {
				x, _ = floorTime(x, part)
				y, _ = floorTime(y, part)
				u = units["WEEK"]
			}
		}
		return (x.UnixMicro() - y.UnixMicro()) / u.Microseconds(), nil
	}}
}

func monthNumber(t time.Time) int64 { return int64(t.UTC().Year())*12 + int64(t.UTC().Month()) - 1 }

// convert makes TIMESTAMP(x), DATE(x) and DATETIME(x).
func convert(typ string) scalar {
	return scalar{-1, true, func(a []driver.Value) (driver.Value, error) {
		switch {
		case len(a) == 1:
		case len(a) == 3 && typ == "DATE":
			return time.Date(int(whole(a[0])), time.Month(whole(a[1])), int(whole(a[2])), 0, 0, 0, 0, time.UTC).Format(googlesql.DateLayout), nil
		default:
			return nil, raise("The sandbox does not implement %s with %d arguments", typ, len(a))
		}
		s, ok := canonicalTime(typ, text(a[0]))
		if !ok {
			return nil, raise("Invalid %s: '%s'", strings.ToLower(typ), text(a[0]))
		}
		return s, nil
	}}
}

// fromUnix makes TIMESTAMP_SECONDS and its kin; toUnix UNIX_SECONDS and its kin.
func fromUnix(micros int64) scalar {
	return scalar{1, true, func(a []driver.Value) (driver.Value, error) {
		n := whole(a[0])
		if n > 253402300799999999/micros || n < -62135596800000000/micros {
			return nil, raise("Timestamp value is out of range: %d", n)
		}
		return layoutTime("TIMESTAMP", time.UnixMicro(n*micros)), nil
	}}
}

func toUnix(micros int64) scalar {
	return scalar{1, true, func(a []driver.Value) (driver.Value, error) {
		t, err := moment(a[0])
		if err != nil {
			return nil, err
		}
		return t.UnixMicro() / micros, nil
	}}
}

var timeFunctions = map[string]scalar{
	"bq_timestamp": convert("TIMESTAMP"), "bq_date": convert("DATE"), "bq_datetime": convert("DATETIME"),
	"bq_timestamp_add": shift("TIMESTAMP", 1), "bq_timestamp_sub": shift("TIMESTAMP", -1), "bq_timestamp_trunc": truncate("TIMESTAMP"), "bq_timestamp_diff": difference(false),
	"bq_date_add": shift("DATE", 1), "bq_date_sub": shift("DATE", -1), "bq_date_trunc": truncate("DATE"), "bq_date_diff": difference(true),
	"bq_datetime_add": shift("DATETIME", 1), "bq_datetime_sub": shift("DATETIME", -1), "bq_datetime_trunc": truncate("DATETIME"),
	"bq_timestamp_seconds": fromUnix(1_000_000), "bq_timestamp_millis": fromUnix(1000), "bq_timestamp_micros": fromUnix(1),
	"bq_unix_seconds": toUnix(1_000_000), "bq_unix_millis": toUnix(1000), "bq_unix_micros": toUnix(1),
	"bq_extract": {2, true, func(a []driver.Value) (driver.Value, error) { return extractPart(text(a[0]), a[1]) }},
	"bq_strftime": {2, true, func(a []driver.Value) (driver.Value, error) {
		t, err := moment(a[1])
		if err != nil {
			return nil, err
		}
		return strftime(text(a[0]), t.UTC())
	}},
	// bq_is_time: the value is NULL, or text that is a time of the type.
	"bq_is_time": {2, false, func(a []driver.Value) (driver.Value, error) {
		if a[1] == nil {
			return int64(1), nil
		}
		s, ok := a[1].(string)
		if ok {
			_, ok = canonicalTime(text(a[0]), s)
		}
		return map[bool]int64{true: 1}[ok], nil
	}},
	"bq_canonical": {2, true, func(a []driver.Value) (driver.Value, error) {
		s, ok := canonicalTime(text(a[0]), text(a[1]))
		if !ok {
			return a[1], nil
		}
		return s, nil
	}},
}

func extractPart(part string, v driver.Value) (driver.Value, error) {
	t, err := moment(v)
	if err != nil {
		return nil, err
	}
	t = t.UTC()
	isoYear, isoWeek := t.ISOWeek()
	switch part {
	case "MICROSECOND":
		return int64(t.Nanosecond() / 1000), nil
	case "MILLISECOND":
		return int64(t.Nanosecond() / 1_000_000), nil
	case "SECOND":
		return int64(t.Second()), nil
	case "MINUTE":
		return int64(t.Minute()), nil
	case "HOUR":
		return int64(t.Hour()), nil
	case "DAYOFWEEK":
		return int64(t.Weekday()) + 1, nil
	case "DAY":
		return int64(t.Day()), nil
	case "DAYOFYEAR":
		return int64(t.YearDay()), nil
	case "WEEK":
		return int64(t.YearDay()+6-int(t.Weekday())) / 7, nil
	case "ISOWEEK":
		return int64(isoWeek), nil
	case "MONTH":
		return int64(t.Month()), nil
	case "QUARTER":
		return int64(t.Month()-1)/3 + 1, nil
	case "YEAR":
		return int64(t.Year()), nil
	case "ISOYEAR":
		return int64(isoYear), nil
	case "DATE":
		return t.Format(googlesql.DateLayout), nil
	}
	return nil, raise("EXTRACT does not support %s", part)
}

// verbs are the elements of FORMAT_TIMESTAMP's formats, as Go layouts.
var verbs = map[byte]string{
	'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'B': "January", 'b': "Jan", 'h': "Jan",
	'A': "Monday", 'a': "Mon", 'j': "002", 'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'Z': "UTC", 'z': "+0000",
}

func strftime(format string, t time.Time) (driver.Value, error) {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		switch layout, ok := verbs[format[i]]; {
		case ok:
			b.WriteString(t.Format(layout))
		case format[i] == '%':
			b.WriteByte('%')
		case format[i] == 's':
			fmt.Fprint(&b, t.Unix())
		case format[i] == 'Q':
			fmt.Fprint(&b, (int(t.Month())-1)/3+1)
		default:
			return nil, raise("The sandbox does not implement %%%c in time formats", format[i])
		}
	}
	return b.String(), nil
}
