package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// outputFlag adds -o to a command that prints data.
func outputFlag(cmd *cobra.Command, into *string, forms ...string) {
	cmd.Flags().StringVarP(into, "output", "o", forms[0], "output `FORM`: "+strings.Join(forms, ", "))
	must(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(forms, cobra.ShellCompDirectiveNoFileComp)))
	check := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(forms, *into) {
			return usagef("--output %q: want one of %s", *into, strings.Join(forms, ", "))
		}
		if check != nil {
			return check(cmd, args)
		}
		return nil
	}
}

// respell gives JSON the form in which it is printed: indented or on one line,
// and safe to show. Prefix goes before every line but the first.
func respell(raw []byte, prefix string, indent bool) ([]byte, error) {
	var buf bytes.Buffer
	var err error
	if indent {
		err = json.Indent(&buf, raw, prefix, "  ")
	} else {
		err = json.Compact(&buf, raw)
	}
	if err != nil {
		return nil, fmt.Errorf("read the gateway's answer: %w", err)
	}
	return jsonSafe(buf.Bytes()), nil
}

// printJSON prints one value as a document ("json") or on a line ("jsonl").
func printJSON(w io.Writer, v any, form string) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	text, err := respell(bytes.TrimSpace(buf.Bytes()), "", form == "json")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", text)
	return err
}

// printList prints a short list of things that are not rows of the trail.
func printList[T any](w io.Writer, form string, head []string, cells [][]string, values []T) error {
	switch form {
	case "json":
		if values == nil {
			values = []T{}
		}
		return printJSON(w, values, form)
	case "jsonl":
		for _, v := range values {
			if err := printJSON(w, v, form); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		out := csv.NewWriter(w)
		err := out.Write(head)
		for _, row := range cells {
			for i := range row {
				row[i] = csvSafe(row[i])
			}
			err = errors.Join(err, out.Write(row))
		}
		out.Flush()
		return errors.Join(err, out.Error())
	}
	t := table{limit: terminalWidth(w)}
	for _, name := range head {
		t.head = append(t.head, strings.ToUpper(name))
	}
	for _, row := range cells {
		for i := range row {
			row[i] = visible(row[i])
		}
		t.add(row...)
	}
	return t.write(w)
}
