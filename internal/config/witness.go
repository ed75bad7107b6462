package config

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// Witnesses are others who cosign the log's checkpoints (docs/witnesses.md).
type Witnesses struct {
	// PolicyFile names them, and how many are needed: C2SP tlog-policy, with an address
	// for each. Default: there are none.
	PolicyFile Path `yaml:"policy_file"`
	// Timeout bounds what a checkpoint waits for one of them. Calls never wait. Default 5s.
	Timeout time.Duration `yaml:"timeout"`
	// Require refuses calls while the last quorum is older than MaxAge. Default false: calls
	// go on, and checkpoints say how many cosigned.
	Require bool `yaml:"require"`
	// MaxAge is for Require. Default 10m.
	MaxAge time.Duration `yaml:"max_age"`
	// CAFile is for witnesses whose https certificates a private CA signed.
	CAFile Path `yaml:"ca_file"`
}

// On reports whether there are witnesses.
func (w Witnesses) On() bool { return w.PolicyFile != "" }

// Checkpoints says where checkpoints go, so that somebody else remembers them.
type Checkpoints struct {
	// Every is the least time between two of them at one place. Default 10m.
	Every  time.Duration    `yaml:"every"`
	SendTo []CheckpointSink `yaml:"send_to"`
}

// CheckpointSink is a place that checkpoints are sent to: exactly one of File, Webhook and Put.
type CheckpointSink struct {
	// Name appears in entries and metrics. Letters, digits, "_" and "-"; required.
	Name string `yaml:"name"`
	// File is appended to, on a volume that is another's, or that can be appended to only.
	File Path `yaml:"file"`
	// Webhook is posted to (docs/spec/webhooks.md); SecretFile signs what is sent.
	Webhook    string `yaml:"webhook"`
	SecretFile Path   `yaml:"secret_file"`
	// Put is an object's URL, for HTTP PUT; "{size}" in it is the checkpoint's size.
	Put string `yaml:"put"`
	// HeadersFile holds header lines for Put, such as "Authorization: Bearer ..."; it is
	// read for each object.
	HeadersFile Path `yaml:"headers_file"`
	// CAFile is for a Webhook or Put with a certificate of a private CA.
	CAFile Path `yaml:"ca_file"`
}

func defaultWitnesses() Witnesses {
	return Witnesses{Timeout: 5 * time.Second, MaxAge: 10 * time.Minute}
}

// maxSinks bounds the places that checkpoints go to.
const maxSinks = 20

func (d *decoder) witnesses(t Trail) {
	w := t.Witnesses
	d.between("trail.witnesses.timeout", w.Timeout, 100*time.Millisecond, time.Minute)
	d.between("trail.witnesses.max_age", w.MaxAge, 10*time.Second, 30*24*time.Hour)
	if w.Require && !w.On() {
		d.invalid("trail.witnesses.require", "set policy_file too: there is nobody whom calls could need")
	}
	if w.Require && w.On() && w.MaxAge < 2*w.Timeout {
		d.invalid("trail.witnesses.max_age", "must be twice the timeout at least, or calls are refused while witnesses are being asked")
	}
	d.between("trail.checkpoints.every", t.Checkpoints.Every, time.Second, 30*24*time.Hour)
	if len(t.Checkpoints.SendTo) > maxSinks {
		d.invalid("trail.checkpoints.send_to", "%d places; at most %d", len(t.Checkpoints.SendTo), maxSinks)
	}
	names := map[string]bool{}
	for i, s := range t.Checkpoints.SendTo {
		key := fmt.Sprintf("trail.checkpoints.send_to[%d]", i)
		switch {
		case !namePattern.MatchString(s.Name):
			d.invalid(key+".name", "%q: want lower-case letters, digits, '_' and '-', beginning with a letter", s.Name)
		case names[s.Name]:
			d.invalid(key+".name", "%q is there already", s.Name)
		}
		names[s.Name] = true
		d.sink(key, s)
	}
}

func (d *decoder) sink(key string, s CheckpointSink) {
	given := 0
	for _, v := range []string{s.File.String(), s.Webhook, s.Put} {
		if v != "" {
			given++
		}
	}
	if given != 1 {
		d.invalid(key, "want one of file, webhook and put")
		return
	}
	if s.File != "" && strings.HasSuffix(s.File.String(), string(filepath.Separator)) {
		d.invalid(key+".file", "want a file, not a directory")
	}
	if (s.Webhook != "") != (s.SecretFile != "") {
		d.invalid(key+".secret_file", "goes with webhook: it signs what is sent there")
	}
	if s.HeadersFile != "" && s.Put == "" {
		d.invalid(key+".headers_file", "goes with put")
	}
	if s.Webhook != "" {
		d.secretURL(key+".webhook", s.Webhook)
	}
	if s.Put != "" {
		d.secretURL(key+".put", strings.ReplaceAll(s.Put, "{size}", "1"))
	}
}

// secretURL checks a URL that may be as good as a password: a message repeats nothing of it.
func (d *decoder) secretURL(key, s string) {
	u, err := url.Parse(s)
	switch {
	case err != nil, u.Hostname() == "", u.Scheme != "https" && u.Scheme != "http", u.User != nil, u.Fragment != "":
		d.invalid(key, "want an https URL without a password")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		d.invalid(key, "want https, or http on loopback")
	}
}
