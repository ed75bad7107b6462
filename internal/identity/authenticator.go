package identity

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/trailgate/trailgate"
	"github.com/trailgate/trailgate/internal/identity/assertion"
)

var (
	// ErrSource means a token that was used from an address that it is not for.
	// The identity that comes with it tells whose token it is.
	ErrSource = errors.New("the token is not for use from this address")
	// ErrUnknownAgent means a credential that holds and names no agent that is
	// known. The identity that comes with it tells who it is.
	ErrUnknownAgent = errors.New("the credential names no agent that is known")
	// ErrConflict means a certificate and a token of two different agents.
	ErrConflict = errors.New("certificate and token are of different agents")
)

// Identity is what a valid credential proves, and what goes with it.
type Identity struct {
	Principal trailgate.Principal
	// SessionKey is the same for calls that are one session.
	SessionKey     string
	Title, Purpose string // of the session, as claimed
	// Connections are those that the credential may be used for; they count where
	// Scoped is set, also when there are none.
	Connections []string
	Scoped      bool
	Sources     []string // see Token.Sources
	// Assertion is the agent's own JWT where it came with one. Secret.
	Assertion        string
	AssertionExpires time.Time
	Issued, Expires  time.Time // of the credential; Issued may be zero
	// Token is the gateway token that was used; zero for other credentials.
	Token Token

	// mayAct are those who may act for this one, each "issuer|subject"; nil: anybody.
	mayAct []string
	// parents are, of a session token, the tokens that it was got for, and behind
	// the other agents of its chain. It ends with each of them.
	parents, behind []string
}

// MayUse reports whether the credential is for a connection.
func (i Identity) MayUse(connection string) bool {
	return !i.Scoped || slices.Contains(i.Connections, connection)
}

// Presented is what a caller presents: one bearer token, certificates as TLS
// had them (leaf first), or both; and from where.
type Presented struct {
	Bearer       string
	Certificates []*x509.Certificate
	Address      netip.Addr
}

// Verifier verifies credentials that others issued, as *assertion.Verifier does.
type Verifier interface {
	JWT(ctx context.Context, raw string) (assertion.Assertion, error)
	Certificate(chain []*x509.Certificate) (assertion.Assertion, error)
}

// AuthConfig says what an Authenticator works with.
type AuthConfig struct {
	Store *Store
	// Verifier checks what others issued. Optional: nothing of that is accepted.
	Verifier Verifier
	// SessionKeyFile holds the key of session tokens, and is made if it is missing.
	SessionKeyFile string
	ExchangeTTL    time.Duration    // of a session token at most. Default: 1 h; at most 12 h.
	Now            func() time.Time // Optional.
	// Provisioned is called before an agent is made that an issuer named; its
	// error means that it must not be made. Optional.
	Provisioned func(ctx context.Context, a Agent, said assertion.Assertion) error
}

// Authenticator says who calls, by whatever credential. It is safe for
// concurrent use.
type Authenticator struct {
	cfg     AuthConfig
	seal    *sealer
	revoked *revocations
	jwts    *jwtMemory
	making  chan struct{} // held while an agent is made
}

// NewAuthenticator makes one; the errors are about the session key.
func NewAuthenticator(c AuthConfig) (*Authenticator, error) {
	if c.Store == nil || c.SessionKeyFile == "" {
		return nil, errors.New("identity: Store and SessionKeyFile are required")
	}
	if c.Now == nil {
		c.Now = func() time.Time { return c.Store.now() }
	}
	if c.ExchangeTTL <= 0 {
		c.ExchangeTTL = time.Hour
	}
	seal, err := openSealer(c.SessionKeyFile)
	if err != nil {
		return nil, err
	}
	revoked, err := openRevocations(c.SessionKeyFile+".revoked", c.Now)
	if err != nil {
		return nil, err
	}
	return &Authenticator{cfg: c, seal: seal, revoked: revoked, jwts: newJWTMemory(), making: make(chan struct{}, 1)}, nil
}

// Authenticate says whose credential this is. Errors are those of
// [Store.Authenticate] and of package assertion, [ErrSource], [ErrUnknownAgent]
// and [ErrConflict]. The first two of these come with the identity.
//
// Where the credential was seen before it does no I/O. A revocation, of a token
// or of an agent, holds for the next call, whatever the credential.
func (a *Authenticator) Authenticate(ctx context.Context, p Presented) (Identity, error) {
	if p.Bearer == "" {
		if len(p.Certificates) == 0 {
			return Identity{}, ErrMalformed
		}
		return a.certificate(ctx, p.Certificates)
	}
	who, err := a.bearer(ctx, p.Bearer)
	if err != nil {
		return who, err
	}
	if !allows(who.Sources, p.Address) {
		return who, ErrSource
	}
	if err := a.agrees(who, p.Certificates); err != nil {
		return Identity{}, err
	}
	a.noteUse(who, p.Address)
	return who, nil
}

// noteUse keeps that a gateway token was used, or a session token got for it.
func (a *Authenticator) noteUse(who Identity, from netip.Addr) {
	if who.Token.ID != "" {
		a.cfg.Store.uses.note(who.Token.ID, a.cfg.Now(), from)
	}
	for _, id := range who.parents {
		if !strings.HasPrefix(id, sessionPrefix) {
			a.cfg.Store.uses.note(id, a.cfg.Now(), from)
		}
	}
}

// agrees checks that a certificate beside a token is not another agent's. One
// that does not verify, or names no agent, says nothing.
func (a *Authenticator) agrees(who Identity, chain []*x509.Certificate) error {
	if len(chain) == 0 || a.cfg.Verifier == nil {
		return nil
	}
	said, err := a.cfg.Verifier.Certificate(chain)
	if err == nil && said.Agent != "" && said.Agent != who.Principal.Agent {
		return ErrConflict
	}
	return nil
}

// bearer tells by its form what a bearer token is, so that nothing is tried as
// two things.
func (a *Authenticator) bearer(ctx context.Context, token string) (Identity, error) {
	switch {
	case strings.HasPrefix(token, tokenPrefix):
		return a.cfg.Store.Authenticate(token)
	case strings.HasPrefix(token, sealPrefix):
		return a.session(token)
	case strings.Count(token, ".") == 2 && a.cfg.Verifier != nil:
		said, err := a.cfg.Verifier.JWT(ctx, token)
		if err != nil {
			return Identity{}, err
		}
		return a.said(ctx, said)
	}
	return Identity{}, ErrMalformed
}

func (a *Authenticator) certificate(ctx context.Context, chain []*x509.Certificate) (Identity, error) {
	if a.cfg.Verifier == nil {
		return Identity{}, ErrMalformed
	}
	said, err := a.cfg.Verifier.Certificate(chain)
	if err != nil {
		return Identity{}, err
	}
	return a.said(ctx, said)
}

// said turns what another party said into an identity of an agent that is known
// and not revoked, making it known where that may be.
func (a *Authenticator) said(ctx context.Context, said assertion.Assertion) (Identity, error) {
	who := identityOf(said)
	if said.Agent == "" {
		return who, fmt.Errorf("%w: its issuer tells of humans alone; exchange it with an actor token", ErrUnknownAgent)
	}
	if !nameForm.MatchString(said.Agent) {
		return Identity{}, fmt.Errorf("%w: map.agent gives a name that no agent can have: a lower-case letter, then up to 62 lower-case letters, digits, '-' or '_'", assertion.ErrMapping)
	}
	err := a.cfg.Store.live(said.Agent, "")
	if errors.Is(err, ErrUnknownAgent) && said.Provision {
		err = a.provision(ctx, said)
	}
	return who, err
}

// identityOf is what a verified assertion proves.
func identityOf(said assertion.Assertion) Identity {
	p := trailgate.Principal{
		Agent: said.Agent, Issuer: said.Issuer, Subject: said.Subject, Human: said.Human, Actors: said.Actors,
		AuthMode: said.Mode, CredentialSHA256: said.SHA256, Evidence: said.Evidence,
	}
	if said.Human != "" {
		p.HumanBy = trailgate.HumanByIssuer
	}
	return Identity{
		Principal: p, SessionKey: sessionKey(&p), Connections: said.Connections, Scoped: said.Scoped,
		Assertion: said.Token, AssertionExpires: said.Expires, Issued: said.Issued, Expires: said.Expires, mayAct: qualified(said),
	}
}

// qualified are those who may act for the subject of an assertion, with their
// issuers: a name without one is of the assertion's own issuer, and says nothing
// about a party that another one calls the same.
func qualified(said assertion.Assertion) []string {
	if said.MayAct == nil {
		return nil
	}
	out := make([]string, 0, len(said.MayAct))
	for _, name := range said.MayAct {
		out = append(out, said.Issuer+"|"+name)
		if strings.Contains(name, "|") {
			out = append(out, name) // it may be "issuer|subject" already
		}
	}
	return out
}

// sessionKey digests who calls, for whom, by which credential; and, of an
// exchange, the sessions of those who took part.
func sessionKey(p *trailgate.Principal, of ...string) string {
	var b []byte
	for _, part := range slices.Concat([]string{p.Issuer, p.Subject, p.Agent, p.Human, p.CredentialSHA256, strconv.Itoa(len(of))}, of, p.Actors) {
		b = append(binary.AppendUvarint(b, uint64(len(part))), part...)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// provision makes an agent, once however many calls ask for it. It is on record
// before it exists: a crash in between leaves an entry about an agent that the
// next call makes. Errors are [assertion.ErrUnavailable], and [ErrRevoked] where
// somebody else made it, and ended it, meanwhile.
func (a *Authenticator) provision(ctx context.Context, said assertion.Assertion) error {
	select {
	case a.making <- struct{}{}:
		defer func() { <-a.making }()
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", assertion.ErrUnavailable, ctx.Err())
	}
	if err := a.cfg.Store.live(said.Agent, ""); !errors.Is(err, ErrUnknownAgent) {
		return err
	}
	a.cfg.Store.mu.RLock()
	err := a.cfg.Store.room()
	a.cfg.Store.mu.RUnlock()
	if err != nil { // before the entry: a full store must not fill the trail
		return fmt.Errorf("%w: %w", assertion.ErrUnavailable, err)
	}
	agent := Agent{Name: said.Agent, Note: "made on first sight, named by " + said.Source, Created: a.cfg.Now().UTC()}
	if a.cfg.Provisioned != nil {
		if err := a.cfg.Provisioned(ctx, agent, said); err != nil {
			return fmt.Errorf("%w: it cannot be made: %w", assertion.ErrUnavailable, err)
		}
	}
	if _, _, err := a.cfg.Store.Provision(agent.Name, agent.Note); err != nil {
		if errors.Is(err, ErrRevoked) {
			return err
		}
		return fmt.Errorf("%w: %w", assertion.ErrUnavailable, err)
	}
	return nil
}
