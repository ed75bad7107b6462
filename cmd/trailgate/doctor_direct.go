package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/gateway"
)

// Whether BigQuery can be used past the gateway, tried from where an agent runs.

// directOptions are the flags of "doctor --direct".
type directOptions struct {
	on        bool
	upstreams []string
	projects  []string
}

// servesBigQuery are Google's names for BigQuery's API: the second is the older one,
// and answers still.
var servesBigQuery = []string{"https://bigquery.googleapis.com", "https://www.googleapis.com"}

// maxListed is how many of the projects that BigQuery shows are tried, where none
// was named.
const maxListed = 3

// prepare fills in what was not said, and refuses what makes no sense.
func (o *directOptions) prepare(getenv func(string) string) error {
	if len(o.upstreams) == 0 {
		o.upstreams = servesBigQuery
	}
	for i, at := range o.upstreams {
		u, err := url.Parse(at)
		if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
			return usagef("doctor: --upstream %q: want a URL such as %s", at, servesBigQuery[0])
		}
		if own, err := url.Parse(getenv("TRAILGATE_GATEWAY")); err == nil && own.Host == u.Host {
			return usagef("doctor: --upstream %q is the gateway; name what lies behind it", at)
		}
		o.upstreams[i] = strings.TrimSuffix(at, "/")
	}
	if len(o.projects) == 0 {
		for _, name := range []string{"GOOGLE_CLOUD_PROJECT", "CLOUDSDK_CORE_PROJECT"} {
			if p := getenv(name); federation.IsProject(p) {
				o.projects = []string{p}
				break
			}
		}
	}
	for _, p := range o.projects {
		if !federation.IsProject(p) {
			return usagef("doctor: --project %q is not a project's id", p)
		}
	}
	return nil
}

// way is one way to BigQuery that is open, as far as the network goes.
type way struct {
	upstream string
	t        *http.Transport
}

// direct looks for roads past the gateway: a network that leads to BigQuery, and a
// Google credential in this environment that BigQuery takes. It needs both to be a
// road, so a credential is sent nowhere where the network is closed.
func (d *doctor) direct(ctx context.Context, o *directOptions, place federation.Place) {
	var open []way
	for _, at := range o.upstreams {
		open = append(open, d.network(ctx, at)...)
	}
	defer func() {
		for _, w := range open {
			w.t.CloseIdleConnections()
		}
	}()
	found, unread := federation.Find(ctx, place)
	for _, err := range unread {
		d.bad("direct: credentials", err, "run this as the agent runs: what it may read counts. A file that is not in use goes away")
	}
	if len(found) == 0 && len(unread) == 0 {
		d.good("direct: credentials", "none of Google's is in this environment: no variable, no file of gcloud's, no metadata server")
	}
	for _, f := range found {
		name := "direct: " + f.Where
		what := strings.ReplaceAll(f.Type, "_", " ")
		if f.Account != "" {
			what += " of " + f.Account
		}
		if len(open) == 0 {
			d.advise(name, what+"; it was not tried, since the network leads nowhere", f.Close())
			continue
		}
		d.tryFound(ctx, name, what, &f, open, o.projects)
	}
}

// network tries one of BigQuery's addresses, without a credential: straight, and by
// way of the proxy that the environment names.
func (d *doctor) network(ctx context.Context, at string) (open []way) {
	straight := gateway.NewTransport(checkTimeout)
	name := "direct: network to " + strings.TrimPrefix(strings.TrimPrefix(at, "https://"), "http://")
	d.reach(ctx, name, way{at, straight}, &open)
	if req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, http.NoBody); err == nil {
		if proxy, err := http.ProxyFromEnvironment(req); err == nil && proxy != nil {
			t := gateway.NewTransport(checkTimeout)
			t.Proxy = http.ProxyURL(proxy)
			d.reach(ctx, name+" by way of proxy "+proxy.Host, way{at, t}, &open)
		}
	}
	return open
}

func (d *doctor) reach(ctx context.Context, name string, w way, open *[]way) {
	resp, _, err := fetch(ctx, w.t, http.MethodGet, w.upstream+"/bigquery/v2/projects?maxResults=1")
	_, cert := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case cert:
		d.bad(name, fmt.Errorf("something answers there that does not show Google's certificate, so this cannot be told: %w", err),
			"if a proxy on the way looks into TLS, give its CA in SSL_CERT_FILE and try again")
	case err != nil:
		d.good(name, "closed: %v", err)
	default:
		*open = append(*open, w)
		d.advise(name, fmt.Sprintf("it answers (status %d), so only what Google refuses keeps agents from it", resp.StatusCode),
			"let agents reach the gateway and nothing of *.googleapis.com: an egress rule of the firewall, or a network policy (docs/gcp-setup.md#the-network)")
	}
}

// tryFound uses a credential that was found where the network is open: whether
// BigQuery takes it, and what it lets it do in each project. Nothing is changed and
// no data read: a list of one, and a query that is a dry run.
func (d *doctor) tryFound(ctx context.Context, name, what string, f *federation.Found, open []way, projects []string) {
	tokenCtx, cancel := context.WithTimeout(ctx, checkTimeout)
	token, err := f.Token(tokenCtx)
	cancel()
	if err != nil {
		if ctx.Err() == nil {
			d.bad(name, fmt.Errorf("%s; no token comes of it here, which may be for now only: %w", what, err), f.Close())
		}
		return
	}
	for _, w := range open {
		where := name
		if len(open) > 1 {
			where += " at " + strings.TrimPrefix(w.upstream, "https://")
			if w.t.Proxy != nil {
				where += ", by proxy"
			}
		}
		list := d.ask(ctx, w, token, http.MethodGet, "/bigquery/v2/projects?maxResults=50", nil)
		switch list.verdict {
		case refusedCredential:
			d.advise(where, what+"; BigQuery does not take it: "+list.text, f.Close())
			continue
		case cannotTell:
			d.bad(where, fmt.Errorf("%s; whether BigQuery takes it cannot be told: %s", what, list.text), f.Close())
			continue
		}
		tried, more := projects, 0
		if len(tried) == 0 {
			tried = list.projects[:min(maxListed, len(list.projects))]
			more = len(list.projects) - len(tried)
		}
		if len(tried) == 0 {
			d.bad(where, fmt.Errorf("%s; BigQuery takes it past the gateway, and shows no project of its own accord", what), f.Close()+"\n# then name the project that matters: trailgate doctor --direct --project PROJECT")
			continue
		}
		for _, p := range tried {
			d.tryProject(ctx, where+" in "+p, what, f, w, token, p)
		}
		if more > 0 {
			d.bad(where, fmt.Errorf("%s; BigQuery shows %d projects more, which were not tried", what, more), f.Close()+"\n# or name those that matter: --project, more than once")
		}
	}
}

// tryProject finds out what a credential may do in a project.
func (d *doctor) tryProject(ctx context.Context, name, what string, f *federation.Found, w way, token, project string) {
	path := "/bigquery/v2/projects/" + url.PathEscape(project)
	query := d.ask(ctx, w, token, http.MethodPost, path+"/queries", []byte(`{"query":"SELECT 1","useLegacySql":false,"dryRun":true}`))
	list := d.ask(ctx, w, token, http.MethodGet, path+"/datasets?maxResults=1", nil)
	both := []struct {
		probe
		can string
	}{{query, "runs queries"}, {list, "lists datasets"}}
	var may, unknown, closed []string
	for _, p := range both {
		switch p.verdict {
		case accepted:
			may = append(may, p.can)
		case cannotTell:
			unknown = append(unknown, p.can+": "+p.text)
		default:
			closed = append(closed, p.text)
		}
	}
	switch {
	case len(may) > 0:
		d.bad(name, fmt.Errorf("an open road: with this %s BigQuery %s past the gateway", what, strings.Join(may, " and ")), f.Close()+"\n"+f.CloseProject(project))
	case len(unknown) > 0:
		d.bad(name, fmt.Errorf("%s; it cannot be told whether BigQuery %s", what, strings.Join(unknown, "; ")), f.Close())
	case query.verdict == refusedPerimeter && list.verdict == refusedPerimeter:
		d.advise(name, what+"; closed from here by VPC Service Controls, so the credential is of no use here", f.Close())
	default:
		d.advise(name, what+"; BigQuery takes it, and closes this project to it: "+strings.Join(slices.Compact(closed), "; "), f.Close())
	}
}

// verdict is what BigQuery made of a call.
type verdict int

const (
	cannotTell        verdict = iota
	accepted                  // it did what was asked
	refusedCredential         // it knows nobody by it
	refusedPerimeter          // VPC Service Controls
	refusedIAM                // it knows who it is, and refuses
)

// probe is one answer.
type probe struct {
	verdict  verdict
	text     string
	projects []string // of projects.list
}

// ask makes one call with a credential that was found.
func (d *doctor) ask(ctx context.Context, w way, token, method, path string, body []byte) probe {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, w.upstream+path, bytes.NewReader(body))
	if err != nil {
		return probe{text: err.Error()}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("User-Agent", userAgent())
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := w.t.RoundTrip(req) // follows no redirect, which could lead the token elsewhere
	if err != nil {
		return probe{text: err.Error()}
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxProbe))
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return probe{text: err.Error()}
	}
	return judge(resp.StatusCode, raw, token)
}

// judge reads an answer of BigQuery's. What it does not know is not taken for a
// closed road.
func judge(status int, raw []byte, token string) probe {
	var answer struct {
		Projects []struct {
			Reference struct {
				ID string `json:"projectId"`
			} `json:"projectReference"`
		} `json:"projects"`
		Kind  string `json:"kind"`
		Error *struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	known := json.Unmarshal(raw, &answer) == nil
	p := probe{text: fmt.Sprintf("status %d", status)}
	if known && answer.Error != nil && answer.Error.Message != "" {
		text := strings.ReplaceAll(answer.Error.Message, token, "[secret]")
		if len(text) > 300 {
			text = strings.ToValidUTF8(text[:300], "") + "…"
		}
		p.text += ", " + text
	}
	switch {
	case status == http.StatusOK && known && strings.HasPrefix(answer.Kind, "bigquery#"):
		p.verdict = accepted
		for _, one := range answer.Projects {
			if federation.IsProject(one.Reference.ID) {
				p.projects = append(p.projects, one.Reference.ID)
			}
		}
	case answer.Error == nil: // no answer of Google's: a portal's page, say
	case status == http.StatusUnauthorized:
		p.verdict = refusedCredential
	case status == http.StatusForbidden && (bytes.Contains(raw, []byte("vpcServiceControlsUniqueIdentifier")) || bytes.Contains(raw, []byte("VPC Service Controls"))):
		p.verdict = refusedPerimeter
	case status == http.StatusForbidden || status == http.StatusNotFound:
		// 403 is also how BigQuery says that a quota is used up, which closes nothing.
		if !quotaReason.Match(raw) {
			p.verdict = refusedIAM
		}
	}
	return p
}

// quotaReason finds the reasons that BigQuery gives with 403 where it is not about
// who asks (https://cloud.google.com/bigquery/docs/error-messages).
var quotaReason = regexp.MustCompile(`"reason":\s*"(quotaExceeded|rateLimitExceeded|billingNotEnabled|billingTierLimitExceeded|responseTooLarge|blocked)"`)
