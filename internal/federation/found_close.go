package federation

import (
	"regexp"
	"strings"
)

// projectForm is a project's name (https://cloud.google.com/resource-manager/docs/creating-managing-projects),
// also those of a domain ("example.com:name").
var projectForm = regexp.MustCompile(`^([a-z0-9.-]{1,63}:)?[a-z][a-z0-9-]{4,28}[a-z0-9]$`)

// IsProject reports whether a name can be a project's, and so fits into paths and
// commands.
func IsProject(name string) bool { return projectForm.MatchString(name) }

// Close says how what was found is taken away from whoever runs there: Google's own
// commands, one a line, fit for a shell.
func (f *Found) Close() string {
	var lines []string
	account := strings.TrimPrefix(f.Account, "serviceAccount:")
	switch f.Type {
	case "service_account":
		key, of := "KEY", "ACCOUNT"
		if f.keyID != "" {
			key = f.keyID
		}
		if account != "" {
			of = account
		}
		lines = append(lines, "gcloud iam service-accounts keys delete "+key+" --iam-account="+of,
			"rm "+quote(f.file))
		if _, domain, ok := strings.Cut(account, "@"); ok {
			if project, ok := strings.CutSuffix(domain, ".iam.gserviceaccount.com"); ok {
				lines = append(lines, "# and no new ones: the organisation policy iam.disableServiceAccountKeyCreation on project "+project)
			}
		}
	case "authorized_user", "external_account_authorized_user":
		if f.login {
			lines = append(lines, "gcloud auth revoke "+quote(strings.TrimPrefix(f.Account, "user:")))
		} else {
			lines = append(lines, "gcloud auth application-default revoke", "rm -f "+quote(f.file))
		}
		lines = append(lines, "# and run agents as a user of the machine who is nobody at Google")
	case "impersonated_service_account":
		of := "ACCOUNT"
		if account != "" {
			of = account
		}
		lines = append(lines, "gcloud iam service-accounts get-iam-policy "+of+"     # whose MEMBER it is that may become it",
			"gcloud iam service-accounts remove-iam-policy-binding "+of+" --member=MEMBER --role=roles/iam.serviceAccountTokenCreator",
			"rm "+quote(f.file))
	case "external_account":
		lines = append(lines, "rm "+quote(f.file),
			"# and let the pool's provider take the gateway's assertions alone (docs/gcp-setup.md#signed-by-the-gateway):",
			"gcloud iam workload-identity-pools providers update-oidc PROVIDER --project=PROJECT --location=global --workload-identity-pool=POOL --attribute-condition=\"assertion.gateway == 'trailgate'\"")
	case "metadata":
		lines = append(lines, "# Compute Engine, with the machine stopped:",
			"gcloud compute instances set-service-account INSTANCE --no-service-account --no-scopes",
			"# GKE: bind no Google account to the agents' Kubernetes accounts, and keep them from 169.254.169.254 by a network policy")
	case "access_token":
		if f.file != "" {
			lines = append(lines, "rm "+quote(f.file))
		} else {
			lines = append(lines, "unset "+f.Where)
		}
		lines = append(lines, "# the token ends by itself, as a rule within an hour; find out who puts it there")
	default:
		lines = append(lines, "rm "+quote(f.file))
	}
	return strings.Join(lines, "\n")
}

// CloseProject says how a project is closed to what was found, whoever holds it: by
// IAM, and by a perimeter of VPC Service Controls.
func (f *Found) CloseProject(project string) string {
	if !IsProject(project) {
		project = "PROJECT"
	}
	member := "MEMBER"
	if f.Account != "" {
		member = quote(f.Account)
	}
	list := "gcloud projects get-iam-policy " + project + " --flatten='bindings[].members' --format='table(bindings.role, bindings.members)'"
	if f.Account != "" {
		list += " --filter=" + quote("bindings.members="+f.Account)
	}
	return strings.Join([]string{
		"# IAM: what gives it access (groups and folders too: gcloud asset analyze-iam-policy), and taking that away,",
		"# unless it is the account that the gateway becomes for the agent",
		list,
		"gcloud projects remove-iam-policy-binding " + project + " --member=" + member + " --role=ROLE",
		"# VPC Service Controls: nobody uses BigQuery there but from the gateway's address, whatever the credential.",
		"# ingress.yaml lets the agents' accounts in from it (docs/gcp-setup.md#the-perimeter)",
		"NUMBER=$(gcloud projects describe " + project + " --format='value(projectNumber)')",
		"gcloud access-context-manager perimeters dry-run create trailgate --policy=POLICY --perimeter-title=trailgate --perimeter-type=regular" +
			" --perimeter-resources=projects/$NUMBER --perimeter-ingress-policies=ingress.yaml" +
			" --perimeter-restricted-services=bigquery.googleapis.com,bigquerystorage.googleapis.com,iamcredentials.googleapis.com,sts.googleapis.com",
		"gcloud access-context-manager perimeters dry-run enforce trailgate --policy=POLICY",
	}, "\n")
}
