package admin

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/index"
)

// entries is GET entries: one page of rows.
func (a *API) entries(w http.ResponseWriter, r *request) error {
	q := index.Query{Filter: r.query.Get("filter"), PageToken: r.query.Get("page_token")}
	if s := r.query.Get("page_size"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			return invalid("page_size: want a number of rows, 0 for the default of " + strconv.Itoa(index.DefaultPageSize))
		}
		q.PageSize = min(n, index.MaxPageSize)
	}
	if q.PageSize == 0 {
		q.PageSize = index.DefaultPageSize
	}
	switch r.query.Get("order") {
	case "", "desc":
	case "asc":
		q.Ascending = true
	default:
		return invalid("order: want asc or desc")
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	detail := map[string]string{"filter": q.Filter, "order": r.query.Get("order")}
	if q.PageToken != "" {
		detail["page"] = "next"
	}
	if _, err := a.record(r, actionSearch, "", detail); err != nil {
		return err
	}
	rows, next, err := a.cfg.Index.Search(r.Context(), q)
	if err != nil {
		return err
	}
	if rows == nil {
		rows = []index.Row{}
	}
	return reply(w, http.StatusOK, struct {
		Entries []index.Row `json:"entries"`
		Next    string      `json:"next_page_token"`
	}{rows, next})
}

// stats is GET stats: sums over calls.
func (a *API) stats(w http.ResponseWriter, r *request) error {
	var by []string
	if s := r.query.Get("by"); s != "" {
		by = strings.Split(s, ",")
	}
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	filter := r.query.Get("filter")
	if _, err := a.record(r, actionStats, "", map[string]string{"filter": filter, "by": r.query.Get("by")}); err != nil {
		return err
	}
	groups, err := a.cfg.Index.Stats(r.Context(), by, filter)
	if err != nil {
		return err
	}
	if groups == nil {
		groups = []index.Group{}
	}
	return reply(w, http.StatusOK, struct {
		Groups []index.Group `json:"groups"`
	}{groups})
}

// shownStatement is a statement with its text, wherever that is kept.
type shownStatement struct {
	Where      string `json:"where"`
	SHA256     string `json:"sha256"`
	Length     int64  `json:"length"`
	Dialect    string `json:"dialect,omitempty"`
	Text       string `json:"text,omitempty"`
	Parameters string `json:"parameters,omitempty"`
	// Missing says why a stored text or its parameters are not here.
	Missing string `json:"missing,omitempty"`
}

// maxShownBytes is how much stored text one answer carries. What is beyond it
// can be had as blobs.
const maxShownBytes = 32 << 20

// entry is GET entries/{id}: a call with all its stages.
func (a *API) entry(w http.ResponseWriter, r *request) error {
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	stages, err := a.look(r, actionShow)
	if err != nil {
		return err
	}
	state, err := a.state(r.Context(), stages[0])
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct {
		ID         string             `json:"id"`
		State      string             `json:"state"`
		Stages     []*trailgate.Entry `json:"stages"`
		Statements []shownStatement   `json:"statements"`
	}{stages[0].ID, state, stages, a.statements(r.Context(), stages)})
}

// look records that an entry is asked for, and finds its stages; at least one.
func (a *API) look(r *request, action string) ([]*trailgate.Entry, error) {
	id := r.args["id"]
	if _, err := a.record(r, action, id, nil); err != nil {
		return nil, err
	}
	stages, err := a.cfg.Index.Lookup(r.Context(), id)
	if err != nil {
		return nil, err
	}
	if len(stages) == 0 {
		return nil, index.ErrNotFound
	}
	return stages, nil
}

// state asks the index how the call stands that an entry opened.
func (a *API) state(ctx context.Context, opening *trailgate.Entry) (string, error) {
	rows, _, err := a.cfg.Index.Search(ctx, index.Query{Filter: "id = " + strconv.Quote(opening.ID), PageSize: 1})
	if err != nil {
		return "", err
	}
	if len(rows) == 0 {
		return "", index.ErrNotFound
	}
	return rows[0].State, nil
}

// statements gathers the statements of all stages, each once, with their text.
func (a *API) statements(ctx context.Context, stages []*trailgate.Entry) []shownStatement {
	out := []shownStatement{}
	left := maxShownBytes
	seen := map[[2]string]bool{}
	for _, e := range stages {
		for _, s := range e.Statements {
			key := [2]string{s.Where, s.SHA256}
			if seen[key] {
				continue
			}
			seen[key] = true
			one := shownStatement{Where: s.Where, SHA256: s.SHA256, Length: s.Length, Dialect: s.Dialect, Text: s.Text, Parameters: s.Parameters}
			if s.Blob != "" {
				one.Text = a.stored(ctx, s.Blob, &left, &one.Missing)
			}
			if s.ParametersBlob != "" {
				one.Parameters = a.stored(ctx, s.ParametersBlob, &left, &one.Missing)
			}
			out = append(out, one)
		}
	}
	return out
}

// stored reads a stored text. A body that is gone or was changed does not keep
// the rest from being shown: it is told in its place.
func (a *API) stored(ctx context.Context, sha string, left *int, missing *string) string {
	if *left <= 0 {
		*missing = "left out: the answer is too large; see blobs/" + sha
		return ""
	}
	raw, err := a.cfg.Trail.GetBlob(ctx, sha)
	switch {
	case err != nil:
		*missing = err.Error()
		return ""
	case len(raw) > *left:
		*missing = "left out: the answer is too large; see blobs/" + sha
		return ""
	}
	*left -= len(raw)
	return string(raw)
}

// proofTimeout bounds the wait for a checkpoint that covers an entry.
const proofTimeout = 20 * time.Second

// proof is GET entries/{id}/proof: the proofs of all stages.
func (a *API) proof(w http.ResponseWriter, r *request) error {
	if !a.busy.enter() {
		return busy()
	}
	defer a.busy.leave()
	stages, err := a.look(r, actionProve)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(r.Context(), proofTimeout)
	defer cancel()
	proofs := make([]*trailgate.Proof, len(stages))
	for i, e := range stages {
		if proofs[i], err = a.cfg.Trail.Prove(ctx, e.Seq); err != nil {
			return err
		}
	}
	return reply(w, http.StatusOK, struct {
		Proofs    []*trailgate.Proof `json:"proofs"`
		PublicKey string             `json:"public_key"`
	}{proofs, a.cfg.Trail.PublicKey()})
}
