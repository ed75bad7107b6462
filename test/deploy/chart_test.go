// Package deploy holds what deploy/ offers to what it is for: the charts pass
// helm's own linter and render to what Kubernetes' types accept, the
// configuration in them is one that trailgate takes, the units satisfy systemd,
// and the program runs as it does in the image: alone in its file system, as nobody.
//
// It is a module of its own, as helm's libraries are none of Trailgate's.
package deploy

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	sigsyaml "sigs.k8s.io/yaml"
)

const root = "../.."

// binary is trailgate as the image holds it, built by TestMain with the
// Dockerfile's own command.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "trailgate-deploy")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	binary = filepath.Join(dir, "trailgate")
	if err := buildAsImage(binary); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// values are what a user writes, from YAML.
func values(t *testing.T, text string) map[string]any {
	t.Helper()
	v, err := chartutil.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func load(t *testing.T, name string) *chart.Chart {
	t.Helper()
	c, err := loader.Load(filepath.Join(root, "deploy", "helm", name))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render is "helm template": every document, by kind and name.
func render(t *testing.T, name, text string) (map[string]any, error) {
	t.Helper()
	c := load(t, name)
	caps := chartutil.DefaultCapabilities.Copy()
	release := chartutil.ReleaseOptions{Name: "prod", Namespace: "audit", Revision: 1, IsInstall: true}
	v, err := chartutil.ToRenderValues(c, values(t, text), release, caps)
	if err != nil {
		return nil, err
	}
	files, err := engine.Render(c, v)
	if err != nil {
		return nil, err
	}
	docs := map[string]any{}
	for path, text := range files {
		if strings.HasSuffix(path, "NOTES.txt") {
			if strings.Contains(text, "<no value>") {
				t.Errorf("%s:\n%s", path, text)
			}
			continue
		}
		r := yaml.NewYAMLReader(newBuffered(text))
		for {
			raw, err := r.Read()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			if kind, doc := decode(t, path, raw); kind != "" {
				if docs[kind] != nil {
					t.Errorf("%s is there twice", kind)
				}
				docs[kind] = doc
			}
		}
	}
	return docs, nil
}

// decode reads a document strictly into Kubernetes' own type.
func decode(t *testing.T, path string, raw []byte) (string, any) {
	t.Helper()
	var head struct {
		Kind     string `json:"kind"`
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	}
	if err := sigsyaml.Unmarshal(raw, &head); err != nil {
		t.Fatalf("%s: %v\n%s", path, err, raw)
	}
	if head.Kind == "" {
		if len(bytes.TrimSpace(raw)) > 0 && !bytes.HasPrefix(bytes.TrimSpace(raw), []byte("#")) {
			t.Errorf("%s: no kind:\n%s", path, raw)
		}
		return "", nil
	}
	into := map[string]any{
		"ConfigMap": &corev1.ConfigMap{}, "Service": &corev1.Service{}, "ServiceAccount": &corev1.ServiceAccount{},
		"PersistentVolumeClaim": &corev1.PersistentVolumeClaim{}, "Secret": &corev1.Secret{},
		"StatefulSet": &appsv1.StatefulSet{}, "Deployment": &appsv1.Deployment{},
		"Job": &batchv1.Job{}, "NetworkPolicy": &networkingv1.NetworkPolicy{},
		"PodDisruptionBudget": &policyv1.PodDisruptionBudget{},
	}[head.Kind]
	if into == nil {
		t.Fatalf("%s: a %s: say in this test what it is", path, head.Kind)
	}
	if err := sigsyaml.UnmarshalStrict(raw, into); err != nil {
		t.Errorf("%s: %v\n%s", path, err, raw)
	}
	return head.Kind + "/" + head.Metadata.Name, into
}

// lints runs helm's linter with values that make a whole chart.
func lints(t *testing.T, name, text string) {
	t.Helper()
	result := lint.All(filepath.Join(root, "deploy", "helm", name), values(t, text), "audit", true)
	for _, m := range result.Messages {
		if m.Severity >= support.WarningSev {
			t.Error(m)
		}
	}
	for _, err := range result.Messages {
		t.Log(err)
	}
}

// acceptsConfig has trailgate read a configuration.
func acceptsConfig(t *testing.T, text string, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "trailgate.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(binary, "policy", "check", "--config", path).CombinedOutput(); err != nil {
		t.Errorf("trailgate refuses the configuration: %v\n%s\n%s", err, out, text)
	}
}

const gatewayValues = `
id: prod
image: {repository: registry.example.com/trailgate, tag: "1.0"}
publicURL: https://trailgate.example.com
tls: {secretName: trailgate-tls}
config:
  connections:
    - name: analytics
      projects: [my-project]
      credential:
        mode: impersonation
        service_account: "agent-{agent}@my-agents.iam.gserviceaccount.com"
`

const everyValue = gatewayValues + `
policies:
  rules.yaml: |
    version: 1
    rules:
      - name: reads
        when: class == "read"
        allow: {}
createLog: false
persistence: {existingClaim: old-data}
connectors: {enabled: true, type: LoadBalancer}
admin: {enabled: true, tlsSecretName: admin-tls, publicURL: "https://audit.example.com"}
networkPolicy:
  agents: [{podSelector: {matchLabels: {role: agent}}}]
  humans: [{ipBlock: {cidr: 10.0.0.0/8}}]
  connectors: [{ipBlock: {cidr: 10.1.0.0/16}}]
serviceAccount: {annotations: {iam.gke.io/gcp-service-account: trailgate@my-gateway.iam.gserviceaccount.com}}
extraSecrets: [{name: oauth-client}]
imagePullSecrets: [{name: pull}]
nodeSelector: {disk: ssd}
tolerations: [{key: audit, operator: Exists}]
affinity: {nodeAffinity: {}}
podAnnotations: {a: b}
priorityClassName: high
`

func TestGatewayChart(t *testing.T) {
	lints(t, "trailgate", gatewayValues)
	docs, err := render(t, "trailgate", gatewayValues)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ConfigMap/prod-trailgate", "Job/prod-trailgate-init", "NetworkPolicy/prod-trailgate",
		"PersistentVolumeClaim/prod-trailgate-data", "Service/prod-trailgate", "ServiceAccount/prod-trailgate", "StatefulSet/prod-trailgate",
	}
	if got := keys(docs); !slices.Equal(got, want) {
		t.Errorf("documents %q, want %q", got, want)
	}
	set := docs["StatefulSet/prod-trailgate"].(*appsv1.StatefulSet)
	if n := *set.Spec.Replicas; n != 1 {
		t.Errorf("%d replicas: two gateways must not share a log", n)
	}
	hardened(t, set.Spec.Template.Spec)
	mounts(t, set.Spec.Template.Spec)
	if !slices.ContainsFunc(set.Spec.Template.Spec.Containers[0].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == "/tmp" }) {
		t.Error("there is no /tmp, where verify sorts what it compares")
	}
	job := docs["Job/prod-trailgate-init"].(*batchv1.Job)
	hardened(t, job.Spec.Template.Spec)
	mounts(t, job.Spec.Template.Spec)
	// A log is made by an installation alone, never by an upgrade or a restart.
	if hook := job.Annotations["helm.sh/hook"]; hook != "pre-install" {
		t.Errorf("the job that makes the log runs at %q", hook)
	}
	for _, c := range append(set.Spec.Template.Spec.InitContainers, set.Spec.Template.Spec.Containers...) {
		if slices.Contains(c.Args, "init") || slices.Contains(c.Command, "init") {
			t.Errorf("container %s makes a log at each start", c.Name)
		}
	}
	if keep := docs["PersistentVolumeClaim/prod-trailgate-data"].(*corev1.PersistentVolumeClaim).Annotations["helm.sh/resource-policy"]; keep != "keep" {
		t.Error("removing the release would remove the trail")
	}
	// The service reaches the pods, and the job's pod is none of them.
	service := docs["Service/prod-trailgate"].(*corev1.Service)
	if !selects(service.Spec.Selector, set.Spec.Template.Labels) || selects(service.Spec.Selector, job.Spec.Template.Labels) {
		t.Errorf("the service selects %v", service.Spec.Selector)
	}
	acceptsConfig(t, docs["ConfigMap/prod-trailgate"].(*corev1.ConfigMap).Data["trailgate.yaml"], nil)
}

func TestGatewayChartWithEverything(t *testing.T) {
	text := strings.Replace(everyValue, "config:\n", "config:\n  policy: {files: [policies/rules.yaml]}\n", 1)
	lints(t, "trailgate", text)
	docs, err := render(t, "trailgate", text)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"ConfigMap/prod-trailgate", "NetworkPolicy/prod-trailgate", "Service/prod-trailgate", "Service/prod-trailgate-admin",
		"Service/prod-trailgate-connectors", "ServiceAccount/prod-trailgate", "StatefulSet/prod-trailgate",
	}
	if got := keys(docs); !slices.Equal(got, want) {
		t.Errorf("documents %q, want %q", got, want)
	}
	pod := docs["StatefulSet/prod-trailgate"].(*appsv1.StatefulSet).Spec.Template.Spec
	hardened(t, pod)
	mounts(t, pod)
	data := docs["ConfigMap/prod-trailgate"].(*corev1.ConfigMap).Data
	if !strings.Contains(data["policy.rules.yaml"], "name: reads") {
		t.Errorf("the policy is not in the config map: %v", data)
	}
	acceptsConfig(t, data["trailgate.yaml"], map[string]string{"policies/rules.yaml": data["policy.rules.yaml"]})
}

// TestGatewayChartRefuses: what would run wrongly is not rendered, and the
// message says what is missing.
func TestGatewayChartRefuses(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"no id", "id: prod", `id: ""`, "id: name this gateway"},
		{"no image", "repository: registry.example.com/trailgate, ", "", "image.repository"},
		{"no address", "publicURL: https://trailgate.example.com", "", "publicURL"},
		{"no TLS", "tls: {secretName: trailgate-tls}", "", "tls.plaintext: true"},
		{"no connection", "connections:\n    - name: analytics", "other:\n    - name: analytics", "config.connections"},
		{"a value that is none", "id: prod", "id: prod\nreplicas: 2", "replicas"},
		{"an id in the configuration", "config:\n", "config:\n  id: other\n", "config"},
		{"humans without a certificate", "id: prod", "id: prod\nadmin: {enabled: true, publicURL: https://a}", "admin.tlsSecretName"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(gatewayValues, c.from, c.to, 1)
			if text == gatewayValues {
				t.Fatal("nothing was changed")
			}
			_, err := render(t, "trailgate", text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// hardened holds a pod to Kubernetes' "restricted" standard, and a little more.
// https://kubernetes.io/docs/concepts/security/pod-security-standards/
func hardened(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	s := pod.SecurityContext
	if s == nil || s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.RunAsUser == nil || *s.RunAsUser != 65532 ||
		s.SeccompProfile == nil || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod may run as root or without seccomp: %+v", s)
	}
	if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
		t.Error("the pod is handed a token of Kubernetes' own")
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("the pod shares the host's namespaces")
	}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		s := c.SecurityContext
		if s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem ||
			s.Capabilities == nil || !slices.Contains(s.Capabilities.Drop, "ALL") || len(s.Capabilities.Add) > 0 {
			t.Errorf("container %s: %+v", c.Name, s)
		}
		if c.Resources.Limits.Memory().IsZero() {
			t.Errorf("container %s: no bound on memory", c.Name)
		}
	}
}

// mounts checks that each mount has its volume, and each volume a mount.
func mounts(t *testing.T, pod corev1.PodSpec) {
	t.Helper()
	used := map[string]bool{}
	for _, v := range pod.Volumes {
		used[v.Name] = false
	}
	for _, c := range append(pod.InitContainers, pod.Containers...) {
		for _, m := range c.VolumeMounts {
			if _, there := used[m.Name]; !there {
				t.Errorf("container %s mounts %s, which is no volume", c.Name, m.Name)
			}
			used[m.Name] = true
		}
	}
	for name, mounted := range used {
		if !mounted {
			t.Errorf("volume %s is mounted nowhere", name)
		}
	}
}

func selects(selector, labels map[string]string) bool {
	for k, v := range selector {
		if labels[k] != v {
			return false
		}
	}
	return len(selector) > 0
}

func keys(m map[string]any) []string {
	var all []string
	for k := range m {
		all = append(all, k)
	}
	slices.Sort(all)
	return all
}

const connectorValues = `
image: {repository: registry.example.com/trailgate, tag: "1.0"}
gateway: trailgate.example.com:8472
gatewayCA: |
  -----BEGIN CERTIFICATE-----
  MIIB
  -----END CERTIFICATE-----
identity: {audience: trailgate-connectors}
config:
  connections:
    - name: inside
      credential:
        mode: impersonation
        service_account: "agent-{agent}@my-agents.iam.gserviceaccount.com"
`

func TestConnectorChart(t *testing.T) {
	for _, mode := range []string{"gcp", "token", "certificate"} {
		t.Run(mode, func(t *testing.T) {
			text, alone := connectorValues, mode != "token"
			if alone {
				text = strings.Replace(text, "identity: {", "replicas: 1\nidentity: {certificateSecret: own, mode: "+mode+", ", 1)
			}
			lints(t, "trailgate-connector", text)
			docs, err := render(t, "trailgate-connector", text)
			if err != nil {
				t.Fatal(err)
			}
			want := []string{
				"ConfigMap/prod-trailgate-connector", "NetworkPolicy/prod-trailgate-connector", "PodDisruptionBudget/prod-trailgate-connector",
				"ServiceAccount/prod-trailgate-connector", "StatefulSet/prod-trailgate-connector",
			}
			if alone {
				want = slices.Delete(want, 2, 3) // a budget would keep the one pod from ever being moved
			}
			if got := keys(docs); !slices.Equal(got, want) {
				t.Errorf("documents %q, want %q", got, want)
			}
			pod := docs["StatefulSet/prod-trailgate-connector"].(*appsv1.StatefulSet).Spec.Template.Spec
			hardened(t, pod)
			mounts(t, pod)
			for _, v := range pod.Volumes {
				if v.PersistentVolumeClaim != nil || v.EmptyDir != nil {
					t.Errorf("volume %s: a connector in a cluster writes nothing", v.Name)
				}
			}
			if in := docs["NetworkPolicy/prod-trailgate-connector"].(*networkingv1.NetworkPolicy).Spec; len(in.Ingress) > 0 || !slices.Contains(in.PolicyTypes, networkingv1.PolicyTypeIngress) {
				t.Error("something may connect to the connectors")
			}
			data := docs["ConfigMap/prod-trailgate-connector"].(*corev1.ConfigMap).Data
			runsConnector(t, data["connector.yaml"], data["ca.pem"])
		})
	}
}

func TestConnectorChartRefuses(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"no gateway", "gateway: trailgate.example.com:8472", `gateway: ""`, "gateway: host:port"},
		{"no authority", "gatewayCA: |", "gatewayCA: \"\"\n#", "gatewayCA"},
		{"no audience", "identity: {audience: trailgate-connectors}", "", "identity.audience"},
		{"no certificate", "identity: {audience: trailgate-connectors}", "replicas: 1\nidentity: {mode: certificate}", "identity.certificateSecret"},
		{"two of one identity", "identity: {", "identity: {mode: gcp, ", "replicas: 1"},
		{"no connection", "connections:", "allow: [https://bigquery.googleapis.com]\n  other:", "config.connections"},
		{"a listener", "config:\n", "config:\n  health: 0.0.0.0:80\n", "config"},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace(connectorValues, c.from, c.to, 1)
			if c.name == "no authority" {
				text = strings.Replace(connectorValues, connectorValues[strings.Index(connectorValues, "gatewayCA"):strings.Index(connectorValues, "identity:")], "gatewayCA: \"\"\n", 1)
			}
			_, err := render(t, "trailgate-connector", text)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

// adc stands for the credential of the connector's environment, which nothing asks for
// before a call comes.
const adc = `{"type":"authorized_user","client_id":"a","client_secret":"b","refresh_token":"c"}`

// runsConnector has trailgate run with a connector's file, against a gateway that is
// not there: it takes the file, tells how it stands, and stops when it is told to.
func runsConnector(t *testing.T, text, ca string) {
	t.Helper()
	dir := t.TempDir()
	health := freeAddr(t)
	cert, key := selfSigned(t)
	// Where the chart mounts things, and who is reached, is not here.
	for _, swap := range [][2]string{
		{"health: :8473", "health: " + health}, {"trailgate.example.com:8472", freeAddr(t)}, {"/etc/trailgate/", dir + "/"},
	} {
		text = strings.ReplaceAll(text, swap[0], swap[1])
	}
	if ca == "" {
		t.Error("no authority")
	}
	for name, content := range map[string]string{"connector.yaml": text, "ca.pem": cert, "identity/tls.crt": cert, "identity/tls.key": key, "identity/token": "x", "adc.json": adc} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(binary, "connector", "--config", filepath.Join(dir, "connector.yaml"))
	cmd.Env = append(os.Environ(), "GOOGLE_APPLICATION_CREDENTIALS="+filepath.Join(dir, "adc.json"))
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	deadline := time.Now().Add(time.Minute)
	for {
		resp, err := http.Get("http://" + health + "/healthz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				t.Errorf("healthz: %s", resp.Status)
			}
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("connector: %v\n%s\n%s", err, &log, text)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatal("the connector does not tell how it stands")
		}
	}
	resp, err := http.Get("http://" + health + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("ready without a gateway: %s", resp.Status)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("connector ended with %v\n%s", err, &log)
	}
}

// selfSigned is a certificate that is its own authority, and its key, in PEM.
func selfSigned(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
}
