package federation_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/trailgate/trailgate/internal/federation"
	"github.com/trailgate/trailgate/internal/idptest"
)

// nowhere is a metadata server that is not there.
const nowhere = "127.0.0.1:1"

func writeFile(t *testing.T, text string, path ...string) string {
	t.Helper()
	at := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

// TestFind: every place that Google's libraries and gcloud take a credential from,
// each once, and none of the gateway's own tokens.
func TestFind(t *testing.T) {
	home, conf := t.TempDir(), t.TempDir()
	key := string(idptest.NewGoogle(t).ServiceAccountKey("bot@demo-project.iam.gserviceaccount.com"))
	own := writeFile(t, "tgt_abc\n", home, "token")
	odd := writeFile(t, "opaque\n", home, "odd")
	env := map[string]string{
		"GCE_METADATA_HOST":               nowhere,
		"GOOGLE_APPLICATION_CREDENTIALS":  writeFile(t, key, home, "key's.json"),
		"CLOUDSDK_CONFIG":                 conf,
		"CLOUDSDK_AUTH_ACCESS_TOKEN":      "ya29.secret",
		"CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": own,
		"GOOGLE_OAUTH_ACCESS_TOKEN":       "tgs_sealed",
	}
	writeFile(t, `{"type":"authorized_user","client_id":"a","client_secret":"b","refresh_token":"1//c"}`, home, ".config/gcloud/application_default_credentials.json")
	writeFile(t, `{"type":"authorized_user","client_id":"a","client_secret":"b","refresh_token":"1//c"}`, home, ".config/gcloud/legacy_credentials/ada@example.com/adc.json")
	writeFile(t, `{"type":"external_account","audience":"//iam.googleapis.com/x","service_account_impersonation_url":"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/far@demo-project.iam.gserviceaccount.com:generateAccessToken"}`,
		conf, "application_default_credentials.json")
	writeFile(t, "nothing", conf, "legacy_credentials/eve@example.com/adc.json")
	place := federation.Place{Getenv: func(name string) string { return env[name] }, Home: home}
	type row struct{ Where, Type, Account string }
	list := func() (rows []row, closes string, unread []error) {
		found, unread := federation.Find(t.Context(), place)
		for _, f := range found {
			rows = append(rows, row{strings.NewReplacer(home, "HOME", conf, "CONF").Replace(f.Where), f.Type, f.Account})
			closes += f.Close() + "\n"
		}
		return rows, closes, unread
	}
	got, closes, unread := list()
	want := []row{
		{"CLOUDSDK_AUTH_ACCESS_TOKEN", "access_token", ""},
		{"GOOGLE_APPLICATION_CREDENTIALS, HOME/key's.json", "service_account", "serviceAccount:bot@demo-project.iam.gserviceaccount.com"},
		{"CONF/application_default_credentials.json", "external_account", "serviceAccount:far@demo-project.iam.gserviceaccount.com"},
		{"HOME/.config/gcloud/application_default_credentials.json", "authorized_user", ""},
		{"HOME/.config/gcloud/legacy_credentials/ada@example.com/adc.json", "authorized_user", "user:ada@example.com"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if len(unread) != 1 || !strings.Contains(unread[0].Error(), "eve@example.com") {
		t.Errorf("unread: %v", unread)
	}
	for _, want := range []string{
		"unset CLOUDSDK_AUTH_ACCESS_TOKEN\n",
		" --iam-account=bot@demo-project.iam.gserviceaccount.com\n", `key'\''s.json'`, "iam.disableServiceAccountKeyCreation on project demo-project\n",
		"gcloud iam workload-identity-pools providers update-oidc ", "gcloud auth application-default revoke\n", "gcloud auth revoke 'ada@example.com'\n",
	} {
		if !strings.Contains(closes, want) {
			t.Errorf("%q is not in what closes them:\n%s", want, closes)
		}
	}
	for _, secret := range []string{"ya29", "1//c", "PRIVATE KEY"} {
		if strings.Contains(closes, secret) {
			t.Errorf("%q is shown", secret)
		}
	}
	// The same file by two names is one credential; a token that the gateway gave is
	// known as such also where its form is not.
	env["CLOUDSDK_CONFIG"] = filepath.Join(home, ".config", "gcloud")
	env["CLOUDSDK_AUTH_ACCESS_TOKEN"] = "opaque"
	env["TRAILGATE_TOKEN_FILE"] = odd
	got, _, _ = list()
	if len(got) != 3 || slices.ContainsFunc(got, func(r row) bool { return r.Type == "access_token" }) {
		t.Errorf("by two names: %v", got)
	}
	// What a variable names and is not there is said.
	env["GOOGLE_APPLICATION_CREDENTIALS"] = filepath.Join(home, "gone.json")
	if _, _, unread = list(); len(unread) != 1 || !strings.Contains(unread[0].Error(), "GOOGLE_APPLICATION_CREDENTIALS") {
		t.Errorf("a file that is gone: %v", unread)
	}
}

// TestFindMetadata: the metadata server counts where it is Google's, and only then.
func TestFindMetadata(t *testing.T) {
	flavor := "Google"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Metadata-Flavor") != "Google" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		w.Header().Set("Metadata-Flavor", flavor)
		switch strings.TrimPrefix(r.URL.Path, "/computeMetadata/v1/instance/service-accounts/default/") {
		case "token":
			_, _ = io.WriteString(w, `{"access_token":"ya29.machine","expires_in":3599,"token_type":"Bearer"}`)
		case "email":
			_, _ = io.WriteString(w, "1234-compute@developer.gserviceaccount.com")
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	env := map[string]string{"GCE_METADATA_HOST": strings.TrimPrefix(server.URL, "http://")}
	place := federation.Place{Getenv: func(name string) string { return env[name] }}
	found, unread := federation.Find(t.Context(), place)
	if len(found) != 1 || len(unread) > 0 || found[0].Account != "serviceAccount:1234-compute@developer.gserviceaccount.com" {
		t.Fatalf("found %+v, %v", found, unread)
	}
	if token, err := found[0].Token(t.Context()); token != "ya29.machine" || err != nil {
		t.Errorf("token %q, %v", token, err)
	}
	if fix := found[0].Close(); !strings.Contains(fix, "--no-service-account") {
		t.Error(fix)
	}
	flavor = "other"
	if found, _ := federation.Find(t.Context(), place); len(found) > 0 {
		t.Errorf("another server: %+v", found)
	}
}

// TestCloseProject: a project's name from elsewhere is no way into a shell.
func TestCloseProject(t *testing.T) {
	f := federation.Found{Type: "authorized_user", Account: "user:o'neil@example.com"}
	fix := f.CloseProject("demo-project")
	for _, want := range []string{
		`gcloud projects remove-iam-policy-binding demo-project --member='user:o'\''neil@example.com' --role=ROLE`,
		"perimeters dry-run create trailgate ", "gcloud projects describe demo-project ",
	} {
		if !strings.Contains(fix, want) {
			t.Errorf("%q is not in\n%s", want, fix)
		}
	}
	if fix := f.CloseProject("$(reboot)"); strings.Contains(fix, "reboot") {
		t.Error(fix)
	}
}
