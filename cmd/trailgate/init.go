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
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/trailgate/trailgate/internal/config"
	"github.com/trailgate/trailgate/internal/trail"
)

func newInit(c *cli) *cobra.Command {
	var dir, id string
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make the configuration, the keys and an empty log",
		Long: `Init makes what a gateway needs: trailgate.yaml with every setting explained, and
the data directory with the log's signing key, the empty log and the token for
remote administration. It changes nothing that is there: where a configuration
or a data directory exists, it refuses. Only init ever makes a log; a gateway
that finds none does not start.`,
		Example: `  trailgate init
  trailgate init --dir /srv/trailgate --id prod-eu`,
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
			trail.RedirectTesseraLogs(slog.New(slog.DiscardHandler)) // its news is ours to tell
			made, err := initialise(cmd.Context(), dir, config.Template(id), id)
			if err != nil {
				return err
			}
			return made.tell(c.out)
		},
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "`DIR` for all of it")
	cmd.Flags().StringVar(&id, "id", "", "`NAME` of this gateway and its log in entries and proofs (default: a random one)")
	must(cmd.MarkFlagDirname("dir"))
	must(cmd.RegisterFlagCompletionFunc("id", cobra.NoFileCompletions))
	return cmd
}

// gatewayFiles is what initialise made.
type gatewayFiles struct {
	dir, config, data string
	vkey              string // the log's public key
}

func (g *gatewayFiles) tell(w io.Writer) error {
	at := ""
	if wd, err := os.Getwd(); err != nil || wd != g.dir {
		at = " --config " + posixQuote(g.config)
	}
	_, err := fmt.Fprintf(w, `Made %s and %s.
The log's public key, for those who will verify it:
  %s

Next:
  1. Put a connection into %s: an example stands in it.
  2. trailgate serve%s
  3. trailgate agent add etl-bot%s
     trailgate run --agent etl-bot%s -- bq query --use_legacy_sql=false 'SELECT 1'
     trailgate search%s
`, g.config, g.data, g.vkey, g.config, at, at, at, at)
	return err
}

// initialise makes a gateway's files in dir, all or none: they are made in a
// directory beside their place and moved there, the configuration last.
func initialise(ctx context.Context, dir, configText, id string) (made *gatewayFiles, err error) {
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
	for _, path := range []string{g.config, g.data} {
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
	// Nothing is in its place yet; a crash up to here leaves the staging
	// directory. Between the two steps below a crash leaves a data directory
	// without a configuration, which the next init refuses, naming it.
	if err := os.Rename(data, g.data); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	// Link, unlike rename, never takes the place of a file that came meanwhile.
	if err := os.Link(text, g.config); err != nil {
		return nil, fmt.Errorf("init: %w", errors.Join(err, os.Rename(g.data, data)))
	}
	if err := syncDir(dir); err != nil {
		return nil, fmt.Errorf("init: %w", err)
	}
	return g, nil
}

// makeDirs makes dir and what is missing above it. Undo takes away what was
// made, as far as it is empty.
func makeDirs(dir string) (undo func(), err error) {
	var made []string
	for d := dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || d == filepath.Dir(d) {
			break
		}
		made = append(made, d)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return func() {
		for _, d := range made {
			if os.Remove(d) != nil {
				return
			}
		}
	}, nil
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
