package googlesql

import "strings"

// function is what the translation knows of a GoogleSQL function.
type function struct {
	sqlite   string // its name in SQLite; those under bq_ are the sandbox's own
	result   string // REST type of the result, with [] of an array; argN: the type of that argument; "": told by the value
	part     bool   // its last argument may be a bare date part, such as DAY
	volatile bool   // its value changes by itself, so results are not cached
}

// Results that follow an argument.
const (
	arg1 = "arg1"
	arg2 = "arg2"
)

// functions are all that a statement may call. SQLite's own others stay out of
// reach, as they are not BigQuery's.
var functions = map[string]function{
	// aggregates and windows
	"COUNT": {"COUNT", "INTEGER", false, false}, "COUNTIF": {"bq_countif", "INTEGER", false, false},
	"SUM": {"SUM", arg1, false, false}, "AVG": {"AVG", "FLOAT", false, false},
	"MIN": {"MIN", arg1, false, false}, "MAX": {"MAX", arg1, false, false}, "ANY_VALUE": {"MIN", arg1, false, false},
	"LOGICAL_AND": {"MIN", "BOOLEAN", false, false}, "LOGICAL_OR": {"MAX", "BOOLEAN", false, false},
	"STRING_AGG": {"group_concat", "STRING", false, false}, "ARRAY_LENGTH": {"json_array_length", "INTEGER", false, false},
	"ROW_NUMBER": {"ROW_NUMBER", "INTEGER", false, false}, "RANK": {"RANK", "INTEGER", false, false}, "DENSE_RANK": {"DENSE_RANK", "INTEGER", false, false},
	"NTILE": {"NTILE", "INTEGER", false, false}, "PERCENT_RANK": {"PERCENT_RANK", "FLOAT", false, false}, "CUME_DIST": {"CUME_DIST", "FLOAT", false, false},
	"LAG": {"LAG", arg1, false, false}, "LEAD": {"LEAD", arg1, false, false},
	"FIRST_VALUE": {"FIRST_VALUE", arg1, false, false}, "LAST_VALUE": {"LAST_VALUE", arg1, false, false}, "NTH_VALUE": {"NTH_VALUE", arg1, false, false},

	// conditions
	"IF": {"bq_if", arg2, false, false}, "IFNULL": {"IFNULL", arg1, false, false}, "NULLIF": {"NULLIF", arg1, false, false}, "COALESCE": {"COALESCE", arg1, false, false},

	// numbers
	"ABS": {"ABS", arg1, false, false}, "SIGN": {"SIGN", arg1, false, false}, "ROUND": {"ROUND", "FLOAT", false, false},
	"CEIL": {"bq_ceil", "FLOAT", false, false}, "CEILING": {"bq_ceil", "FLOAT", false, false}, "FLOOR": {"bq_floor", "FLOAT", false, false}, "TRUNC": {"bq_trunc", "FLOAT", false, false},
	"SQRT": {"bq_sqrt", "FLOAT", false, false}, "POW": {"bq_pow", "FLOAT", false, false}, "POWER": {"bq_pow", "FLOAT", false, false},
	"EXP": {"bq_exp", "FLOAT", false, false}, "LN": {"bq_ln", "FLOAT", false, false}, "LOG10": {"bq_log10", "FLOAT", false, false},
	"MOD": {"bq_mod", arg1, false, false}, "DIV": {"bq_div", "INTEGER", false, false}, "SAFE_DIVIDE": {"bq_safe_divide", "FLOAT", false, false}, "IEEE_DIVIDE": {"bq_safe_divide", "FLOAT", false, false},
	"GREATEST": {"bq_greatest", arg1, false, false}, "LEAST": {"bq_least", arg1, false, false}, "RAND": {"bq_rand", "FLOAT", false, true},

	// strings
	"CONCAT": {"bq_concat", "STRING", false, false}, "LENGTH": {"LENGTH", "INTEGER", false, false}, "CHAR_LENGTH": {"LENGTH", "INTEGER", false, false}, "BYTE_LENGTH": {"OCTET_LENGTH", "INTEGER", false, false},
	"LOWER": {"bq_lower", "STRING", false, false}, "UPPER": {"bq_upper", "STRING", false, false},
	"TRIM": {"TRIM", "STRING", false, false}, "LTRIM": {"LTRIM", "STRING", false, false}, "RTRIM": {"RTRIM", "STRING", false, false},
	"SUBSTR": {"SUBSTR", arg1, false, false}, "SUBSTRING": {"SUBSTR", arg1, false, false}, "REPLACE": {"REPLACE", "STRING", false, false},
	"LEFT": {"bq_left", "STRING", false, false}, "RIGHT": {"bq_right", "STRING", false, false}, "REVERSE": {"bq_reverse", "STRING", false, false}, "REPEAT": {"bq_repeat", "STRING", false, false},
	"LPAD": {"bq_lpad", "STRING", false, false}, "RPAD": {"bq_rpad", "STRING", false, false}, "STRPOS": {"INSTR", "INTEGER", false, false}, "INSTR": {"INSTR", "INTEGER", false, false},
	"STARTS_WITH": {"bq_starts_with", "BOOLEAN", false, false}, "ENDS_WITH": {"bq_ends_with", "BOOLEAN", false, false}, "CONTAINS_SUBSTR": {"bq_contains_substr", "BOOLEAN", false, false},
	"REGEXP_CONTAINS": {"bq_regexp_contains", "BOOLEAN", false, false}, "REGEXP_EXTRACT": {"bq_regexp_extract", "STRING", false, false}, "REGEXP_REPLACE": {"bq_regexp_replace", "STRING", false, false},
	"TO_HEX": {"bq_to_hex", "STRING", false, false}, "TO_BASE64": {"bq_to_base64", "STRING", false, false}, "MD5": {"bq_md5", "BYTES", false, false}, "SHA256": {"bq_sha256", "BYTES", false, false},
	"GENERATE_UUID": {"bq_uuid", "STRING", false, true}, "SESSION_USER": {"", "STRING", false, true}, "ERROR": {"bq_error", "INTEGER", false, true},
	"SPLIT": {"bq_split", "STRING[]", false, false}, "GENERATE_ARRAY": {"bq_generate_array", "INTEGER[]", false, false},
	"JSON_VALUE": {"json_extract", "STRING", false, false}, "JSON_EXTRACT_SCALAR": {"json_extract", "STRING", false, false}, "TO_JSON_STRING": {"bq_to_json_string", "STRING", false, false}, "PARSE_JSON": {"json", "JSON", false, false},

	// time
	"CURRENT_TIMESTAMP": {"", "TIMESTAMP", false, true}, "CURRENT_DATE": {"", "DATE", false, true}, "CURRENT_DATETIME": {"", "DATETIME", false, true}, "CURRENT_TIME": {"", "TIME", false, true},
	"TIMESTAMP": {"bq_timestamp", "TIMESTAMP", false, false}, "DATE": {"bq_date", "DATE", false, false}, "DATETIME": {"bq_datetime", "DATETIME", false, false},
	"TIMESTAMP_ADD": {"bq_timestamp_add", "TIMESTAMP", true, false}, "TIMESTAMP_SUB": {"bq_timestamp_sub", "TIMESTAMP", true, false}, "TIMESTAMP_DIFF": {"bq_timestamp_diff", "INTEGER", true, false}, "TIMESTAMP_TRUNC": {"bq_timestamp_trunc", "TIMESTAMP", true, false},
	"DATE_ADD": {"bq_date_add", "DATE", true, false}, "DATE_SUB": {"bq_date_sub", "DATE", true, false}, "DATE_DIFF": {"bq_date_diff", "INTEGER", true, false}, "DATE_TRUNC": {"bq_date_trunc", "DATE", true, false},
	"DATETIME_ADD": {"bq_datetime_add", "DATETIME", true, false}, "DATETIME_SUB": {"bq_datetime_sub", "DATETIME", true, false}, "DATETIME_DIFF": {"bq_timestamp_diff", "INTEGER", true, false}, "DATETIME_TRUNC": {"bq_datetime_trunc", "DATETIME", true, false},
	"TIMESTAMP_SECONDS": {"bq_timestamp_seconds", "TIMESTAMP", false, false}, "TIMESTAMP_MILLIS": {"bq_timestamp_millis", "TIMESTAMP", false, false}, "TIMESTAMP_MICROS": {"bq_timestamp_micros", "TIMESTAMP", false, false},
	"UNIX_SECONDS": {"bq_unix_seconds", "INTEGER", false, false}, "UNIX_MILLIS": {"bq_unix_millis", "INTEGER", false, false}, "UNIX_MICROS": {"bq_unix_micros", "INTEGER", false, false},
	"FORMAT_TIMESTAMP": {"bq_strftime", "STRING", false, false}, "FORMAT_DATE": {"bq_strftime", "STRING", false, false}, "FORMAT_DATETIME": {"bq_strftime", "STRING", false, false},
	"EXTRACT": {"bq_extract", "INTEGER", false, false},
	"CAST":    {"bq_cast", "", false, false}, "SAFE_CAST": {"bq_safe_cast", "", false, false},
}

// legacyFunctions are casts that legacy SQL writes as calls.
var legacyFunctions = map[string]string{"INTEGER": "INT64", "FLOAT": "FLOAT64", "STRING": "STRING", "BOOLEAN": "BOOL"}

// dateParts are the units of INTERVAL, EXTRACT and their like.
var dateParts = map[string]bool{
	"MICROSECOND": true, "MILLISECOND": true, "SECOND": true, "MINUTE": true, "HOUR": true, "DAY": true, "WEEK": true, "ISOWEEK": true,
	"MONTH": true, "QUARTER": true, "YEAR": true, "ISOYEAR": true, "DAYOFWEEK": true, "DAYOFYEAR": true, "DATE": true,
}

// sqliteWords are plain names to GoogleSQL that SQLite reserves; they are
// quoted on the way.
var sqliteWords = map[string]bool{
	"ADD": true, "ALTER": true, "AUTOINCREMENT": true, "CHECK": true, "COMMIT": true, "CONSTRAINT": true, "DEFERRABLE": true, "DROP": true, "FOREIGN": true,
	"INDEX": true, "INDEXED": true, "ISNULL": true, "NOTHING": true, "NOTNULL": true, "PRIMARY": true, "REFERENCES": true, "RETURNING": true, "TABLE": true, "TRANSACTION": true, "TRIGGER": true, "UNIQUE": true,
}

// unsupportedWords begin clauses that have no counterpart; name in the words of
// the refusal.
var unsupportedWords = map[string]string{
	"QUALIFY": "QUALIFY", "PIVOT": "PIVOT", "UNPIVOT": "UNPIVOT", "MATCH_RECOGNIZE": "MATCH_RECOGNIZE",
}

// quoteName writes an identifier as SQLite takes it.
func quoteName(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

// quoteString writes a string literal as SQLite takes it.
func quoteString(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
