package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnits: systemd takes each unit as it stands, and finds little in it that
// could be taken from the service without harm.
func TestUnits(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("this test asks systemd-analyze about the units: install systemd (on Debian: apt-get install systemd)")
	}
	units, err := filepath.Glob(filepath.Join(root, "deploy", "systemd", "*.service"))
	if err != nil || len(units) == 0 {
		t.Fatalf("no units: %v", err)
	}
	for _, unit := range units {
		t.Run(filepath.Base(unit), func(t *testing.T) {
			raw, err := os.ReadFile(unit)
			if err != nil {
				t.Fatal(err)
			}
			const installed = "/usr/local/bin/trailgate"
			if !strings.Contains(string(raw), "ExecStart="+installed+" ") {
				t.Errorf("it does not start %s", installed)
			}
			// The program is not installed on a machine that only tests.
			here := filepath.Join(t.TempDir(), filepath.Base(unit))
			if err := os.WriteFile(here, []byte(strings.ReplaceAll(string(raw), installed, binary)), 0o644); err != nil {
				t.Fatal(err)
			}
			out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", here).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
			// 0 is shut in altogether, 100 is open; most services as distributed are above 90.
			out, err = exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=20", here).CombinedOutput()
			if err != nil {
				t.Errorf("systemd-analyze security: %v\n%s", err, out)
			}
		})
	}
}
