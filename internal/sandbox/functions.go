package sandbox

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"database/sql/driver"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	mrand "math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"

	"modernc.org/sqlite"

	"github.com/trailgate/trailgate/internal/sandbox/googlesql"
)

// maxBuiltBytes bounds what REPEAT, LPAD and GENERATE_ARRAY may make.
const maxBuiltBytes = 16 << 20

// scalar is a function of GoogleSQL that SQLite lacks, or has otherwise. With
// strict, NULL among the arguments gives NULL without a call.
type scalar struct {
	args   int32 // -1: any number
	strict bool
	fn     func(args []driver.Value) (driver.Value, error)
}

// raise is an error that a statement makes while it runs; sqlError knows it by
// the prefix.
func raise(format string, args ...any) error {
	return errors.New("sandbox: " + fmt.Sprintf(format, args...))
}

// registerFunctions gives a driver the functions named bq_… that package
// googlesql writes.
func registerFunctions(drv *sqlite.Driver) error {
	for _, set := range []map[string]scalar{generalFunctions, textFunctions, timeFunctions} {
		for name, f := range set {
			impl := &sqlite.FunctionImpl{NArgs: f.args, Deterministic: name != "bq_rand" && name != "bq_uuid", Scalar: func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
				if f.strict && slices.Contains(args, nil) {
					return nil, nil
				}
				return f.fn(args)
			}}
			if err := drv.RegisterFunction(name, impl); err != nil {
				return fmt.Errorf("register %s: %w", name, err)
			}
		}
	}
	return drv.RegisterFunction("bq_countif", &sqlite.FunctionImpl{
		NArgs: 1, Deterministic: true,
		MakeAggregate: func(sqlite.FunctionContext) (sqlite.AggregateFunction, error) { return new(countIf), nil },
	})
}

// countIf is COUNTIF.
type countIf struct{ n int64 }

func (c *countIf) Step(_ *sqlite.FunctionContext, args []driver.Value) error {
	if truth(args[0]) {
		c.n++
	}
	return nil
}

func (c *countIf) WindowInverse(_ *sqlite.FunctionContext, args []driver.Value) error {
	if truth(args[0]) {
		c.n--
	}
	return nil
}

func (c *countIf) WindowValue(*sqlite.FunctionContext) (driver.Value, error) { return c.n, nil }
func (c *countIf) Final(*sqlite.FunctionContext)                             {}

func truth(v driver.Value) bool {
	switch v := v.(type) {
	case int64:
		return v != 0
	case float64:
		return v != 0
	}
	return false
}

func number(v driver.Value) float64 {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case float64:
		return v
	}
	return math.NaN()
}

func whole(v driver.Value) int64 {
	switch v := v.(type) {
	case int64:
		return v
	case float64:
		return int64(v)
	}
	return 0
}

func text(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	case nil:
		return ""
	case float64:
		return floatText("FLOAT", v)
	}
	return fmt.Sprint(v)
}

// compare orders values of one kind, numbers or text.
func compare(a, b driver.Value) int {
	switch a.(type) {
	case int64, float64:
		x, y := number(a), number(b)
		switch {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	}
	return strings.Compare(text(a), text(b))
}

// float makes a function of one number.
func float(f func(float64) float64) scalar {
	return scalar{1, true, func(a []driver.Value) (driver.Value, error) { return f(number(a[0])), nil }}
}

// domain is float, with an error outside of the function's domain.
func domain(name string, ok func(float64) bool, f func(float64) float64) scalar {
	return scalar{1, true, func(a []driver.Value) (driver.Value, error) {
		x := number(a[0])
		if !ok(x) {
			return nil, raise("%s is undefined for %v", name, x)
		}
		return f(x), nil
	}}
}

func extreme(want int) scalar {
	return scalar{-1, true, func(a []driver.Value) (driver.Value, error) {
		if len(a) == 0 {
			return nil, raise("No matching signature for function GREATEST or LEAST with no arguments")
		}
		best := a[0]
		for _, v := range a[1:] {
			if compare(v, best) == want {
				best = v
			}
		}
		return best, nil
	}}
}

var generalFunctions = map[string]scalar{
	"bq_if": {3, false, func(a []driver.Value) (driver.Value, error) {
		if truth(a[0]) {
			return a[1], nil
		}
		return a[2], nil
	}},
	"bq_ceil": float(math.Ceil), "bq_floor": float(math.Floor), "bq_trunc": float(math.Trunc), "bq_exp": float(math.Exp),
	"bq_sqrt":  domain("SQRT", func(x float64) bool { return x >= 0 }, math.Sqrt),
	"bq_ln":    domain("LN", func(x float64) bool { return x > 0 }, math.Log),
	"bq_log10": domain("LOG10", func(x float64) bool { return x > 0 }, math.Log10),
	"bq_pow":   {2, true, func(a []driver.Value) (driver.Value, error) { return math.Pow(number(a[0]), number(a[1])), nil }},
	"bq_mod": {2, true, func(a []driver.Value) (driver.Value, error) {
		if whole(a[1]) == 0 {
			return nil, raise("division by zero: MOD(%d, 0)", whole(a[0]))
		}
		return whole(a[0]) % whole(a[1]), nil
	}},
	"bq_div": {2, true, func(a []driver.Value) (driver.Value, error) {
		if whole(a[1]) == 0 {
			return nil, raise("division by zero: DIV(%d, 0)", whole(a[0]))
		}
		return whole(a[0]) / whole(a[1]), nil
	}},
	"bq_safe_divide": {2, true, func(a []driver.Value) (driver.Value, error) {
		if number(a[1]) == 0 {
			return nil, nil
		}
		return number(a[0]) / number(a[1]), nil
	}},
	"bq_greatest": extreme(1), "bq_least": extreme(-1),
	"bq_rand": {0, false, func([]driver.Value) (driver.Value, error) { return mrand.Float64(), nil }},
	"bq_uuid": {0, false, func([]driver.Value) (driver.Value, error) {
		var b [16]byte
		rand.Read(b[:])
		b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
		return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]), nil
	}},
	"bq_error": {1, false, func(a []driver.Value) (driver.Value, error) { return nil, raise("%s", text(a[0])) }},
	"bq_generate_array": {-1, true, func(a []driver.Value) (driver.Value, error) {
		if len(a) < 2 || len(a) > 3 {
			return nil, raise("No matching signature for function GENERATE_ARRAY")
		}
		step := int64(1)
		if len(a) == 3 {
			step = whole(a[2])
		}
		from, to := whole(a[0]), whole(a[1])
		if step == 0 || math.Abs(float64(to)-float64(from))/math.Abs(float64(step)) > 1_000_000 {
			return nil, raise("GENERATE_ARRAY would make too many elements; the sandbox takes a million")
		}
		var out []byte
		for n := from; step > 0 && n <= to || step < 0 && n >= to; n += step {
			out = fmt.Appendf(append(out, ','), "%d", n)
		}
		return "[" + strings.TrimPrefix(string(out), ",") + "]", nil
	}},
	"bq_cast": {-1, false, func(a []driver.Value) (driver.Value, error) { return cast(a) }},
	"bq_safe_cast": {-1, false, func(a []driver.Value) (driver.Value, error) {
		v, err := cast(a)
		if err != nil {
			return nil, nil
		}
		return v, nil
	}},
}

// cast is CAST(value AS type): arguments are the value, the type, and the type
// of the value where that is known and matters.
func cast(a []driver.Value) (driver.Value, error) {
	if len(a) < 2 {
		return nil, raise("CAST needs a type")
	}
	v, typ := a[0], googlesql.RESTType(text(a[1]))
	from := ""
	if len(a) > 2 {
		from = text(a[2])
	}
	switch v := v.(type) {
	case nil:
		return nil, nil
	case int64:
		switch typ {
		case "INTEGER", "NUMERIC", "BIGNUMERIC":
			return v, nil
		case "FLOAT":
			return float64(v), nil
		case "BOOLEAN":
			return map[bool]int64{true: 1}[v != 0], nil
		case "STRING":
			return plainText(googlesql.Column{Type: from}, v), nil
		}
	case float64:
		switch typ {
		case "INTEGER":
			if math.IsNaN(v) || math.Abs(v) >= 1<<63 {
				return nil, raise("Illegal conversion of non-finite floating point number to an integer: %v", v)
			}
			return int64(math.Round(v)), nil
		case "FLOAT", "NUMERIC", "BIGNUMERIC":
			return v, nil
		case "STRING":
			return floatText("FLOAT", v), nil
		}
	case []byte:
		switch typ {
		case "BYTES":
			return v, nil
		case "STRING":
			return string(v), nil
		}
	case string:
		if typ == "BYTES" {
			return []byte(v), nil
		}
		out, err := fromText(typ, v)
		if err != nil {
			return nil, raise("Bad %s value: %s", strings.ToLower(sqlType(typ)), v)
		}
		return out, nil
	}
	return nil, raise("Invalid cast to type %s", sqlType(typ))
}

// patterns keeps compiled regular expressions, since a statement uses few.
var patterns sync.Map

func pattern(v driver.Value) (*regexp.Regexp, error) {
	if re, ok := patterns.Load(text(v)); ok {
		return re.(*regexp.Regexp), nil
	}
	re, err := regexp.Compile(text(v))
	if err != nil {
		return nil, raise("Cannot parse regular expression: %v", err)
	}
	n := 0
	patterns.Range(func(any, any) bool { n++; return n < 256 })
	if n < 256 {
		patterns.Store(text(v), re)
	}
	return re, nil
}

// unary makes a function of one text.
func unary(f func(string) driver.Value) scalar {
	return scalar{1, true, func(a []driver.Value) (driver.Value, error) { return f(text(a[0])), nil }}
}

// relation makes a condition on two texts.
func relation(f func(a, b string) bool) scalar {
	return scalar{2, true, func(a []driver.Value) (driver.Value, error) {
		return map[bool]int64{true: 1}[f(text(a[0]), text(a[1]))], nil
	}}
}

func pad(left bool) scalar {
	return scalar{-1, true, func(a []driver.Value) (driver.Value, error) {
		if len(a) < 2 || len(a) > 3 || whole(a[1]) < 0 || whole(a[1]) > maxBuiltBytes {
			return nil, raise("LPAD and RPAD need a length that is not negative, of %d at most", maxBuiltBytes)
		}
		fill := []rune(" ")
		if len(a) == 3 {
			fill = []rune(text(a[2]))
		}
		s, n := []rune(text(a[0])), int(whole(a[1]))
		if len(s) >= n {
			return string(s[:n]), nil
		}
		if len(fill) == 0 {
			return nil, raise("LPAD and RPAD need a pattern that is not empty")
		}
		var more []rune
		for i := range n - len(s) {
			more = append(more, fill[i%len(fill)])
		}
		if left {
			return string(more) + string(s), nil
		}
		return string(s) + string(more), nil
	}}
}

var textFunctions = map[string]scalar{
	"bq_concat": {-1, true, func(a []driver.Value) (driver.Value, error) {
		var b strings.Builder
		for _, v := range a {
			b.WriteString(text(v))
		}
		return b.String(), nil
	}},
	"bq_lower": unary(func(s string) driver.Value { return strings.ToLower(s) }),
	"bq_upper": unary(func(s string) driver.Value { return strings.ToUpper(s) }),
	"bq_reverse": unary(func(s string) driver.Value {
		r := []rune(s)
		slices.Reverse(r)
		return string(r)
	}),
	"bq_to_json_string": {args: 1, fn: toJSONString},
	"bq_to_hex":         unary(func(s string) driver.Value { return hex.EncodeToString([]byte(s)) }),
	"bq_to_base64":      unary(func(s string) driver.Value { return base64.StdEncoding.EncodeToString([]byte(s)) }),
	"bq_md5":            unary(func(s string) driver.Value { sum := md5.Sum([]byte(s)); return sum[:] }),
	"bq_sha256":         unary(func(s string) driver.Value { sum := sha256.Sum256([]byte(s)); return sum[:] }),
	"bq_left": {2, true, func(a []driver.Value) (driver.Value, error) {
		r := []rune(text(a[0]))
		return string(r[:min(int64(len(r)), max(whole(a[1]), 0))]), nil
	}},
	"bq_right": {2, true, func(a []driver.Value) (driver.Value, error) {
		r := []rune(text(a[0]))
		return string(r[int64(len(r))-min(int64(len(r)), max(whole(a[1]), 0)):]), nil
	}},
	"bq_repeat": {2, true, func(a []driver.Value) (driver.Value, error) {
		s, n := text(a[0]), whole(a[1])
		if n < 0 || len(s) > 0 && n > int64(maxBuiltBytes/len(s)) {
			return nil, raise("REPEAT would make more than %d bytes", maxBuiltBytes)
		}
		return strings.Repeat(s, int(min(n, maxBuiltBytes))), nil
	}},
	"bq_lpad": pad(true), "bq_rpad": pad(false),
	"bq_starts_with": relation(strings.HasPrefix), "bq_ends_with": relation(strings.HasSuffix),
	"bq_contains_substr": relation(func(a, b string) bool { return strings.Contains(strings.ToLower(a), strings.ToLower(b)) }),
	"bq_regexp_contains": {2, true, func(a []driver.Value) (driver.Value, error) {
		re, err := pattern(a[1])
		if err != nil {
			return nil, err
		}
		return map[bool]int64{true: 1}[re.MatchString(text(a[0]))], nil
	}},
	"bq_regexp_extract": {2, true, func(a []driver.Value) (driver.Value, error) {
		re, err := pattern(a[1])
		if err != nil {
			return nil, err
		}
		m := re.FindStringSubmatch(text(a[0]))
		if m == nil {
			return nil, nil
		}
		return m[len(m)-1], nil
	}},
	"bq_regexp_replace": {3, true, func(a []driver.Value) (driver.Value, error) {
		re, err := pattern(a[1])
		if err != nil {
			return nil, err
		}
		return re.ReplaceAllString(text(a[0]), backrefs.ReplaceAllString(strings.ReplaceAll(text(a[2]), "$", "$$"), "$${$1}")), nil
	}},
	"bq_split": {-1, true, func(a []driver.Value) (driver.Value, error) {
		sep := ","
		if len(a) > 1 {
			sep = text(a[1])
		}
		raw, err := json.Marshal(strings.Split(text(a[0]), sep))
		return string(raw), err
	}},
}

// backrefs are \1 to \9 in a replacement.
var backrefs = regexp.MustCompile(`\\(\d)`)

// toJSONString is TO_JSON_STRING. ARRAY and STRUCT values are kept as JSON, which
// SQLite cannot tell from text: a STRING that holds an array or an object as JSON comes
// out as that and not in quotes.
func toJSONString(args []driver.Value) (driver.Value, error) {
	text, isText := args[0].(string)
	if isText && (strings.HasPrefix(text, "[") || strings.HasPrefix(text, "{")) && json.Valid([]byte(text)) {
		return text, nil
	}
	raw, err := json.Marshal(args[0])
	return string(raw), err
}
