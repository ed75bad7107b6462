package config

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Policy says what agents may do.
type Policy struct {
	// Rules are tried before those of Files.
	Rules Rules `yaml:"rules"`
	// Files hold rules, in this order (docs/spec/policy.md). Without these and
	// Rules the starter policy holds that is shipped: it allows reads and asks for
	// changes.
	Files []Path `yaml:"files"`
	// RecordOnly allows every call whose method is known, and records it: for
	// finding out what agents do before rules are written. Default false.
	RecordOnly bool `yaml:"record_only"`
}

// Rules are rules of a policy in the configuration itself: a policy file's text, whose
// lines are numbered as those of the configuration.
type Rules string

// Approval says how calls wait for a human.
type Approval struct {
	// Wait is how long a call other than jobs.insert is kept waiting before the
	// agent is told to come again. Default 30s.
	Wait time.Duration `yaml:"wait"`
	// ReleaseWindow is how long an approval may be used once it was given. Default 1h.
	ReleaseWindow time.Duration `yaml:"release_window"`
	Webhooks      []Webhook     `yaml:"webhooks"`
}

// Webhook is told of calls that wait, and of what became of them (docs/spec/webhooks.md).
type Webhook struct {
	Name string `yaml:"name"`
	// URL is https, or http on loopback.
	URL string `yaml:"url"`
	// SecretFile holds the key that signs what is sent, "whsec_" and base64.
	SecretFile Path `yaml:"secret_file"`
	// Format is "slack" (default) or "json".
	Format string `yaml:"format"`
	// Events are the kinds of notice; none: all.
	Events []string `yaml:"events"`
}

// Budget bounds the bytes billed in a period.
type Budget struct {
	Name string `yaml:"name"`
	// Per is whose calls are counted together: "agent" (default: each agent has a
	// count of its own), "human", "connection", or "all".
	Per string `yaml:"per"`
	// Agents, Humans and Connections say for which calls the budget holds, "*"
	// standing for any characters; none: for all.
	Agents      []string `yaml:"agents"`
	Humans      []string `yaml:"humans"`
	Connections []string `yaml:"connections"`
	// Limit is in bytes billed, such as 5TB; required.
	Limit Bytes `yaml:"limit"`
	// Period is "day" (default) or "month", as the clock in Zone (default UTC) has it.
	Period string `yaml:"period"`
	Zone   string `yaml:"zone"`
	// Warn is the share at which the warning level is reached. Default "80%".
	Warn string `yaml:"warn"`
}

// Location is Zone; [Load] checked that it is known.
func (b Budget) Location() *time.Location {
	loc, err := time.LoadLocation(b.Zone)
	if err != nil {
		return time.UTC
	}
	return loc
}

// WarnShare is Warn as a share of 1; [Load] checked that it can be read.
func (b Budget) WarnShare() float64 {
	n, err := strconv.Atoi(strings.TrimSuffix(b.Warn, "%"))
	if err != nil {
		return 1
	}
	return float64(n) / 100
}

// Whose calls a budget counts together, and for how long.
const (
	PerAgent      = "agent"
	PerHuman      = "human"
	PerConnection = "connection"
	PerAll        = "all"
	PeriodDay     = "day"
	PeriodMonth   = "month"
)

func defaultApproval() Approval {
	return Approval{Wait: 30 * time.Second, ReleaseWindow: time.Hour}
}

func defaultWebhook() Webhook { return Webhook{Format: "slack"} }

func defaultBudget() Budget {
	return Budget{Per: PerAgent, Period: PeriodDay, Zone: "UTC", Warn: "80%"}
}

func (d *decoder) policy(c *Config) {
	if len(c.Policy.Files) > maxList {
		d.invalid("policy.files", "more than %d files", maxList)
	}
	if c.Policy.RecordOnly && (len(c.Policy.Files) > 0 || c.Policy.Rules != "") {
		d.invalid("policy.record_only", "allows every call, so rules would not count; take out one of the two")
	}
	d.between("approval.wait", c.Approval.Wait, 0, 10*time.Minute)
	d.between("approval.release_window", c.Approval.ReleaseWindow, time.Minute, 7*24*time.Hour)
	if len(c.Approval.Webhooks) > maxList || len(c.Budgets) > maxList {
		d.invalid("approval", "more than %d webhooks or budgets", maxList)
	}
	names := map[string]bool{}
	for i, w := range c.Approval.Webhooks {
		key := fmt.Sprintf("approval.webhooks[%d]", i)
		d.ownName(key, w.Name, names)
		u, err := url.Parse(w.URL)
		switch {
		case err != nil, u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http", u.User != nil, u.Fragment != "":
			d.invalid(key+".url", "want an https URL without a password") // it may hold a secret, so it is not repeated
		case u.Scheme == "http" && !isLoopback(u.Hostname()):
			d.invalid(key+".url", "want https: what is sent holds statements")
		}
		if w.SecretFile == "" {
			d.invalid(key+".secret_file", "missing; it holds the key that signs what is sent")
		}
		d.oneOf(key+".format", w.Format, "slack", "json")
	}
	names = map[string]bool{}
	for i, b := range c.Budgets {
		key := fmt.Sprintf("budgets[%d]", i)
		d.ownName(key, b.Name, names)
		d.oneOf(key+".per", b.Per, PerAgent, PerHuman, PerConnection, PerAll)
		d.oneOf(key+".period", b.Period, PeriodDay, PeriodMonth)
		if b.Limit <= 0 {
			d.invalid(key+".limit", "missing; want bytes billed, such as 5TB")
		}
		if _, err := time.LoadLocation(b.Zone); err != nil || b.Zone == "" || b.Zone == "Local" {
			d.invalid(key+".zone", "%q: want an IANA time zone, such as Europe/Berlin", b.Zone)
		}
		if n, err := strconv.Atoi(strings.TrimSuffix(b.Warn, "%")); err != nil || n < 1 || n > 100 || !strings.HasSuffix(b.Warn, "%") {
			d.invalid(key+".warn", "%q: want a percentage from 1%% to 100%%", b.Warn)
		}
	}
}
