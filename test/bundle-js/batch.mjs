// Verifies many bundles: reads {"file":…,"key":…,"policy":…} a line, and answers a line for each.
import { createInterface } from 'node:readline';
import { Bad, verify } from './verify.mjs';

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  let answer;
  try {
    answer = { good: true, report: verify(job.file, job.key, job.policy) };
  } catch (e) {
    answer = { good: false, crashed: !(e instanceof Bad), member: e.member, line: e.line, reason: e.message };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
