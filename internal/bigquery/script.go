package bigquery

import "slices"

// blocks are words after which another statement begins, in scripts.
var blocks = []string{"BEGIN", "THEN", "ELSE", "DO", "LOOP", "REPEAT"}

// split cuts a script at its semicolons, and behind the words that open a
// block, so that each part begins like a statement; a part that only opens or
// closes a block is one by itself. whole is false where a procedure's body has
// no end, and what is inside of it cannot be told from what follows
// (https://cloud.google.com/bigquery/docs/reference/standard-sql/procedural-language).
func split(toks []tok) (parts [][]tok, whole bool) {
	var cur []tok
	// depth counts parentheses, cases the CASE expressions that are open, body
	// the blocks of a procedure.
	depth, cases, body := 0, 0, 0
	flush := func() {
		if len(cur) > 0 {
			parts = append(parts, cur)
		}
		cur, depth, cases = nil, 0, 0
	}
	for i, t := range toks {
		switch t.kind {
		case "(":
			depth++
		case ")":
			depth--
		}
		word := t.word != "" && !afterDot(toks, i)
		switch head := unlabelled(cur); {
		case body > 0 && word:
			body += opens(toks, i)
		case body > 0:
		case word && depth == 0 && t.is("BEGIN") && toks[max(i-1, 0)].kind == ")" && makesProcedure(head):
			body = 1
		case t.kind == ";":
			flush()
			continue
		case !word || depth != 0:
		case t.is("CASE"):
			if len(head) > 0 && !head[0].is("END") {
				cases++
			}
		case t.is("END") && cases > 0:
			cases--
		case cases == 0 && slices.Contains(blocks, t.word) && opensBlock(toks, i, head):
			cur = append(cur, t)
			flush()
			continue
		}
		cur = append(cur, t)
	}
	flush()
	return parts, body == 0
}

// unlabelled is a statement without its label, "name:".
func unlabelled(part []tok) []tok {
	if len(part) > 1 && part[0].named() && part[1].kind == ":" {
		return part[2:]
	}
	return part
}

// makesProcedure reports whether a statement begins with CREATE PROCEDURE, whose
// body stays one statement with its head: it runs when it is called.
func makesProcedure(head []tok) bool {
	if len(head) == 0 || !head[0].is("CREATE") {
		return false
	}
	i := 1
	for i < len(head) && head[i].is("OR", "REPLACE") {
		i++
	}
	return i < len(head) && head[i].is("PROCEDURE")
}

// opens is by how much the word at i nests a procedure's body deeper. What it
// gets wrong (a column that is called begin) it counts too deep, so that the
// body is seen to have no end.
func opens(toks []tok, i int) int {
	t, prev, next := toks[i], toks[i-1], tok{}
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	switch {
	case t.is("BEGIN") && (prev.kind == ";" || prev.kind == ":" || prev.is(blocks...)) && !next.is("TRANSACTION") && next.kind != ";":
		return 1
	case t.is("CASE") && !prev.is("END"):
		return 1
	case t.is("END") && !next.is("IF", "WHILE", "LOOP", "FOR", "REPEAT"):
		return -1
	}
	return 0
}

func afterDot(toks []tok, i int) bool { return i > 0 && toks[i-1].kind == "." }

// opensBlock tells block words from the same words in statements. head is the
// statement as far as it has been read.
func opensBlock(toks []tok, i int, head []tok) bool {
	var next, first tok
	if i+1 < len(toks) {
		next = toks[i+1]
	}
	if len(head) > 0 {
		first = head[0]
	}
	switch toks[i].word {
	case "BEGIN": // BEGIN [TRANSACTION] is a statement
		return len(head) == 0 && !next.is("TRANSACTION") && next.kind != ";" && next.kind != ""
	case "THEN":
		return first.is("IF", "ELSEIF", "WHEN", "CASE", "EXCEPTION")
	case "DO":
		return first.is("WHILE", "FOR")
	default: // ELSE, LOOP, REPEAT
		return len(head) == 0
	}
}

// branching reports whether parts of the script may be passed over or run again.
func branching(parts [][]tok) bool {
	return slices.ContainsFunc(parts, func(part []tok) bool {
		head := unlabelled(part)
		return len(head) > 0 && head[0].is("IF", "ELSE", "ELSEIF", "CASE", "WHEN", "WHILE", "LOOP", "REPEAT", "FOR", "EXCEPTION")
	})
}

// readSQL reads GoogleSQL: one statement or a script.
func readSQL(sql string, sc scope) reading {
	toks, ok := tokens(sql)
	if !ok {
		return unread("statement_unparsed")
	}
	parts, whole := split(toks)
	if len(parts) == 0 {
		return unread("statement_unparsed")
	}
	if !whole {
		s := readParts(parts, sc, 0)
		s.unknown("statement_unparsed")
		s.kind = kindUnknown
		return s
	}
	return readParts(parts, sc, 0)
}

// maxLevel bounds procedures that make procedures.
const maxLevel = 4

// readParts reads the statements of a script, or the one that there is. level
// counts the procedures around it.
func readParts(parts [][]tok, sc scope, level int) reading {
	script := reading{kind: kindScript}
	branches := branching(parts)
	if branches && slices.ContainsFunc(parts, setsScope) {
		sc = scope{}
	}
	var temp map[string]bool
	if !branches {
		// Where every statement runs, once and in its place, a name that the script
		// gave to a temporary table means that table.
		temp = map[string]bool{}
	}
	functionsOnly := true
	for i, part := range parts {
		if setsScope(part) {
			sc = scope{}
		}
		p := &parser{toks: part, sc: sc, temp: temp, level: level}
		p.statement()
		s := p.finish()
		if len(parts) == 1 {
			return s
		}
		script.class(s.classes...)
		script.reads(s.read...)
		script.writes(s.written...)
		script.goes(s.destinations...)
		for _, f := range s.flags {
			script.flag(f)
		}
		if last := i == len(parts)-1; last && functionsOnly && s.kind == "SELECT" {
			// "Multiple statements are a script, unless they consist of CREATE TEMP
			// FUNCTION and one final query."
			script.kind = s.kind
		}
		functionsOnly = functionsOnly && s.kind == "CREATE_FUNCTION" && p.temporary
	}
	return script
}

// setsScope reports a statement that changes what names mean from there on.
func setsScope(part []tok) bool {
	if !part[0].is("SET") {
		return false
	}
	for i, t := range part {
		if t.kind == "@@" && i+1 < len(part) && part[i+1].is("DATASET_ID", "DATASET_PROJECT_ID", "PROJECT_ID") {
			return true
		}
	}
	return false
}

// readExpression reads an expression: a row filter, a function's body.
func readExpression(sql string, sc scope) reading {
	toks, ok := tokens(sql)
	if !ok {
		return unread("statement_unparsed")
	}
	p := &parser{toks: toks, sc: sc}
	p.tables(0)
	return p.out
}
