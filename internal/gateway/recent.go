package gateway

import (
	"container/list"
	"crypto/sha256"
)

// keptBytes is about what one thing that is kept takes beside its key and value: its
// place in the map and in the list.
const keptBytes = 224

// recent is a map that forgets what was not used for longest. It is not safe for
// concurrent use.
type recent[V any] struct {
	most int // how many are kept
	// room bounds what they take together, in bytes: agents choose how long their job
	// ids and lists of tables are. 0: the values are small, and so are the keys.
	room int
	size func(V) int // of a value, bytes. Optional.

	at    map[string]*list.Element
	used  list.List // of *kept, the latest used first
	bytes int       // taken, where there is a room
}

type kept[V any] struct {
	key   string
	value V
	bytes int
}

// get returns what is kept under key, made by fresh where there is nothing.
func (r *recent[V]) get(key string, fresh func() V) V {
	if v, ok := r.look(key); ok {
		return v
	}
	v := fresh()
	r.put(key, v)
	return v
}

// look returns what is kept under key, as used just now.
func (r *recent[V]) look(key string) (v V, ok bool) {
	el, ok := r.at[key]
	if !ok {
		return v, false
	}
	r.used.MoveToFront(el)
	return el.Value.(*kept[V]).value, true
}

// peek is look for who does not use it.
func (r *recent[V]) peek(key string) (v V, ok bool) {
	el, ok := r.at[key]
	if !ok {
		return v, false
	}
	return el.Value.(*kept[V]).value, true
}

// put keeps v under key, in place of what is kept there. What is larger than all the
// room is not kept.
func (r *recent[V]) put(key string, v V) {
	r.drop(key)
	if r.at == nil {
		r.at = map[string]*list.Element{}
	}
	x := &kept[V]{key: key, value: v}
	if r.room > 0 {
		x.bytes = keptBytes + len(key)
		if r.size != nil {
			x.bytes += r.size(v)
		}
		r.bytes += x.bytes
	}
	r.at[key] = r.used.PushFront(x)
	for r.used.Len() > r.most || r.bytes > r.room { // both are 0 without a room
		r.remove(r.used.Back())
	}
}

func (r *recent[V]) drop(key string) {
	if el, ok := r.at[key]; ok {
		r.remove(el)
	}
}

func (r *recent[V]) remove(el *list.Element) {
	x := r.used.Remove(el).(*kept[V])
	r.bytes -= x.bytes
	delete(r.at, x.key)
}

// short is a key of fixed length for what an agent, or BigQuery, chose the length of.
func short(key string) string {
	sum := sha256.Sum256([]byte(key))
	return string(sum[:])
}
