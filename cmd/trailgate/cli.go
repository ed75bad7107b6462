package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/admin/client"
	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/identity"
	"github.com/trailgate/trailgate/internal/trail"
)

// cli is what commands share.
type cli struct {
	in       io.Reader
	out, err io.Writer
	getenv   func(string) string
	// release gives signals back to their defaults, for commands that handle
	// them in a way of their own. The context that commands are run with, which
	// the first signal would end, ends with it.
	release func()

	configPath, server string // flags of every command
	loaded             *config.Config
}

// config reads the configuration, once.
func (c *cli) config() (*config.Config, error) {
	if c.loaded != nil {
		return c.loaded, nil
	}
	cfg, err := config.Load(c.configPath)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &exitError{code: exitUsage, err: err}
	}
	if err != nil {
		return nil, err
	}
	c.loaded = cfg
	return cfg, nil
}

// with runs a command's work with the admin API at hand.
func (c *cli) with(ctx context.Context, do func(*remote) error) error {
	return c.withIndex(ctx, true, do)
}

// withIndex is with; where the API runs in this process, catchUp says whether
// the index is brought up to date first.
func (c *cli) withIndex(ctx context.Context, catchUp bool, do func(*remote) error) (err error) {
	r, err := c.open(ctx, catchUp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	return explainAPI(do(r))
}

// open reaches the admin API: of the server that was named, of the gateway that
// runs on the data directory, or else in this process, which then holds the
// trail's lock until close.
func (c *cli) open(ctx context.Context, catchUp bool) (*remote, error) {
	if c.server != "" {
		return c.openServer()
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(cfg.DataDir.String(), socketName)
	conn, err := dialSocket(ctx, path)
	switch {
	case err == nil:
		if err := conn.Close(); err != nil {
			return nil, fmt.Errorf("reach the gateway: %w", err)
		}
		return overSocket(cfg, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, hinted(fmt.Errorf("reach the gateway: %w", err), "the gateway belongs to another user: run this as that user, or use --server with TRAILGATE_ADMIN_TOKEN")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return c.openLocal(ctx, cfg, catchUp)
	}
	return nil, fmt.Errorf("reach the gateway: %w", err)
}

// adminTokenVariable holds the token for --server.
const adminTokenVariable = "TRAILGATE_ADMIN_TOKEN"

func (c *cli) openServer() (*remote, error) {
	token := c.getenv(adminTokenVariable)
	if token == "" {
		return nil, usagef("--server needs the gateway's admin token in %s (it is in admin.token in its data directory)", adminTokenVariable)
	}
	ca := c.getenv(caFileVariable)
	opt := client.Options{Token: token, UserAgent: userAgent()}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", caFileVariable, err)
		}
		if opt.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("this machine's certificate authorities: %w", err)
		}
		if !opt.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s holds no certificate in PEM", caFileVariable, ca)
		}
	}
	api, err := client.New(c.server, opt)
	if err != nil {
		return nil, usagef("--server: %w", err)
	}
	return &remote{Client: api, caFile: ca}, nil
}

// caFileVariable names the file of a private CA: for --server, and what clients of
// a gateway are told.
const caFileVariable = "TRAILGATE_CA_FILE"

// userAgent is how commands call themselves in the trail.
func userAgent() string { return "trailgate/" + thisBuild().Version }

// localAddress is what requests that never leave this machine are addressed to.
const localAddress = "http://localhost"

func overSocket(cfg *config.Config, path string) (*remote, error) {
	transport := &http.Transport{
		DialContext:           func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, path) },
		ResponseHeaderTimeout: socketTimeout,
	}
	return newRemote(cfg, transport)
}

// socketTimeout bounds the wait for a gateway on this machine to begin an
// answer.
const socketTimeout = 2 * time.Minute

func newRemote(cfg *config.Config, transport http.RoundTripper) (*remote, error) {
	api, err := client.New(localAddress, client.Options{Transport: transport, UserAgent: userAgent()})
	if err != nil {
		return nil, err
	}
	return &remote{Client: api, cfg: cfg, keyFile: filepath.Join(cfg.DataDir.String(), "log.pub")}, nil
}

// closeTimeout bounds how long a command that opened the trail itself waits for
// its own entries to reach the log. The journal has them whatever happens.
const closeTimeout = 30 * time.Second

func (c *cli) openLocal(ctx context.Context, cfg *config.Config, catchUp bool) (*remote, error) {
	log := slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	p, err := openParts(ctx, cfg, log, time.Now)
	if errors.Is(err, trail.ErrLocked) {
		return nil, hinted(err, "a gateway is just starting or stopping, or another command is at work; try again in a moment")
	}
	if err != nil {
		return nil, err
	}
	shut := func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
		defer cancel()
		return p.close(ctx)
	}
	if catchUp {
		progress := newProgress(c.err, "index")
		err = p.index.CatchUp(ctx, progress.update)
		progress.end()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("bring the index up to date: %w", err), shut())
		}
	}
	if err := p.openCallers(nil); err != nil {
		return nil, errors.Join(err, shut())
	}
	// No call is under way: whatever has no outcome has none to come.
	if p.reconciler, err = p.newReconciler(p.trail.Size()); err != nil {
		return nil, errors.Join(err, shut())
	}
	api, err := p.admin(nil, "", "")
	if err != nil {
		return nil, errors.Join(err, shut())
	}
	r, err := newRemote(cfg, client.InProcess(api.InProcess()))
	if err != nil {
		return nil, errors.Join(err, shut())
	}
	r.parts, r.shut = p, shut
	return r, nil
}

// completeAgents offers agents' names while somebody types. On this machine it
// reads the gateway's own file, without a lock and without an entry.
func (c *cli) completeAgents(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp
	if cmd.Flags().Lookup("agent") == nil && len(args) > 0 {
		return nil, directive
	}
	agents, err := c.knownAgents()
	if err != nil {
		return nil, directive
	}
	var out []cobra.Completion
	for _, a := range agents {
		if a.Revoked == nil && strings.HasPrefix(a.Name, typed) && visible(a.Name) == a.Name {
			out = append(out, cobra.CompletionWithDesc(a.Name, visible(a.Note)))
		}
	}
	return out, directive
}

// completeConnections offers the connections of the configuration.
func (c *cli) completeConnections(_ *cobra.Command, _ []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
	cfg, err := c.config()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []cobra.Completion
	for _, conn := range cfg.Connections {
		if strings.HasPrefix(conn.Name, typed) {
			out = append(out, cobra.CompletionWithDesc(conn.Name, strings.Join(conn.Projects, ", ")))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

// completionTimeout bounds how long a key press may wait for a gateway elsewhere.
const completionTimeout = 2 * time.Second

func (c *cli) knownAgents() ([]client.Agent, error) {
	if c.server != "" {
		r, err := c.openServer()
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		defer r.Client.Close()
		return r.Agents(ctx)
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	store, err := identity.Open(filepath.Join(cfg.DataDir.String(), agentsName))
	if err != nil {
		return nil, err
	}
	var out []client.Agent
	for _, a := range store.Agents() {
		out = append(out, client.Agent{Name: a.Name, Note: a.Note, Created: a.Created, Revoked: a.Revoked})
	}
	return out, nil
}
