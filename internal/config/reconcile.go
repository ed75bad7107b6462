package config

import (
	"fmt"
	"regexp"
	"time"
)

// Reconcile says when BigQuery's own records are compared with the trail. Which
// connections are, and as whom, is each connection's to say.
type Reconcile struct {
	// Every is how often; 0: only when somebody asks. Default 1h.
	Every time.Duration `yaml:"every"`
	// Window is how far back the first run looks, at most 180 days. Default 24h.
	Window time.Duration `yaml:"window"`
	// Grace is how far behind the present a run ends: calls younger than that may
	// still be under way. Default 10m.
	Grace time.Duration `yaml:"grace"`
	// Late is how long BigQuery may take to show a job; a run looks at that much again.
	// Default 1h.
	Late time.Duration `yaml:"late"`
}

// What a connection's reconciliation reads.
const (
	ReconcileJobs = "jobs"               // the job list
	ReconcileView = "information-schema" // INFORMATION_SCHEMA.JOBS_BY_PROJECT of a region
)

// ConnectionReconcile says how a connection's jobs are compared. It is not compared
// where it has no credential.
type ConnectionReconcile struct {
	// Source is one of the Reconcile constants. Default "jobs".
	Source string `yaml:"source"`
	// Region is where the data is, for "information-schema": "us", "europe-west1".
	Region string `yaml:"region"`
	// Projects are looked at. Default: the connection's, but for "*".
	Projects []string `yaml:"projects"`
	// Principals are agents' beside those that the trail knows, by e-mail or
	// "principal://…"; Ignore are no agents' although the trail knows them.
	Principals []string `yaml:"principals"`
	Ignore     []string `yaml:"ignore"`
	// Credential is of somebody who may list all jobs.
	Credential Auditor `yaml:"credential"`
}

// Auditor is a credential that may list all jobs of a project. The modes are
// "impersonation", "static", "adc" and "none", with the keys as those of a
// connection's credential, and "connector" where the connection's connectors make it
// (their auditor).
type Auditor struct {
	Mode           string   `yaml:"mode"` // required
	TokenFile      Path     `yaml:"token_file"`
	CredentialFile Path     `yaml:"credential_file"`
	ServiceAccount string   `yaml:"service_account"`
	Delegates      []string `yaml:"delegates"`
}

// On reports whether the connection is compared.
func (r ConnectionReconcile) On() bool { return r.Credential.Mode != "" }

// ReconciledProjects are the projects of the connection that are looked at.
func (c Connection) ReconciledProjects() []string {
	projects := c.Reconcile.Projects
	if len(projects) == 0 {
		projects = c.Projects
	}
	var out []string
	for _, p := range projects {
		if p != AllProjects {
			out = append(out, p)
		}
	}
	return out
}

func defaultReconcile() Reconcile {
	return Reconcile{Every: time.Hour, Window: 24 * time.Hour, Grace: 10 * time.Minute, Late: time.Hour}
}

func defaultConnectionReconcile() ConnectionReconcile {
	return ConnectionReconcile{Source: ReconcileJobs}
}

var regionPattern = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// maxJobHistory is how long BigQuery shows jobs.
const maxJobHistory = 180 * 24 * time.Hour

func (d *decoder) reconcile(c *Config) {
	r := c.Reconcile
	if r.Every != 0 {
		d.between("reconcile.every", r.Every, time.Minute, 7*24*time.Hour)
	}
	d.between("reconcile.window", r.Window, time.Hour, maxJobHistory)
	d.between("reconcile.grace", r.Grace, 0, 24*time.Hour)
	d.between("reconcile.late", r.Late, 0, 24*time.Hour)
	for i, conn := range c.Connections {
		d.connectionReconcile(fmt.Sprintf("connections[%d].reconcile", i), conn)
	}
}

func (d *decoder) connectionReconcile(key string, conn Connection) {
	r := conn.Reconcile
	d.oneOf(key+".source", r.Source, ReconcileJobs, ReconcileView)
	switch {
	case r.Source == ReconcileView && !regionPattern.MatchString(r.Region):
		d.invalid(key+".region", "%q: want the region of the data in lower case, such as us or europe-west1", r.Region)
	case r.Source != ReconcileView && r.Region != "":
		d.invalid(key+".region", "is for source: information-schema alone; the job list has all regions")
	}
	for j, p := range r.Projects {
		if !projectPattern.MatchString(p) {
			d.invalid(fmt.Sprintf("%s.projects[%d]", key, j), "%q is not a project id", p)
		}
	}
	for name, list := range map[string][]string{"principals": r.Principals, "ignore": r.Ignore} {
		if len(list) > maxList {
			d.invalid(key+"."+name, "more than %d", maxList)
		}
		for j, p := range list {
			if p == "" || len(p) > 500 {
				d.invalid(fmt.Sprintf("%s.%s[%d]", key, name, j), "want an e-mail address, or principal://…")
			}
		}
	}
	if r.On() && len(conn.ReconciledProjects()) == 0 {
		d.invalid(key+".projects", "missing; the connection serves \"*\", so name the projects whose jobs are looked at")
	}
	a := r.Credential
	key += ".credential"
	byConnector := conn.Credential.Mode == CredentialConnector
	switch {
	case a.Mode == "":
		if a.TokenFile != "" || a.CredentialFile != "" || a.ServiceAccount != "" || len(a.Delegates) > 0 || len(r.Projects)+len(r.Principals)+len(r.Ignore) > 0 || r.Region != "" {
			d.invalid(key+".mode", "missing; want one of impersonation, static, adc, none, connector")
		}
		return
	case byConnector && a.Mode != CredentialConnector:
		d.invalid(key+".mode", "%q: the connection's connectors make its credentials; want connector here, and auditor in their configuration", a.Mode)
		return
	case a.Mode == CredentialConnector && !byConnector:
		d.invalid(key+".mode", "mode connector is for connections whose own credential has that mode")
		return
	case a.Mode == CredentialConnector:
		if a.TokenFile != "" || a.CredentialFile != "" || a.ServiceAccount != "" || len(a.Delegates) > 0 {
			d.invalid(key+".mode", "mode connector reads no other key; auditor in the connector's configuration has them")
		}
		return
	}
	d.auditor(key, a)
}

// auditor checks a credential that is held here.
func (d *decoder) auditor(key string, a Auditor) {
	switch a.Mode {
	case CredentialImpersonation, CredentialStatic, CredentialADC, CredentialNone:
	default:
		d.oneOf(key+".mode", a.Mode, CredentialImpersonation, CredentialStatic, CredentialADC, CredentialNone)
		return
	}
	if (a.Mode == CredentialStatic) != (a.TokenFile != "") {
		d.invalid(key+".token_file", "belongs to mode static, which needs it")
	}
	if (a.Mode == CredentialImpersonation) != (a.ServiceAccount != "") {
		d.invalid(key+".service_account", "belongs to mode impersonation, which needs it: an account that may list all jobs")
	}
	if a.Mode != CredentialImpersonation && len(a.Delegates) > 0 {
		d.invalid(key+".delegates", "belongs to mode impersonation")
	}
	if a.CredentialFile != "" && a.Mode != CredentialImpersonation && a.Mode != CredentialADC {
		d.invalid(key+".credential_file", "belongs to modes impersonation and adc")
	}
}
