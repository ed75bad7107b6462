package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var (
	idPattern   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,99}$`)
	namePattern = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,62}$`)
	// projectPattern takes today's project ids and the older domain-scoped ones
	// ("example.com:name"); whether a project exists is BigQuery's to say.
	projectPattern = regexp.MustCompile(`^([a-z0-9.-]{1,63}:)?[a-z0-9][a-z0-9-]{0,62}$`)
)

// at finds the line of a key, or of the nearest thing around it.
func (d *decoder) at(key string) int {
	for key != "" {
		if line, ok := d.lines[key]; ok {
			return line
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return 0
}

func (d *decoder) invalid(key, format string, args ...any) {
	d.errorf(d.at(key), key, format, args...)
}

func (d *decoder) validate(c *Config) {
	if !idPattern.MatchString(c.ID) {
		d.invalid("id", "%q: want letters, digits, '.', '_', '/' and '-', at most 100", c.ID)
	}
	if c.DataDir == "" {
		d.invalid("data_dir", "must not be empty")
	}
	d.listener("gateway", c.Gateway.Listen, c.Gateway.TLS, c.Gateway.Plaintext)
	if !c.Admin.Off() {
		d.listener("admin", c.Admin.Listen, c.Admin.TLS, c.Admin.Plaintext)
		if c.Admin.Listen == c.Gateway.Listen && !strings.HasSuffix(c.Admin.Listen, ":0") {
			d.invalid("admin.listen", "the same as gateway.listen; agents and humans must not share a listener")
		}
	}
	d.publicURL(c.Gateway)
	d.adminURL(c.Admin)
	d.connections(c.Connections)
	d.identity(c)
	d.federation(c)
	d.login(c)
	d.policy(c)
	d.recording(c)
	d.reconcile(c)
	d.connectors(c)
	d.between("sessions.idle_timeout", c.Sessions.IdleTimeout, time.Second, 7*24*time.Hour)
	d.between("shutdown.drain_timeout", c.Shutdown.DrainTimeout, 0, time.Hour)
	d.between("trail.checkpoint_interval", c.Trail.CheckpointInterval, 100*time.Millisecond, time.Hour)
	d.size("trail.segment_bytes", c.Trail.SegmentBytes, 1<<20, 1<<30)
	d.size("trail.min_free_bytes", c.Trail.MinFreeBytes, 0, 1<<50)
	d.size("trail.max_journal_bytes", c.Trail.MaxJournalBytes, 2*c.Trail.SegmentBytes, 1<<50)
	d.witnesses(c.Trail)
	d.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	d.oneOf("log.format", c.Log.Format, "text", "json")
}

func (d *decoder) listener(section, listen string, tls TLS, plaintext bool) {
	key := section + ".listen"
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		d.invalid(key, "%q: want host:port, such as 127.0.0.1:8470", listen)
		return
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || strconv.FormatUint(n, 10) != port {
		d.invalid(key, "%q: the port must be a number from 0 to 65535", listen)
	}
	if (tls.CertFile == "") != (tls.KeyFile == "") {
		d.invalid(section+".tls", "name both cert_file and key_file, or neither")
	}
	if !tls.On() && !plaintext && !isLoopback(host) {
		d.invalid(key, "%q is reachable from other machines, and tokens would travel in the clear; "+
			"set %s.tls, or %s.plaintext: true where something in front terminates TLS", listen, section, section)
	}
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// isWildcard reports whether a listener's host names no host that a client could use.
func isWildcard(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.Unmap().IsUnspecified()
}

func (d *decoder) publicURL(g Gateway) {
	const key = "gateway.public_url"
	if g.PublicURL == "" {
		if host, _, err := net.SplitHostPort(g.Listen); err == nil && isWildcard(host) {
			d.invalid("gateway.listen", "%q names no host that agents could use; set %s too", g.Listen, key)
		}
		return
	}
	if _, problem := rootURL(g.PublicURL); problem != "" {
		d.invalid(key, "%s", problem)
	}
}

func (d *decoder) adminURL(a Admin) {
	if a.PublicURL == "" {
		return
	}
	if _, problem := rootURL(a.PublicURL); problem != "" {
		d.invalid("admin.public_url", "%s", problem)
	}
}

// rootURL parses an absolute http or https URL with nothing behind the host.
// What is wrong with it is told without repeating it: it may hold a password.
func rootURL(s string) (u *url.URL, problem string) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, "want http://host:port or https://host:port"
	case u.User != nil:
		return nil, "must not hold a user or password; secrets belong in files"
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "", u.ForceQuery:
		return nil, "must not have a path, query or fragment"
	}
	return u, ""
}

func (d *decoder) connections(conns []Connection) {
	names := map[string]bool{}
	owner := map[string]string{}
	for i, conn := range conns {
		key := fmt.Sprintf("connections[%d]", i)
		switch {
		case conn.Name == "":
			d.invalid(key+".name", "missing; every connection needs a name")
		case !namePattern.MatchString(conn.Name):
			d.invalid(key+".name", "%q: want a lower-case letter, then lower-case letters, digits, '_' and '-', at most 63", conn.Name)
		case names[conn.Name]:
			d.invalid(key+".name", "%q is the name of an earlier connection", conn.Name)
		}
		names[conn.Name] = true
		if len(conn.Projects) == 0 {
			d.invalid(key+".projects", "missing; list the Google Cloud projects that calls may name")
		}
		for j, project := range conn.Projects {
			pkey := fmt.Sprintf("%s.projects[%d]", key, j)
			if project != AllProjects && !projectPattern.MatchString(project) {
				d.invalid(pkey, "%q is not a project id; use \"*\" for all", project)
			}
			if other, taken := owner[project]; taken {
				d.invalid(pkey, "%q belongs to connection %q already", project, other)
			}
			owner[project] = conn.Name
		}
		d.upstream(key, conn)
	}
}

func (d *decoder) upstream(key string, conn Connection) {
	u, problem := rootURL(conn.Upstream)
	if problem != "" {
		d.invalid(key+".upstream", "%s", problem)
	} else if u.Scheme == "http" && !isLoopback(u.Hostname()) && !(conn.Connectors && isAddress(u.Hostname())) { // where a connector may go is for its own file to say
		d.invalid(key+".upstream", "%q: plain http is for this machine alone; use https", conn.Upstream)
	}
}

func (d *decoder) between(key string, v, low, high time.Duration) {
	if v < low || v > high {
		d.invalid(key, "%v: want %v to %v", v, low, high)
	}
}

func (d *decoder) size(key string, v, low, high Bytes) {
	if v < low || v > high {
		d.invalid(key, "%v: want %v to %v", v, low, high)
	}
}

func (d *decoder) oneOf(key, v string, allowed ...string) {
	if !slices.Contains(allowed, v) {
		d.invalid(key, "%q: want one of %s", v, strings.Join(allowed, ", "))
	}
}
