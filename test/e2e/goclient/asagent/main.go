// Asagent asks BigQuery through the official Go library as one agent, with the
// kind of credential that the environment names. It reads questions from stdin,
// one JSON object a line, and prints what each gave, so that whoever runs it can
// change the world between two of them.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"cloud.google.com/go/bigquery"
	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
)

func main() {
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "asagent:", err)
		os.Exit(1)
	}
}

// question is one line of input.
type question struct {
	Project string `json:"project"`
	SQL     string `json:"sql"`
}

// answer is one line of output. Code is 0 where an error is not one of the API's.
type answer struct {
	Value   string `json:"value,omitempty"` // of the first column of the first row
	Failed  bool   `json:"failed,omitempty"`
	Code    int    `json:"code,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

func run(ctx context.Context) error {
	opts, err := credentials()
	if err != nil {
		return err
	}
	opts = append(opts, option.WithEndpoint(os.Getenv("TRAILGATE_GATEWAY")+"/bigquery/v2/"))
	clients := map[string]*bigquery.Client{} // by project, as a program would keep them
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var q question
		if err := json.Unmarshal(in.Bytes(), &q); err != nil {
			return err
		}
		c := clients[q.Project]
		if c == nil {
			if c, err = bigquery.NewClient(ctx, q.Project, opts...); err != nil {
				return err
			}
			defer c.Close()
			clients[q.Project] = c
		}
		if err := out.Encode(ask(ctx, c, q.SQL)); err != nil {
			return err
		}
	}
	return in.Err()
}

// credentials are, by what is set: an external_account file, a client certificate,
// or a file with a bearer token. The CA is trusted by
// SSL_CERT_FILE.
func credentials() ([]option.ClientOption, error) {
	if file := os.Getenv("CREDENTIALS"); file != "" {
		return []option.ClientOption{option.WithAuthCredentialsFile(option.ExternalAccount, file)}, nil
	}
	if file := os.Getenv("CLIENT_CERT"); file != "" {
		pair, err := tls.LoadX509KeyPair(file, os.Getenv("CLIENT_KEY"))
		if err != nil {
			return nil, err
		}
		roots, err := x509.SystemCertPool()
		if err != nil {
			return nil, err
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}
		return []option.ClientOption{option.WithHTTPClient(&http.Client{Transport: transport})}, nil
	}
	return []option.ClientOption{option.WithTokenSource(tokenFile(os.Getenv("TOKEN_FILE")))}, nil
}

type tokenFile string

func (f tokenFile) Token() (*oauth2.Token, error) {
	raw, err := os.ReadFile(string(f))
	if err != nil {
		return nil, err
	}
	return &oauth2.Token{AccessToken: strings.TrimSpace(string(raw))}, nil
}

func ask(ctx context.Context, c *bigquery.Client, sql string) answer {
	it, err := c.Query(sql).Read(ctx)
	if err != nil {
		return told(err)
	}
	var values []bigquery.Value
	switch err := it.Next(&values); {
	case errors.Is(err, iterator.Done):
		return answer{}
	case err != nil:
		return told(err)
	case len(values) == 0:
		return answer{Failed: true, Message: "a row without a column"}
	}
	return answer{Value: fmt.Sprint(values[0])}
}

// told is an error as a program sees it.
func told(err error) answer {
	a := answer{Failed: true, Message: err.Error()}
	var api *googleapi.Error
	if errors.As(err, &api) {
		a.Code, a.Message = api.Code, api.Message
		if len(api.Errors) > 0 {
			a.Reason = api.Errors[0].Reason
		}
	}
	return a
}
