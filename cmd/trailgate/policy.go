package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/policy"
)

func newPolicy(c *cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Check, try and replay what agents may do",
		Long: `Policy works on the rules that decide about agents' calls. They stand in the
files that policy.files of the configuration names; without any, the starter
policy holds. The language is described in docs/spec/policy.md.

A gateway that runs takes changed files in on SIGHUP, whole or not at all.`,
		Example: `  trailgate policy starter > policy.yaml
  trailgate policy check policy.yaml
  trailgate policy replay policy.yaml --since 7d`,
		RunE: parentOnly,
		Args: cobra.ArbitraryArgs,
	}
	cmd.AddCommand(newPolicyCheck(c), newPolicyShow(c), newPolicyTest(c), newPolicyReplay(c), newPolicyReload(c), newPolicyBudgets(c), newPolicyStarter(c))
	return cmd
}

// policySet reads the files given, or those of the configuration.
func (c *cli) policySet(paths []string) (*policy.Set, error) {
	if len(paths) == 0 {
		cfg, err := c.config()
		if err != nil {
			return nil, err
		}
		d, err := loadPolicy(cfg)
		if err != nil {
			return nil, policyMistake(err)
		}
		if d.set == nil {
			return nil, hinted(errors.New("policy.record_only allows everything; there are no rules"), "name files, or \"trailgate policy starter\" for rules to begin with")
		}
		return d.set, nil
	}
	files := make([]policy.File, 0, len(paths))
	for _, path := range paths {
		raw, err := c.policyFile(path)
		if err != nil {
			return nil, &exitError{code: exitUsage, err: fmt.Errorf("read the policy: %w", err)}
		}
		files = append(files, policy.File{Name: path, Data: raw})
	}
	set, err := policy.Load(files)
	if err != nil {
		return nil, policyMistake(err)
	}
	return set, nil
}

// policyFile reads a file of rules or cases; "-" is stdin.
func (c *cli) policyFile(path string) ([]byte, error) {
	if path != "-" {
		return readPolicyFile(path)
	}
	raw, err := io.ReadAll(io.LimitReader(c.in, policy.MaxFileBytes+1))
	if err == nil && len(raw) > policy.MaxFileBytes {
		err = fmt.Errorf("stdin holds more than %d bytes", policy.MaxFileBytes)
	}
	return raw, err
}

// policyMistake gives mistakes in a file the exit code of such.
func policyMistake(err error) error {
	if _, ok := errors.AsType[policy.Errors](err); ok || errors.Is(err, os.ErrNotExist) {
		return &exitError{code: exitUsage, err: err}
	}
	return err
}

func newPolicyCheck(c *cli) *cobra.Command {
	var form string
	var strict bool
	cmd := &cobra.Command{
		Use:   "check [FILE...]",
		Short: "Compile rules, and point out what is probably not meant",
		Long: `Check compiles the rules and reports every mistake with its file and line: exit
code 2. Then it looks for what works and is probably not meant: rules that never
decide, comparisons with words that do not exist, approvals that nobody could
give, rules that believe what clients merely say. With --strict such findings are
exit code 1, for CI. Without FILE it takes those of the configuration.`,
		Example: `  trailgate policy check
  trailgate policy check --strict policy.yaml team.yaml`,
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := c.policySet(args)
			if err != nil {
				return err
			}
			findings := set.Lint()
			switch form {
			case "json":
				out := struct {
					Digest   string        `json:"digest"`
					Rules    int           `json:"rules"`
					DryRuns  bool          `json:"dry_runs"`
					Findings []lintFinding `json:"findings"`
				}{set.Digest(), len(set.Rules()), set.ReadsDryRun(), []lintFinding{}}
				for _, f := range findings {
					out.Findings = append(out.Findings, lintFinding{f.File, f.Line, f.Rule, f.Code, f.Message})
				}
				err = printJSON(c.out, out, form)
			default:
				for _, f := range findings {
					if _, err := fmt.Fprintln(c.out, visible(f.String())); err != nil {
						return fmt.Errorf("print: %w", err)
					}
				}
				dry := "no rule asks for a dry run"
				if set.ReadsDryRun() {
					dry = "some ask for a dry run"
				}
				fmt.Fprintf(c.err, "%d rules compile, %s, %d findings; digest %s\n", len(set.Rules()), dry, len(findings), set.Digest())
			}
			if err == nil && strict && len(findings) > 0 {
				return &exitError{code: exitFailed, err: fmt.Errorf("%d findings", len(findings)), silent: true}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "findings are a failure")
	outputFlag(cmd, &form, "text", "json")
	cmd.ValidArgsFunction = completeYAML
	return cmd
}

type lintFinding struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Rule    string `json:"rule"`
	Code    string `json:"code"`
	Message string `json:"message"`
}

func completeYAML(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	return []cobra.Completion{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
}

type ruleRow struct {
	Name    string            `json:"name"`
	File    string            `json:"file"`
	Line    int               `json:"line"`
	Effect  string            `json:"effect"`
	When    string            `json:"when"`
	Message string            `json:"message,omitempty"`
	Limits  map[string]string `json:"limits,omitempty"`
	From    []string          `json:"from,omitempty"`
	Need    int               `json:"approvals,omitempty"`
	Expires string            `json:"expires,omitempty"`
	DryRun  bool              `json:"dry_run"`
}

func newPolicyShow(c *cli) *cobra.Command {
	var form string
	cmd := &cobra.Command{
		Use:   "show [FILE...]",
		Short: "List the rules in the order in which they are tried",
		Example: `  trailgate policy show
  trailgate policy show policy.yaml -o json | jq '.[] | select(.effect == "deny")'`,
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := c.policySet(args)
			if err != nil {
				return err
			}
			var rows []ruleRow
			var cells [][]string
			for _, r := range set.Rules() {
				row := ruleRow{Name: r.Name, File: r.File, Line: r.Line, Effect: r.Effect, When: r.When, Message: r.Message, Limits: r.Limits.Map(), DryRun: r.ReadsDryRun}
				if r.Effect == policy.RequireApproval {
					row.From, row.Need, row.Expires = r.Approval.From, r.Approval.Approvals, r.Approval.Expires.String()
				}
				rows = append(rows, row)
				cells = append(cells, []string{r.Name, r.Effect, strings.Join(strings.Fields(r.When), " ")})
			}
			return printList(c.out, form, []string{"rule", "effect", "when"}, cells, rows)
		},
	}
	outputFlag(cmd, &form, "table", "json", "jsonl", "csv")
	cmd.ValidArgsFunction = completeYAML
	return cmd
}

func newPolicyStarter(c *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "starter",
		Short: "Print the policy that holds where none is configured",
		Long: `Starter prints the shipped policy, with comments, to begin one's own with: agents
may read, ask before they change anything, and may not move data out.`,
		Example: `  trailgate policy starter > policy.yaml      # then name it under policy.files`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := c.out.Write(policy.Starter())
			return err
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
}

type caseRow struct {
	Name    string `json:"name"`
	File    string `json:"file"`
	Line    int    `json:"line"`
	Passed  bool   `json:"passed"`
	Want    string `json:"want"`
	Got     string `json:"got"`
	Rule    string `json:"rule"`
	Reason  string `json:"reason,omitempty"`
	Problem string `json:"problem,omitempty"`
}

func newPolicyTest(c *cli) *cobra.Command {
	var form string
	var files []string
	cmd := &cobra.Command{
		Use:   "test CASES...",
		Short: "Try rules on calls that a file describes",
		Long: `Test runs cases: calls, with what the policy has to decide about each. It is for
CI: exit code 1 where a case fails. What a case does not say of its statement's
class, tables, flags and type is read from the statement as the gateway reads it.
Without --policy it takes the files of the configuration.`,
		Example: `  trailgate policy test policy-cases.yaml
  trailgate policy test --policy policy.yaml --policy team.yaml cases.yaml -o json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := c.policySet(files)
			if err != nil {
				return err
			}
			var rows []caseRow
			failed := 0
			for _, path := range args {
				raw, err := c.policyFile(path)
				if err != nil {
					return &exitError{code: exitUsage, err: fmt.Errorf("read cases: %w", err)}
				}
				results, err := policy.RunCases(cmd.Context(), set, policy.File{Name: path, Data: raw}, classifyInput)
				if err != nil {
					return policyMistake(err)
				}
				for _, r := range results {
					rows = append(rows, caseRow{r.Name, r.File, r.Line, r.Passed(), r.Want, r.Got.Effect, r.Got.Rule, r.Got.Reason, r.Problem})
					if !r.Passed() {
						failed++
					}
				}
			}
			if form == "text" {
				err = c.printCases(rows)
			} else {
				err = printList(c.out, form, nil, nil, rows)
			}
			fmt.Fprintf(c.err, "%d cases, %d failed\n", len(rows), failed)
			if err == nil && failed > 0 {
				return &exitError{code: exitFailed, err: fmt.Errorf("%d cases failed", failed), silent: true}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&files, "policy", nil, "`FILE` of rules; again for more")
	must(cmd.MarkFlagFilename("policy", "yaml", "yml"))
	outputFlag(cmd, &form, "text", "json", "jsonl")
	cmd.ValidArgsFunction = completeYAML
	return cmd
}

func (c *cli) printCases(rows []caseRow) error {
	for _, r := range rows {
		word := "ok  "
		if !r.Passed {
			word = "FAIL"
		}
		if _, err := fmt.Fprintf(c.out, "%s  %s:%d  %s: %s by %s\n", word, visible(r.File), r.Line, visible(r.Name), r.Got, visible(r.Rule)); err != nil {
			return fmt.Errorf("print: %w", err)
		}
		if r.Problem != "" {
			if _, err := fmt.Fprintf(c.out, "      %s\n", visible(r.Problem)); err != nil {
				return fmt.Errorf("print: %w", err)
			}
		}
	}
	return nil
}
