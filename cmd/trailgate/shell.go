package main

import (
	"fmt"
	"slices"
	"strings"
)

// variable is one change to an environment.
type variable struct {
	name, value string
	unset       bool
}

// shells writes a change in the words of each shell. Values are quoted so that
// nothing in them is expanded or run, whatever they hold.
var shells = map[string]func(v variable) string{
	"bash": posixLine,
	"zsh":  posixLine,
	"fish": func(v variable) string {
		if v.unset {
			return "set -e " + v.name + "; or true"
		}
		quoted := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(v.value)
		return "set -gx " + v.name + " '" + quoted + "'"
	},
	"powershell": func(v variable) string {
		if v.unset {
			return "Remove-Item Env:" + v.name + " -ErrorAction SilentlyContinue"
		}
		// PowerShell takes typographic single quotes for quotes as well.
		quoted := strings.NewReplacer(`'`, `''`, "‘", "‘‘", "’", "’’", "‚", "‚‚", "‛", "‛‛").Replace(v.value)
		return "$env:" + v.name + " = '" + quoted + "'"
	},
}

func posixLine(v variable) string {
	if v.unset {
		return "unset " + v.name
	}
	return "export " + v.name + "=" + posixQuote(v.value)
}

// posixQuote makes s one word of a POSIX shell.
func posixQuote(s string) string {
	plain := s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_./:@%+,-", r))
	}) < 0
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func shellNames() []string {
	var names []string
	for name := range shells {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// shellLines writes all changes for a shell.
func shellLines(shell string, vars []variable) (string, error) {
	line, ok := shells[shell]
	if !ok {
		return "", usagef("--shell %q: want one of %s", shell, strings.Join(shellNames(), ", "))
	}
	var b strings.Builder
	for _, v := range vars {
		if strings.ContainsRune(v.value, 0) {
			return "", fmt.Errorf("%s holds a NUL byte, which no environment can", v.name)
		}
		b.WriteString(line(v) + "\n")
	}
	return b.String(), nil
}

// apply makes the changes to an environment as os/exec takes it.
func apply(environ []string, vars []variable) []string {
	changed := map[string]bool{}
	for _, v := range vars {
		changed[v.name] = true
	}
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return changed[name]
	})
	for _, v := range vars {
		if !v.unset {
			out = append(out, v.name+"="+v.value)
		}
	}
	return out
}
