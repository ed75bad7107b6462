// Goes through npm's @google-cloud/bigquery step by step and prints what each
// step gave, one JSON object a line. It is told where BigQuery is by the
// environment that "trailgate run" sets. Package e2e runs it with and without a
// gateway.

import {writeFile, mkdtemp, rm} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {pipeline} from 'node:stream/promises';
import {Readable} from 'node:stream';
import {BigQuery} from '@google-cloud/bigquery';
import {OAuth2Client} from 'google-auth-library';

const authClient = new OAuth2Client();
authClient.setCredentials({access_token: process.env.TRAILGATE_TOKEN});
const bigquery = new BigQuery({
  projectId: process.env.GOOGLE_CLOUD_PROJECT,
  apiEndpoint: process.env.TRAILGATE_GATEWAY,
  authClient,
});
const staging = bigquery.dataset('staging');
const schema = {fields: [{name: 'a', type: 'INTEGER'}, {name: 'b', type: 'STRING'}]};

// Runs a statement as a job, waits for it, and tells how many rows it changed.
async function change(sql) {
  const [job] = await bigquery.createQueryJob(sql);
  await job.getQueryResults();
  const [metadata] = await job.getMetadata();
  return Number(metadata.statistics.query.numDmlAffectedRows);
}

const steps = process.env.TRAILGATE_STATEMENT ? {statement: () => change(process.env.TRAILGATE_STATEMENT)} : {
  async query() {
    const [rows] = await bigquery.query('SELECT batch_id, COUNT(*) AS n FROM staging.imports GROUP BY batch_id ORDER BY batch_id');
    return rows;
  },
  async parameters() {
    const [rows] = await bigquery.query({query: 'SELECT name FROM analytics.customers WHERE customer_id = @id', params: {id: 7}});
    return rows;
  },
  async types() {
    const [rows] = await bigquery.query(`SELECT 7 AS i, 1.5 AS f, NUMERIC '1.25' AS n, TRUE AS b, 'grün "quoted"' AS s, b'\\x00\\xff' AS y,
      DATE '2026-11-23' AS d, TIME '12:34:56.789' AS t, DATETIME '2026-11-23 12:34:56' AS dt,
      TIMESTAMP '2026-11-23 12:34:56.789+00' AS ts, [1, 2, 3] AS a, CAST(NULL AS STRING) AS nothing`);
    return rows;
  },
  async datasets() {
    const [datasets] = await bigquery.getDatasets();
    return datasets.map(dataset => dataset.id);
  },
  // A query's result of 1,000 rows, 150 at a time.
  async 'result pages'() {
    const [job] = await bigquery.createQueryJob('SELECT customer_id, name FROM analytics.customers ORDER BY customer_id');
    let rows = 0;
    let options = {maxResults: 150, autoPaginate: false};
    while (options) {
      const [page, next] = await job.getQueryResults(options);
      rows += page.length;
      options = next;
    }
    return rows;
  },
  async dml() {
    return change('DELETE FROM staging.imports WHERE batch_id = 42');
  },
  async destination() {
    const [job] = await bigquery.createQueryJob({
      query: 'SELECT id, amount FROM staging.imports WHERE batch_id = 43',
      destination: staging.table('copy1'),
    });
    const [rows] = await job.getQueryResults();
    return rows.length;
  },
  // A file, metadata and data in one request.
  async 'load multipart'() {
    const dir = await mkdtemp(join(tmpdir(), 'trailgate-node-'));
    try {
      const file = join(dir, 'rows.csv');
      await writeFile(file, 'a,b\n1,one\n2,two\n');
      const [job] = await staging.table('small').load(file, {schema, skipLeadingRows: 1, sourceFormat: 'CSV'});
      return Number(job.statistics.load.outputRows);
    } finally {
      await rm(dir, {recursive: true});
    }
  },
  // A stream of some 600 kB whose length nobody knows beforehand.
  async 'load stream'() {
    const table = staging.table('large');
    const lines = function* () {
      for (let i = 0; i < 6000; i++) yield `${i},${'x'.repeat(100)}\n`;
    };
    const sink = table.createWriteStream({schema, sourceFormat: 'CSV'});
    const done = new Promise((resolve, reject) => sink.on('complete', resolve).on('error', reject));
    await pipeline(Readable.from(lines()), sink);
    const job = await done;
    return Number(job.metadata.statistics.load.outputRows);
  },
  async 'insert all'() {
    await staging.table('small').insert([{a: 3, b: 'three'}, {a: 4, b: 'four'}]);
    return 2;
  },
  async tables() {
    const [tables] = await staging.getTables();
    return tables.map(table => table.id);
  },
  async pages() {
    let rows = 0;
    let options = {maxResults: 300, autoPaginate: false};
    while (options) {
      const [page, next] = await bigquery.dataset('analytics').table('customers').getRows(options);
      rows += page.length;
      options = next;
    }
    return rows;
  },
  async 'dry run'() {
    const [job] = await bigquery.createQueryJob({query: 'SELECT * FROM analytics.orders', dryRun: true});
    return Number(job.metadata.statistics.totalBytesProcessed) > 0;
  },
  async error() {
    return bigquery.query('SELECT nonsense FROM staging.imports');
  },
  async 'no such table'() {
    return staging.table('no_such_table').getMetadata();
  },
  // With a token that nobody issued.
  async 'bad token'() {
    const other = new OAuth2Client();
    other.setCredentials({access_token: `tgt_${'0'.repeat(49)}`});
    const stranger = new BigQuery({projectId: process.env.GOOGLE_CLOUD_PROJECT, apiEndpoint: process.env.TRAILGATE_GATEWAY, authClient: other});
    return stranger.dataset('staging').getMetadata();
  },
  // In a project that the gateway has no connection for.
  async denied() {
    return bigquery.dataset('staging', {projectId: 'other-project'}).table('imports').getMetadata();
  },
};

for (const [step, run] of Object.entries(steps)) {
  const line = {step};
  try {
    line.value = await run();
  } catch (err) {
    line.error = {code: Number(err.code), reason: err.errors?.[0]?.reason, message: err.message};
  }
  console.log(JSON.stringify(line));
}
