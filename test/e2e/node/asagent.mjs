// Asks BigQuery through npm's @google-cloud/bigquery as one agent, with the credential
// file that the environment names (GOOGLE_APPLICATION_CREDENTIALS), as a program of that
// agent would. It reads questions from stdin, one JSON object a line, and prints what
// each gave. Its twin in Go is goclient/asagent.

import {createInterface} from 'node:readline';
import {BigQuery} from '@google-cloud/bigquery';

const clients = new Map(); // by project, as a program would keep them

async function ask({project, sql}) {
  if (!clients.has(project)) {
    clients.set(project, new BigQuery({projectId: project, apiEndpoint: process.env.TRAILGATE_GATEWAY}));
  }
  try {
    const [rows] = await clients.get(project).query(sql);
    return {value: String(Object.values(rows[0] ?? {})[0] ?? '')};
  } catch (err) {
    return {failed: true, code: Number(err.code) || 0, reason: err.errors?.[0]?.reason ?? '', message: err.message};
  }
}

for await (const line of createInterface({input: process.stdin})) {
  console.log(JSON.stringify(await ask(JSON.parse(line))));
}
