package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail"
)

func newInit(c *cli) *cobra.Command {
	var dir, id, successorOf, predecessorKey, reason string
	var withTLS bool
	var hosts []string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the configuration, the keys and an empty log",
		Long: `Init makes what a gateway needs: trailgate.yaml with every setting explained, and
the data directory with the log's signing key, the empty log and the token for
remote administration. It changes nothing that is there: where a configuration
or a data directory exists, it refuses. Only init ever makes a log; a gateway
that finds none does not start.

With --tls both listeners speak TLS, with a certificate from a private CA that is
made for this gateway alone: tls/ca.pem is what clients are given ("run" and "env"
do that), tls/ca.key stays here. The certificate is for loopback and for every
--host; with a --host the gateway listens beyond this machine. Humans' listener
stays on loopback. "trailgate tls renew" issues the certificate anew.

With --successor-of the new log goes on from another one that was frozen, whose
key was lost, or of which only a checkpoint is left: its first entry commits to
where that one ended. That one is verified first, and not changed. Agents,
connections and recorded rows are not taken over; docs/log.md has the steps.`,
		Example: `  trailgate init
  trailgate init --dir /srv/trailgate --id prod-eu
  trailgate init --tls --host gateway.example.com --host 10.1.2.3
  trailgate init --dir /srv/next --successor-of /srv/trailgate/data --reason "key lost"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if id == "" {
				id = "gw-" + randomHex(3)
			}
			if _, err := config.Parse(config.DefaultName, []byte(config.Template(id))); err != nil {
				if e, ok := errors.AsType[config.Errors](err); ok {
					return usagef("--id: %s", e[0].Message)
				}
				return err
			}
			text := config.Template(id)
			var names *serverNames
			switch {
			case withTLS:
				n, err := readServerNames(hosts)
				if err != nil {
					return usagef("--host: %w", err)
				}
				names, text = &n, withListenersTLS(text, n)
			case len(hosts) > 0:
				return usagef("--host is for the certificate of --tls")
			}
			trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler)) // its news is ours to tell
			var begin func(context.Context, string) error
			switch {
			case successorOf != "":
				p, err := c.predecessor(cmd.Context(), successorOf, predecessorKey)
				if err != nil {
					return err
				}
				begin = c.beginAfter(p, id, reason)
				fmt.Fprintf(c.err, "the new log goes on from %s, which %s after %d entries\n", visible(p.Origin), endedHow(p), max(p.Size, p.TailSize))
			case predecessorKey != "" || reason != "":
				return usagef("--predecessor-key and --reason are for --successor-of")
			}
			made, err := initialise(cmd.Context(), dir, text, id, names, begin)
			if err != nil {
				return err
			}
			return made.tell(c.out)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "`DIR` for all of it")
	cmd.Flags().StringVar(&id, "id", "", "`NAME` of this gateway and its log in entries and proofs (default: a random one)")
	cmd.Flags().BoolVar(&withTLS, "tls", false, "make a private CA and a certificate, and have both listeners use it")
	cmd.Flags().StringArrayVar(&hosts, "host", nil, "`HOST` name or address that agents use, for --tls; repeat it")
	cmd.Flags().StringVar(&successorOf, "successor-of", "", "`PATH` of the log that the new one goes on from: data directory, log, or checkpoint")
	cmd.Flags().StringVar(&predecessorKey, "predecessor-key", "", "`FILE` with that log's public key (default: log.pub in a data directory)")
	reasonFlag(cmd, &reason)
	must(cmd.MarkFlagDirname("dir"))
	must(cmd.RegisterFlagCompletionFunc("id", cobra.NoFileCompletions))
	must(cmd.RegisterFlagCompletionFunc("host", cobra.NoFileCompletions))
	return cmd
}

// gatewayFiles is what initialise made.
type gatewayFiles struct {
	dir, config, data string
	vkey              string // the log's public key
	tls               string // directory of the private CA; "" without
	names             string // of the certificate
}

func (g *gatewayFiles) tell(w io.Writer) error {
	at := ""
	if wd, err := os.Getwd(); err != nil || wd != g.dir {
		at = " --config " + posixQuote(g.config)
	}
	ca := ""
	if g.tls != "" {
		ca = fmt.Sprintf(`A private CA and a certificate for %s are in %s.
Agents on other machines need %s; keep ca.key from everybody.
`, g.names, g.tls, filepath.Join(g.tls, caCertName))
	}
	_, err := fmt.Fprintf(w, `Made %s and %s.
%sThe log's public key, for those who will verify it:
  %s

Next:
  1. Put a connection into %s: an example stands in it.
  2. trailgate serve%s
  3. trailgate agent add etl-bot%s
     trailgate run --agent etl-bot%s -- bq query --use_legacy_sql=false 'SELECT 1'
     trailgate search%s
`, g.config, g.data, ca, g.vkey, g.config, at, at, at, at)
	return err
}

// initialise makes a gateway's files in dir, all or none: they are made in a
// directory beside their place and moved there, the configuration last. With
// names there is a private CA too, and a certificate for them.
//
// Begin, if set, adds the log's first entry.
func initialise(ctx context.Context, dir, configText, id string, names *serverNames, begin func(ctx context.Context, data string) error) (made *gatewayFiles, err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	// The text is ours, but the id is not.
	cfg, err := config.Parse(filepath.Join(dir, config.DefaultName), []byte(configText))
	if err != nil {
		return nil, err
	}
	g := &gatewayFiles{dir: dir, config: cfg.Path, data: cfg.DataDir.String()}
	places := []string{g.config, g.data}
	if names != nil {
		g.tls, g.names = filepath.Join(dir, tlsDirName), names.String()
		places = append(places, g.tls)
	}
	for _, path := range places {
		if _, err := os.Lstat(path); err == nil {
			return nil, hinted(fmt.Errorf("init: %s is there already, and init changes nothing that is", path), "choose another directory with --dir")
		} else if !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("init: %w", err)
		}
	}
	undo, err := makeDirs(dir)
	if err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	staging, err := os.MkdirTemp(dir, ".trailgate-init-")
	if err != nil {
		undo()
		return nil, fmt.Errorf("init: %w", err)
	}
	defer func() {
		err = errors.Join(err, os.RemoveAll(staging))
		if err != nil {
			undo()
		}
	}()

	data := filepath.Join(staging, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if g.vkey, err = trail.Create(ctx, data, "trailgate/"+id); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if begin != nil {
		if err := begin(ctx, data); err != nil {
			return nil, fmt.Errorf("init: %w", err)
		}
	}
	if err := writeNew(filepath.Join(data, adminTokenName), newAdminToken()+"\n", 0o600); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	text := filepath.Join(staging, config.DefaultName)
	if err := writeNew(text, configText, 0o644); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	if err := syncDir(data); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	moves := [][2]string{{data, g.data}}
	if names != nil {
		ca := filepath.Join(staging, tlsDirName)
		if err := makeTLS(ca, id, *names, time.Now()); err != nil {
			return nil, fmt.Errorf("init: %w", err)
		}
		moves = append(moves, [2]string{ca, g.tls})
	}
	// Nothing is in its place yet; a crash up to here leaves the staging
	// directory. Between the steps below a crash leaves a data directory without
	// a configuration, which the next init refuses, naming it.
	for i, m := range moves {
		if err := os.Rename(m[0], m[1]); err != nil {
			return nil, fmt.Errorf("init: %w", errors.Join(err, moveBack(moves[:i])))
		}
	}
	// Link, unlike rename, never takes the place of a file that came meanwhile.
	if err := os.Link(text, g.config); err != nil {
		return nil, fmt.Errorf("init: %w", errors.Join(err, moveBack(moves)))
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	return g, nil
}

func moveBack(moves [][2]string) error {
	var errs []error
	for _, m := range moves {
		errs = append(errs, os.Rename(m[1], m[0]))
	}
	return errors.Join(errs...)
}

// withListenersTLS turns on, in the template of a configuration, what stands
// there behind comment signs. With a name that other machines can use the
// gateway listens for them.
func withListenersTLS(text string, names serverNames) string {
	text = strings.Replace(text, `#  tls:
#    cert_file: tls/cert.pem
#    key_file: tls/key.pem
#    ca_file: tls/ca.pem `, `  tls:
    cert_file: tls/cert.pem
    key_file: tls/key.pem
    ca_file: tls/ca.pem `, 1)
	text = strings.Replace(text, `#  tls:
#    cert_file: tls/cert.pem
#    key_file: tls/key.pem
`, `  tls:
    cert_file: tls/cert.pem
    key_file: tls/key.pem
    ca_file: tls/ca.pem
`, 1)
	host := names.beyondLoopback()
	if host == "" {
		return text
	}
	return strings.Replace(text, `  listen: 127.0.0.1:8470
#  public_url: https://gateway.example.com:8470
`, `  listen: ":8470"
  public_url: https://`+net.JoinHostPort(host, "8470")+`
`, 1)
}

// makeDirs makes dir and what is missing above it, durably: a log whose
// directory's own name is lost in a power cut is lost with all that was synced
// in it. Undo takes away what was made, as far as it is empty.
func makeDirs(dir string) (undo func(), err error) {
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	undo = func() {
		for _, d := range made {
			if os.Remove(d) != nil {
				return
			}
		}
	}
	err = os.MkdirAll(dir, 0o755)
	for i := len(made) - 1; err == nil && i >= 0; i-- {
		err = syncDir(filepath.Dir(made[i]))
	}
	if err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}

// writeNew writes a file that must not exist, durably.
func writeNew(path, text string, mode os.FileMode) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

// adminTokenName is the file in the data directory with the token of remote
// administration.
const adminTokenName = "admin.token"

// newAdminToken makes a token of 256 random bits. Its prefix tells it from an
// agent's ("tgt_").
func newAdminToken() string {
	var raw [32]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand ends the program first
	return "tga_" + base64.RawURLEncoding.EncodeToString(raw[:])
}

func randomHex(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw)
	return hex.EncodeToString(raw)
}
