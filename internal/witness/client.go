package witness

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/trailgate/trailgate"
)

const (
	defaultTimeout = 5 * time.Second
	defaultGrace   = 250 * time.Millisecond
	firstBackoff   = time.Second
	lastBackoff    = time.Minute
	maxTries       = 4 // of one checkpoint at one witness, each after an answer that names another size
)

// ClientConfig of [NewClient].
type ClientConfig struct {
	// Policy names the witnesses; each needs a URL.
	Policy *trailgate.WitnessPolicy
	// Log is the key of the log that asks.
	Log note.Verifier
	// HTTP makes the requests. Optional. Redirects are not followed in any case.
	HTTP *http.Client
	// Timeout bounds what one witness may take for one checkpoint. Default 5s.
	Timeout time.Duration
	// Grace is how long the other witnesses may take once a quorum is there. Default 250ms.
	Grace time.Duration
	Now   func() time.Time // Optional.
}

// Client asks the witnesses of a policy. It is safe for concurrent use, though one
// checkpoint at a time is all that makes sense.
type Client struct {
	cfg   ClientConfig
	peers []*peer
	slow  sync.WaitGroup // those who are asked
}

// peer is one witness, as the log sees it.
type peer struct {
	trailgate.PolicyWitness
	url string // of the submission prefix, without a slash at the end

	mu       sync.Mutex // guards all below
	size     uint64     // that the witness cosigned last, as far as is known
	status   Status
	failures int
	notUntil time.Time // a witness that failed is let alone for a while
	asking   bool
}

// Status is how a witness did lately.
type Status struct {
	Witness string // its name in the policy
	Key     string // its key's name
	URL     string
	Size    uint64    // of the tree that it cosigned last
	At      time.Time // when that was, by its clock; zero: not yet
	Error   string    // of the last try; "": it went well, or there was none
	Since   time.Time // of when on it fails; zero while it does not
	// Ahead is how many entries it has cosigned where that is more than the log has.
	Ahead uint64
	// Disputes says that the witness cosigned another tree than the log's.
	Disputes bool
}

// NewClient checks the policy.
func NewClient(cfg ClientConfig) (*Client, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Grace <= 0 {
		cfg.Grace = defaultGrace
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	client := http.Client{Transport: &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: cfg.Timeout}).DialContext,
		TLSHandshakeTimeout: cfg.Timeout, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 16 << 10, MaxIdleConnsPerHost: 2, ForceAttemptHTTP2: true,
	}}
	if cfg.HTTP != nil {
		client.Transport = cfg.HTTP.Transport
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.HTTP = &client
	c := &Client{cfg: cfg}
	for _, w := range cfg.Policy.Witnesses {
		u, err := url.Parse(w.URL)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fmt.Errorf("witness %s: %q: a log needs its witnesses' addresses: http or https, without password and query", w.Name, w.URL)
		}
		c.peers = append(c.peers, &peer{
			PolicyWitness: w, url: strings.TrimSuffix(w.URL, "/"),
			status: Status{Witness: w.Name, Key: w.Key.Name(), URL: w.URL},
		})
	}
	return c, nil
}

// Answer is what came of asking.
type Answer struct {
	// Raw is the checkpoint with the cosignatures that it got.
	Raw []byte
	// Cosignatures say whose those are, in the policy's order.
	Cosignatures []trailgate.Cosignature
	// Quorum says whether they satisfy the policy.
	Quorum bool
	// Failed says of each of the others, by name in the policy, why it did not.
	Failed map[string]string
	// Against are the witnesses that say to have cosigned a larger tree of this log, or
	// another one. That is a rollback or a fork of the log, or a witness that lies.
	Against []Contradiction
}

// Contradiction is a witness's word against the log's.
type Contradiction struct {
	Witness string
	// Size is how many entries the witness says that it cosigned.
	Size uint64
	// Proof is the checkpoint that the witness cosigned, signed by the log's own key: then
	// nothing depends on the witness's word. Empty where the witness shows none.
	Proof []byte
}

// Believed reports whether the contradictions count without further proof: one of
// them carries the log's own signature, or the witnesses would be a quorum.
func (c *Client) Believed(against []Contradiction) bool {
	if slices.ContainsFunc(against, func(a Contradiction) bool { return len(a.Proof) > 0 }) {
		return true
	}
	return len(against) > 0 && c.cfg.Policy.Satisfied(func(name string) bool {
		return slices.ContainsFunc(against, func(a Contradiction) bool { return a.Witness == name })
	})
}

// Cosign asks all witnesses for their cosignatures on a checkpoint of the log's,
// together. Prove makes a consistency proof from a smaller size; known is how many
// entries the log has all in all, which may be more than the checkpoint's. It returns when all
// have answered or run out of time, or a little after a quorum has. A witness that fails is
// left out for a while: a second at first, a minute at most; urgent asks it anyway.
func (c *Client) Cosign(ctx context.Context, cp *trailgate.Checkpoint, known uint64, urgent bool, prove func(old uint64) (tlog.TreeProof, error)) *Answer {
	a := &asking{c: c, cp: cp, known: known, prove: prove}
	results := make(chan result, len(c.peers))
	open := 0
	for _, p := range c.peers {
		if p.begin(c.cfg.Now(), urgent) {
			open++
			c.slow.Go(func() {
				// A time of its own: who is slow, and not away, may finish while the quorum's
				// checkpoint is published already, and be quick for the next.
				ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
				defer cancel()
				r := a.ask(ctx, p)
				p.end(c.cfg.Now(), r)
				results <- r
			})
		}
	}
	answer := &Answer{}
	lines := map[string][]byte{}
	var grace <-chan time.Time
	for open > 0 {
		select {
		case r := <-results:
			open--
			if r.line != nil {
				lines[r.peer.Name] = r.line
			}
			if r.against != nil {
				answer.Against = append(answer.Against, *r.against)
			}
			if grace == nil && open > 0 && c.cfg.Policy.Satisfied(func(name string) bool { return lines[name] != nil }) {
				timer := time.NewTimer(c.cfg.Grace)
				defer timer.Stop()
				grace = timer.C
			}
		case <-grace:
			open = 0 // those who are still at it end by themselves
		}
	}
	answer.Raw, answer.Failed = slices.Clone(cp.Raw), map[string]string{}
	for _, p := range c.peers {
		answer.Raw = append(answer.Raw, lines[p.Name]...)
		if lines[p.Name] == nil {
			answer.Failed[p.Name] = p.whyNot()
		}
	}
	opened, err := trailgate.OpenCosigned(answer.Raw, c.cfg.Log, c.cfg.Policy)
	answer.Quorum = err == nil
	if opened != nil {
		answer.Cosignatures = opened.Cosignatures
	}
	return answer
}

// Wait returns when nobody is asked any more.
func (c *Client) Wait() { c.slow.Wait() }

// Status is how each witness did lately, in the policy's order.
func (c *Client) Status() []Status {
	out := make([]Status, len(c.peers))
	for i, p := range c.peers {
		p.mu.Lock()
		out[i] = p.status
		p.mu.Unlock()
	}
	return out
}

// whyNot says what is wrong with a witness that has not cosigned.
func (p *peer) whyNot() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return cmp.Or(p.status.Error, "slower than the others")
}

// begin reports whether the witness is to be asked now.
func (p *peer) begin(now time.Time, urgent bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asking || !urgent && now.Before(p.notUntil) {
		return false
	}
	p.asking = true
	return true
}

// end notes how asking went.
func (p *peer) end(now time.Time, r result) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asking = false
	if r.size > 0 {
		p.size = r.size
	}
	p.status.Ahead, p.status.Disputes = 0, false
	if r.err == nil {
		p.failures, p.notUntil = 0, time.Time{}
		p.status.Size, p.status.At, p.status.Error, p.status.Since = r.size, r.at, "", time.Time{}
		return
	}
	if r.against != nil {
		p.status.Ahead, p.status.Disputes = r.against.Size, true
	}
	p.notUntil = now.Add(min(firstBackoff<<min(p.failures, 6), lastBackoff))
	p.failures++
	p.status.Error = r.err.Error()
	if p.status.Since.IsZero() {
		p.status.Since = now
	}
}

// asking is one checkpoint on its way to the witnesses.
type asking struct {
	c     *Client
	cp    *trailgate.Checkpoint
	known uint64
	prove func(old uint64) (tlog.TreeProof, error)
}

// result is what came of asking one witness.
type result struct {
	peer    *peer
	line    []byte // the cosignature
	at      time.Time
	size    uint64 // that the witness has now; 0: not known
	against *Contradiction
	err     error
}

func (a *asking) ask(ctx context.Context, p *peer) result {
	p.mu.Lock()
	old := min(p.size, a.cp.Size)
	p.mu.Unlock()
	r := result{peer: p}
	for range maxTries {
		answer, err := a.post(ctx, p, old)
		if err != nil {
			r.err = err
			return r
		}
		switch {
		case answer.line != nil:
			r.line, r.at, r.size = answer.line, answer.at, a.cp.Size
			return r
		case answer.disputed:
			r.against = a.contradiction(ctx, p, old)
			r.err = fmt.Errorf("it has cosigned another tree of %d entries than this log's", old)
			return r
		case answer.size > a.known:
			r.against = a.contradiction(ctx, p, answer.size)
			r.err = fmt.Errorf("it has cosigned %d entries, and this log has %d", answer.size, a.known)
			return r
		case answer.size > a.cp.Size:
			// The log was stopped after this witness cosigned and before the checkpoint was
			// published. The next checkpoint is larger.
			r.size = answer.size
			r.err = fmt.Errorf("it has cosigned %d entries already, more than the checkpoint of %d", answer.size, a.cp.Size)
			return r
		case answer.size == old:
			r.err = fmt.Errorf("it wants to hear of %d entries, which is what it was told", old)
			return r
		}
		old = answer.size
	}
	r.err = errors.New("it names another size each time")
	return r
}

// contradiction asks a witness of ours for what it has cosigned. A checkpoint is
// proof only with the log's own signature, and only if it is not of this very tree.
func (a *asking) contradiction(ctx context.Context, p *peer, size uint64) *Contradiction {
	against := &Contradiction{Witness: p.Name, Size: size}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url+"/"+checkpointPath+"/"+LogID(a.cp.Origin), nil)
	if err != nil {
		return against
	}
	status, _, body, err := a.do(req)
	if err != nil || status != http.StatusOK {
		return against
	}
	held, err := trailgate.OpenCheckpoint(body, a.c.cfg.Log)
	if err == nil && a.contradicts(held) {
		against.Proof = held.Raw
	}
	return against
}

// contradicts reports whether a checkpoint that the log's key signed is none of
// the log's tree as it is now.
func (a *asking) contradicts(held *trailgate.Checkpoint) bool {
	if held.Size > a.known {
		return true
	}
	if held.Size > a.cp.Size {
		return false // to be seen when the log publishes as many
	}
	proof, err := a.prove(held.Size)
	return err == nil && checkGrowth(proof, held.Size, held.Root, a.cp.Size, a.cp.Root) != nil
}

// answer is what a witness said to one request: a line, a dispute, or a size.
type answer struct {
	line     []byte
	at       time.Time
	disputed bool
	size     uint64
}

func (a *asking) post(ctx context.Context, p *peer, old uint64) (*answer, error) {
	r := request{old: old, checkpoint: a.cp.Raw}
	if old > 0 && old < a.cp.Size {
		var err error
		if r.proof, err = a.prove(old); err != nil {
			return nil, fmt.Errorf("prove that the log grew from %d entries: %w", old, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/"+addPath, bytes.NewReader(r.encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	status, kind, body, err := a.do(req)
	if err != nil {
		return nil, err
	}
	switch status {
	case http.StatusOK:
		return a.take(p, body)
	case http.StatusConflict:
		if kind != sizeType {
			return &answer{disputed: true}, nil
		}
		size, err := parseSize(strings.TrimSuffix(string(body), "\n"))
		if err != nil {
			return nil, fmt.Errorf("it names a size that is none: %w", err)
		}
		return &answer{size: size, disputed: size == old && old == a.cp.Size}, nil
	case http.StatusUnprocessableEntity:
		return &answer{disputed: true}, nil
	case http.StatusNotFound:
		return nil, errors.New("it does not know this log (404); its operator must add the log's key")
	case http.StatusForbidden:
		return nil, errors.New("it has another key for this log (403)")
	}
	if status >= 300 && status < 400 {
		return nil, fmt.Errorf("it answers %d, a redirect, which is not followed", status)
	}
	return nil, fmt.Errorf("it answers %d", status)
}

// take checks the cosignature in an answer and leaves out all else.
func (a *asking) take(p *peer, body []byte) (*answer, error) {
	n, err := note.Open(slices.Concat(a.cp.Raw, body), note.VerifierList(p.Key))
	if err != nil || len(n.Sigs) != 1 {
		return nil, errors.New("its answer is not a cosignature of this checkpoint by its key")
	}
	line := fmt.Appendf(nil, "— %s %s\n", n.Sigs[0].Name, n.Sigs[0].Base64)
	at, err := trailgate.CosignatureTime(n.Sigs[0])
	if err != nil {
		return nil, err
	}
	// A witness whose clock runs ahead would make old cosignatures look new.
	if at.After(a.c.cfg.Now().Add(maxClockLead)) {
		return nil, fmt.Errorf("its cosignature is of %s, which is yet to come; whose clock is wrong?", at.Format(time.RFC3339))
	}
	return &answer{line: line, at: at}, nil
}

const maxClockLead = 5 * time.Minute

// do makes a request; its errors repeat no URL.
func (a *asking) do(req *http.Request) (status int, kind string, body []byte, err error) {
	req.Header.Set("User-Agent", "trailgate")
	resp, err := a.c.cfg.HTTP.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err
		}
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %v", a.c.cfg.Timeout)
		}
		return 0, "", nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes+1))
	if err == nil && len(body) > maxAnswerBytes {
		err = errors.New("its answer is too long")
	}
	kind, _, _ = strings.Cut(cmp.Or(resp.Header.Get("Content-Type"), "none"), ";")
	return resp.StatusCode, strings.TrimSpace(kind), body, err
}
