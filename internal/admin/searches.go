package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/trailgate/trailgate/internal/index"
	"github.com/trailgate/trailgate/internal/trail/durable"
)

const (
	actionSaved       = "search.list"
	actionSave        = "search.save"
	actionSavedRemove = "search.remove"

	maxSaved      = 1_000
	maxSavedOwn   = 100
	maxSavedName  = 80
	maxSavedBytes = 16 << 20
)

// searches are the saved ones, in one file that is replaced whole at each change. What
// is in it is a convenience: a file that cannot be read is an error to whoever asks,
// and nothing else.
type searches struct {
	path string
	fs   durable.FS

	mu     sync.Mutex // guards the rest
	loaded bool
	list   []savedSearch
}

func (s *searches) loadLocked() error {
	if s.loaded {
		return nil
	}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.loaded = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("read saved searches: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSavedBytes))
	if err == nil {
		err = json.Unmarshal(raw, &s.list)
	}
	if err != nil {
		return fmt.Errorf("read saved searches: %w; move %s away to begin anew", err, s.path)
	}
	s.loaded = true
	return nil
}

// changeLocked puts another list in place: a crash leaves it, or the one before.
func (s *searches) changeLocked(list []savedSearch) error {
	raw, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		return err
	}
	if err := s.fs.WriteFile(s.path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("save search: %w", err)
	}
	s.list = list
	return nil
}

func (a *API) saved() (*searches, error) {
	if a.searches.path == "" {
		return nil, &Error{Code: http.StatusNotFound, Message: "searches are not saved here"}
	}
	return &a.searches, nil
}

// listSearches is GET searches: the caller's own, and those that are shared.
func (a *API) listSearches(w http.ResponseWriter, r *request) error {
	s, err := a.saved()
	if err != nil {
		return err
	}
	if _, err := a.record(r, actionSaved, "", nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.loadLocked(); err != nil {
		return err
	}
	out := struct {
		Searches []savedSearch `json:"searches"`
	}{[]savedSearch{}}
	for _, x := range s.list {
		if x.Shared || x.Owner == r.who.actor {
			out.Searches = append(out.Searches, x)
		}
	}
	return reply(w, http.StatusOK, out)
}

// saveSearch is POST searches.
func (a *API) saveSearch(w http.ResponseWriter, r *request) error {
	s, err := a.saved()
	if err != nil {
		return err
	}
	var in struct {
		Name   string `json:"name"`
		Filter string `json:"filter"`
		Shared bool   `json:"shared"`
	}
	if err := decode(w, r, &in, false); err != nil {
		return err
	}
	in.Name = strings.TrimSpace(in.Name)
	if in.Name == "" || len(in.Name) > maxSavedName || printableWord(in.Name) != in.Name {
		return invalid(fmt.Sprintf("name: want a name of at most %d bytes", maxSavedName))
	}
	if _, _, err := a.cfg.Index.Search(r.Context(), index.Query{Filter: in.Filter, PageSize: 1}); err != nil {
		return err
	}
	x := savedSearch{ID: "sea_" + strings.ToLower(secret()[:22]), Name: in.Name, Filter: in.Filter, Owner: r.who.actor, Shared: in.Shared, At: a.cfg.Now().UTC()}
	x.ID = strings.Map(func(c rune) rune {
		if c == '-' {
			return 'x'
		}
		return c
	}, x.ID)
	err = a.change(r, actionSave, x.ID, map[string]string{"name": x.Name, "filter": x.Filter}, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.loadLocked(); err != nil {
			return err
		}
		own := 0
		for _, y := range s.list {
			if y.Owner == x.Owner {
				own++
			}
		}
		if own >= maxSavedOwn || len(s.list) >= maxSaved {
			return &Error{Code: http.StatusTooManyRequests, Message: "there are as many saved searches as there can be; remove some"}
		}
		return s.changeLocked(append(slices.Clone(s.list), x))
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, x)
}

// removeSearch is POST searches/{search_id}:remove.
func (a *API) removeSearch(w http.ResponseWriter, r *request) error {
	s, err := a.saved()
	if err != nil {
		return err
	}
	if err := decode(w, r, &struct{}{}, true); err != nil {
		return err
	}
	id := r.args["search_id"]
	err = a.change(r, actionSavedRemove, id, nil, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.loadLocked(); err != nil {
			return err
		}
		i := slices.IndexFunc(s.list, func(x savedSearch) bool { return x.ID == id && ownSearch(r.who, x) })
		if i < 0 {
			return &Error{Code: http.StatusNotFound, Message: "you have saved no such search"}
		}
		return s.changeLocked(slices.Delete(slices.Clone(s.list), i, i+1))
	})
	if err != nil {
		return err
	}
	return reply(w, http.StatusOK, struct{}{})
}
