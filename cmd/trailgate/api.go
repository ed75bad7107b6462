package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
)

// remote is the admin API as commands use it, wherever it is.
type remote struct {
	*client.Client
	cfg     *config.Config // nil with --server
	caFile  string         // with --server: of a private CA, may be empty
	keyFile string         // the log's public key on this machine, if any
	parts   *parts         // set where the API runs in this process
	shut    func() error
}

// live reports whether a gateway answers, rather than this process.
func (r *remote) live() bool { return r.parts == nil }

func (r *remote) close() error {
	r.Client.Close()
	if r.shut == nil {
		return nil
	}
	if err := r.shut(); err != nil {
		return fmt.Errorf("close the data directory: %w", err)
	}
	return nil
}

// explainAPI gives what the API refuses its exit code, and says what to do
// about it. Other errors pass as they are.
func explainAPI(err error) error {
	if _, done := errors.AsType[*exitError](err); done {
		return err
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return hinted(err, "is it of a private CA? set %s to its ca.pem (tls/ca.pem beside the gateway's configuration)", caFileVariable)
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	out := &exitError{code: exitFailed, err: err}
	switch e.Code {
	case http.StatusBadRequest:
		out.code = exitUsage
	case http.StatusUnauthorized, http.StatusForbidden:
		out.code = exitDenied
		out.hint = adminTokenVariable + " must hold what stands in admin.token in the gateway's data directory"
	}
	return out
}

// explainFilter is explainAPI for an answer to a filter: a mistake in it is
// shown with its place in what the user typed.
func explainFilter(q query, err error) error {
	if e, ok := errors.AsType[*client.Error](err); ok && e.Column > 0 {
		return q.explain(e.Message, e.Column)
	}
	return explainAPI(err)
}

// ownsToken makes sure that a token is the named agent's before it is revoked.
func (r *remote) ownsToken(ctx context.Context, agent, id string) error {
	tokens, err := r.Tokens(ctx, agent)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(tokens, func(t client.Token) bool { return t.ID == id }) {
		return fmt.Errorf("%s has no token %s", agent, id)
	}
	return nil
}

var sessionTokenID = regexp.MustCompile(`^ses_[0-9a-z]{26}$`)

// ownsSession makes sure that a session token is not another agent's before it is
// revoked. One that is not found passes, and so does a search that fails: an
// emergency must not wait for the index.
func (r *remote) ownsSession(ctx context.Context, agent, id string) error {
	if !sessionTokenID.MatchString(id) {
		return usagef("--session %q: a session token's id is \"ses_\" and 26 characters; \"agent revoke\" takes a session token, not a session", id)
	}
	rows, _, err := r.Page(ctx, client.Query{Filter: `token_id = "` + id + `"`, PageSize: 1})
	if e, ok := errors.AsType[*client.Error](err); ok && e.Code == http.StatusBadRequest {
		return err
	}
	for _, row := range rows {
		if p := row.Entry.Principal; p != nil && p.Agent != agent {
			return fmt.Errorf("session token %s is %s's, not %s's", id, p.Agent, agent)
		}
	}
	return nil
}

// defaults are what an agent's clients get for want of a choice of their own:
// the first project of the connection that was named, or of the only one, and
// the CA that the gateway's certificate needs, where this machine has it.
func (r *remote) defaults(info *client.Gateway, connection string) (project, caFile string, err error) {
	if caFile = r.caFile; r.cfg != nil {
		caFile = r.cfg.Gateway.TLS.CAFile.String()
	}
	names := make([]string, 0, len(info.Connections))
	for _, c := range info.Connections {
		names = append(names, c.Name)
		if c.Name != connection && (connection != "" || len(info.Connections) > 1) {
			continue
		}
		for _, p := range c.Projects {
			if p != config.AllProjects {
				return p, caFile, nil
			}
		}
		return "", caFile, nil // clients have to name one
	}
	if connection != "" {
		return "", "", fmt.Errorf("no connection %q; there is %s", connection, strings.Join(names, ", "))
	}
	return "", caFile, nil
}
