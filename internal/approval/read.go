package approval

import "fmt"

// Find gives the open request about a call, as it is now, without its body.
func (s *Store) Find(k Key) (Request, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.keys[k.key()]
	if sl == nil || sl.cur == nil {
		return Request{}, false
	}
	r := s.viewLocked(sl)
	if !r.State.Open() {
		return Request{}, false
	}
	return r.clone(), true
}

// Body gives the body of an open request's call, for whoever must look at it again
// before it is claimed.
func (s *Store) Body(id string) ([]byte, error) {
	r, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	body, err := s.readBody(&r)
	if err != nil {
		return nil, fmt.Errorf("read the call of approval %s: %w", r.ID, err)
	}
	return body, nil
}
