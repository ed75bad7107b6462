// Package config reads Trailgate's one configuration file.
//
// The file is YAML, read strictly: a key that is not documented here is an
// error that names its line, so is a key given twice, a value of the wrong
// kind, an alias, a second document. Every mistake is reported, not the first
// alone. There is no second source: no environment variable and no flag
// changes a setting, so that the digest that the trail records says it all.
//
// Secrets are never in the file; keys whose name ends in "_file" name files
// that hold them. Relative paths count from the directory of the file.
//
// A Config is a plain value: the package keeps no state and nothing here
// changes a Config after [Load] or [Parse] returned it.
package config

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"
)

// MaxBytes is the largest file that is read.
const MaxBytes = 1 << 20

// DefaultName is the file that is read where none is named.
const DefaultName = "trailgate.yaml"

// Config is the whole file. The defaults are those of [Default].
type Config struct {
	// Path is the file that was read, absolute; Dir its directory.
	Path string `yaml:"-"`
	Dir  string `yaml:"-"`
	// Digest is the SHA-256 of the file's bytes, hex: what sha256sum prints.
	Digest string `yaml:"-"`

	// ID names this gateway in every entry. Default "trailgate".
	ID string `yaml:"id"`
	// DataDir holds the log, the index, agents and keys. Default "data".
	DataDir Path `yaml:"data_dir"`
	// Demo marks every page: what the trail holds is made up. Default false.
	Demo bool `yaml:"demo"`

	Gateway     Gateway      `yaml:"gateway"`
	Admin       Admin        `yaml:"admin"`
	Identity    Identity     `yaml:"identity"`
	Federation  Federation   `yaml:"federation"`
	Connectors  Connectors   `yaml:"connectors"`
	Connections []Connection `yaml:"connections"`
	Policy      Policy       `yaml:"policy"`
	Approval    Approval     `yaml:"approval"`
	Budgets     []Budget     `yaml:"budgets"`
	Recording   Recording    `yaml:"recording"`
	Reconcile   Reconcile    `yaml:"reconcile"`
	Sessions    Sessions     `yaml:"sessions"`
	Shutdown    Shutdown     `yaml:"shutdown"`
	Trail       Trail        `yaml:"trail"`
	Log         Log          `yaml:"log"`
}

// Gateway is the listener that agents use.
type Gateway struct {
	// Listen is "host:port". Default "127.0.0.1:8470". Port 0 takes a free one.
	Listen string `yaml:"listen"`
	// PublicURL is how agents reach the listener, "https://gw.example:8470".
	// Default: made from Listen. It must be set where Listen names no host, and
	// where a proxy stands in front.
	PublicURL string `yaml:"public_url"`
	// TLS, or Plaintext, is needed where Listen is not a loopback address.
	TLS TLS `yaml:"tls"`
	// Plaintext allows a listener beyond loopback without TLS, for use behind
	// something that terminates TLS. Default false.
	Plaintext bool `yaml:"plaintext"`
}

// Admin is the listener that humans use. The socket in the data directory is
// there whatever this says.
type Admin struct {
	// Listen is "host:port", or "off" for no TCP listener. Default "127.0.0.1:8471".
	Listen    string `yaml:"listen"`
	TLS       TLS    `yaml:"tls"`
	Plaintext bool   `yaml:"plaintext"`
	// PublicURL is how humans reach the listener; logins return to it. Default:
	// made from Listen.
	PublicURL string `yaml:"public_url"`
	// Login lets humans in by OpenID Connect. Off where it is not set; the
	// socket and the admin token work in any case.
	Login Login `yaml:"login"`
}

// Off reports whether there is no TCP listener for humans.
func (a Admin) Off() bool { return a.Listen == "off" }

// TLS names a certificate. Both files or neither. They are read again on SIGHUP.
type TLS struct {
	CertFile Path `yaml:"cert_file"` // PEM, leaf first
	KeyFile  Path `yaml:"key_file"`  // PEM
	// CAFile is what clients need where the certificate comes from a private
	// CA; the gateway itself does not read it, "run" and "env" hand it on.
	CAFile Path `yaml:"ca_file"`
}

// On reports whether a certificate is named.
func (t TLS) On() bool { return t.CertFile != "" }

// AllProjects, as a project, stands for every one that no connection names.
const AllProjects = "*"

// Connection is one BigQuery behind the gateway.
type Connection struct {
	// Name appears in every entry. Letters, digits, "_" and "-"; required.
	Name string `yaml:"name"`
	// Projects are the Google Cloud projects that calls may name; required. No
	// project belongs to two connections; [AllProjects] stands for those that
	// belong to none.
	Projects []string `yaml:"projects"`
	// Upstream is BigQuery's root. Default "https://bigquery.googleapis.com".
	Upstream   string              `yaml:"upstream"`
	Credential Credential          `yaml:"credential"`
	Recording  ConnectionRecording `yaml:"recording"`
	Reconcile  ConnectionReconcile `yaml:"reconcile"`
	// Connectors has calls go through connectors, processes near the project that dial
	// out to the gateway. Default false: the gateway dials Upstream itself.
	Connectors bool `yaml:"connectors"`
}

// UpstreamURL is Upstream parsed; [Load] checked that it can be.
func (c Connection) UpstreamURL() *url.URL {
	u, err := url.Parse(c.Upstream)
	if err != nil {
		return &url.URL{}
	}
	return u
}

// Sessions says what makes calls one session.
type Sessions struct {
	// IdleTimeout closes a token's session after that long without a call. Default 30m.
	IdleTimeout time.Duration `yaml:"idle_timeout"`
}

// Shutdown says how the gateway stops.
type Shutdown struct {
	// DrainTimeout is how long calls that are under way may take after SIGTERM
	// or SIGINT, before they are cut (their outcome is recorded all the same).
	// A second signal cuts them at once. Default 30s.
	DrainTimeout time.Duration `yaml:"drain_timeout"`
}

// Trail tunes the log. The defaults suit an SSD.
type Trail struct {
	// SegmentBytes is the size of a journal segment. Default 32MiB.
	SegmentBytes Bytes `yaml:"segment_bytes"`
	// MinFreeBytes: calls are refused while the disk has less free than that; 0: no check. Default 64MiB.
	MinFreeBytes Bytes `yaml:"min_free_bytes"`
	// MaxJournalBytes bounds what may wait for the transparency log; calls are
	// refused beyond. Default 1GiB.
	MaxJournalBytes Bytes `yaml:"max_journal_bytes"`
	// CheckpointInterval is how often a new signed checkpoint is published. Default 1s.
	CheckpointInterval time.Duration `yaml:"checkpoint_interval"`
	Witnesses          Witnesses     `yaml:"witnesses"`
	Checkpoints        Checkpoints   `yaml:"checkpoints"`
}

// Log is the operational log on stderr, which is not the trail: no SQL, no
// rows, no tokens. Level takes effect on SIGHUP.
type Log struct {
	Level  string `yaml:"level"`  // "debug", "info" (default), "warn", "error"
	Format string `yaml:"format"` // "text" (default) or "json"
}

// Default is what holds where the file says nothing.
func Default() Config {
	return Config{
		ID:       "trailgate",
		DataDir:  "data",
		Gateway:  Gateway{Listen: "127.0.0.1:8470"},
		Admin:    Admin{Listen: "127.0.0.1:8471", Login: defaultLogin()},
		Identity: defaultIdentity(), Federation: defaultFederation(), Connectors: defaultConnectors(),
		Approval:  defaultApproval(),
		Reconcile: defaultReconcile(),
		Sessions:  Sessions{IdleTimeout: 30 * time.Minute},
		Shutdown:  Shutdown{DrainTimeout: 30 * time.Second},
		Trail: Trail{
			SegmentBytes:       32 << 20,
			MinFreeBytes:       64 << 20,
			MaxJournalBytes:    1 << 30,
			CheckpointInterval: time.Second,
			Witnesses:          defaultWitnesses(),
			Checkpoints:        Checkpoints{Every: 10 * time.Minute},
		},
		Log: Log{Level: "info", Format: "text"},
	}
}

// defaultConnection is what holds for an element of "connections".
func defaultConnection() Connection {
	return Connection{
		Upstream:   "https://bigquery.googleapis.com",
		Credential: Credential{Mode: CredentialADC},
		Recording:  defaultConnectionRecording(),
		Reconcile:  defaultConnectionReconcile(),
	}
}

// Load reads and checks a file. Mistakes in it are an [Errors]; a file that
// cannot be read is the system's error. It looks at no other file: whether
// those that the configuration names exist is for their users to find out.
func Load(path string) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	f, err := os.Open(abs)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("read config: %w; make one with \"trailgate init\", or name yours with --config", err)
		}
		return nil, fmt.Errorf("read config: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return parse(path, abs, raw)
}

// Parse is [Load] for bytes in hand; path need not exist, and gives relative
// paths their meaning.
func Parse(path string, raw []byte) (*Config, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("read config: %w", err)
	}
	return parse(path, abs, raw)
}

// parse reads raw; shown is how messages call the file.
func parse(shown, abs string, raw []byte) (*Config, error) {
	if len(raw) > MaxBytes {
		return nil, Errors{{File: shown, Message: "larger than 1 MiB"}}
	}
	c := Default()
	d := decoder{file: shown, lines: map[string]int{}}
	d.decode(bytes.TrimPrefix(raw, []byte("\ufeff")), &c)
	if len(d.errs) == 0 {
		d.validate(&c)
	}
	if len(d.errs) > 0 {
		slices.SortStableFunc(d.errs, func(a, b Error) int {
			return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Key, b.Key))
		})
		return nil, d.errs
	}
	sum := sha256.Sum256(raw)
	c.Path, c.Dir, c.Digest = abs, filepath.Dir(abs), hex.EncodeToString(sum[:])
	c.resolve()
	return &c, nil
}

// resolve makes every path absolute.
func (c *Config) resolve() {
	if c.Recording.KeyDir == "" {
		c.Recording.KeyDir = Path(filepath.Join(c.DataDir.String(), "recording-keys"))
	}
	if c.Federation.ConsentKeyFile == "" {
		c.Federation.ConsentKeyFile = Path(filepath.Join(c.DataDir.String(), "consent.key"))
	}
	if c.Federation.Issuer.KeyFile == "" {
		c.Federation.Issuer.KeyFile = Path(filepath.Join(c.DataDir.String(), "issuer.key"))
	}
	eachPath(reflect.ValueOf(c).Elem(), func(p *Path) {
		if *p != "" && !filepath.IsAbs(string(*p)) {
			*p = Path(filepath.Join(c.Dir, string(*p)))
		}
	})
}

// eachPath calls fn for every path in a configuration.
func eachPath(v reflect.Value, fn func(*Path)) {
	switch {
	case v.Type() == pathType:
		fn(v.Addr().Interface().(*Path))
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachPath(v.Field(i), fn)
		}
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			eachPath(v.Index(i), fn)
		}
	}
}

var pathType = reflect.TypeFor[Path]()

// Connection finds a connection by name.
func (c *Config) Connection(name string) (Connection, bool) {
	for _, conn := range c.Connections {
		if conn.Name == name {
			return conn, true
		}
	}
	return Connection{}, false
}

// Error is one mistake in the file.
type Error struct {
	File    string
	Line    int    // from 1; 0 where none can be named
	Key     string // such as "connections[0].upstream"; empty for the file as a whole
	Message string
}

func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Key != "" {
		b.WriteString(e.Key + ": ")
	}
	b.WriteString(e.Message)
	return b.String()
}

// Errors are all mistakes that were found, at most maxErrors, in the order of the file.
type Errors []Error

const maxErrors = 20

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}
