"""Asks BigQuery as one agent through Python's google-auth, on which google-cloud-bigquery
rests, with the credential file that the environment names (GOOGLE_APPLICATION_CREDENTIALS).
It reads questions from stdin, one JSON object a line, and prints what each gave. Its twins
are goclient/asagent and node/asagent.mjs."""

import json
import os
import sys

import google.auth
from google.auth.transport.requests import AuthorizedSession

credentials, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/bigquery"])
session = AuthorizedSession(credentials)


def ask(project, sql):
    answer = session.post(
        os.environ["TRAILGATE_GATEWAY"] + "/bigquery/v2/projects/" + project + "/queries",
        json={"query": sql, "useLegacySql": False},
    )
    body = answer.json()
    if answer.status_code == 200:
        return {"value": body["rows"][0]["f"][0]["v"]}
    error = body["error"]
    return {"failed": True, "code": error["code"], "reason": error["errors"][0]["reason"], "message": error["message"]}


for line in sys.stdin:
    question = json.loads(line)
    print(json.dumps(ask(question["project"], question["sql"])), flush=True)
