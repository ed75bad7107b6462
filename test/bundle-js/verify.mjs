// A verifier of evidence bundles, written from docs/spec/bundle.md alone, with the standard
// library of Node.js. It shares no code with Trailgate's own.
//
//   node verify.mjs FILE --key log.pub [--witness-policy POLICY]
//
// It ends with 0 and says what the bundle holds, or with 3 and the first thing that is wrong.
import { createHash } from 'node:crypto';
import { closeSync, fstatSync, openSync, readFileSync, readSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { readEntry } from './entry.mjs';
import { openCheckpoint, openNote, readKey, readPolicy, sha256 } from './note.mjs';
import { extendsTree, hashes, leafHash, Walk } from './tree.mjs';

const FIXED = ['README.txt', 'checkpoint', 'checkpoint.first', 'consistency', 'creation.json', 'proofs', 'SHA256SUMS'];
const README_SHA256 = 'b551f9b238e646b60463fe4fd960b471cb4146e82ce8e36db142db7bbbdfa1e0';
const RENDERED = ['rendered/ocsf.jsonl', 'rendered/report.html', 'rendered/report.md'];
const HEX = /^[0-9a-f]{64}$/;
const MEMBER = /^(?:[a-z]{1,16}\/)?[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$/;
const BLOCK = 512;

export class Bad extends Error {
  constructor(member, line, reason) {
    super(`${member || 'the file'}${line ? `, line ${line}` : ''}: ${reason}`);
    Object.assign(this, { member, line, reason });
  }
}

function header(name, size) {
  const h = Buffer.alloc(BLOCK);
  const put = (at, s) => h.write(s, at, 'latin1');
  put(0, name);
  put(100, '0000644\0' + '0000000\0' + '0000000\0');
  put(124, `${size.toString(8).padStart(11, '0')}\0`);
  put(136, '00000000000\0' + '        ' + '0');
  put(257, 'ustar\0' + '00');
  put(329, '0000000\0' + '0000000\0');
  const sum = h.reduce((a, b) => a + b, 0);
  put(148, `${sum.toString(8).padStart(6, '0')}\0 `);
  return h;
}

const zero = (buf) => buf.every((b) => b === 0);

// members reads the table of members: nothing may stand between or behind them.
function members(fd, size) {
  if (size % BLOCK) throw new Bad('', 0, 'the file ends inside a block');
  const list = [];
  const block = Buffer.alloc(BLOCK);
  for (let at = 0; ;) {
    if (at + BLOCK > size) throw new Bad('', 0, 'the file was cut');
    readSync(fd, block, 0, BLOCK, at);
    at += BLOCK;
    if (zero(block)) {
      if (size - at !== BLOCK || readSync(fd, block, 0, BLOCK, at) !== BLOCK || !zero(block)) {
        throw new Bad('', 0, 'the file does not end with two blocks of zeros');
      }
      return list;
    }
    if (list.length === 1 << 20) throw new Bad('', 0, 'too many members');
    const end = block.indexOf(0);
    const name = block.toString('latin1', 0, end < 0 || end > 100 ? 100 : end);
    const octal = block.toString('latin1', 124, 135);
    if (!MEMBER.test(name) || !/^[0-7]{11}$/.test(octal)) throw new Bad('', 0, 'a header that no member has');
    const bytes = Number.parseInt(octal, 8);
    if (!header(name, bytes).equals(block)) throw new Bad('', 0, `the header of ${name} is another than it must be`);
    const pad = (BLOCK - (bytes % BLOCK)) % BLOCK;
    if (at + bytes + pad > size) throw new Bad(name, 0, 'the file was cut');
    list.push({ name, at, size: bytes });
    at += bytes;
    const rest = Buffer.alloc(pad);
    if (pad) readSync(fd, rest, 0, pad, at);
    if (!zero(rest)) throw new Bad(name, 0, 'something stands in the padding');
    at += pad;
  }
}

class Verifier {
  constructor(fd, list, key, policy) {
    Object.assign(this, { fd, list, key, policy });
    this.by = new Map(list.map((m) => [m.name, m]));
    this.report = { blobs: 0, bodies: 0, absent_rows: 0, identities: 0, renderings: [] };
    this.blobs = new Set();
    this.identities = new Set();
    this.bodies = new Map();
  }

  // within turns what goes wrong in f into a Bad about a place.
  within(member, line, f) {
    try {
      return f();
    } catch (e) {
      if (e instanceof Bad) throw e;
      throw new Bad(member, line, e.message);
    }
  }

  small(name, most) {
    const m = this.by.get(name);
    if (m.size > most) throw new Bad(name, 0, 'larger than it can be');
    const raw = Buffer.alloc(m.size);
    readSync(this.fd, raw, 0, m.size, m.at);
    return raw;
  }

  * chunks(m) {
    const buf = Buffer.alloc(1 << 20);
    for (let done = 0; done < m.size;) {
      const n = readSync(this.fd, buf, 0, Math.min(buf.length, m.size - done), m.at + done);
      if (n === 0) throw new Error('the file became shorter');
      done += n;
      yield buf.subarray(0, n);
    }
  }

  // lines goes through lines of at most longest bytes; each ends with a newline.
  * lines(name, longest) {
    let rest = Buffer.alloc(0);
    let n = 0;
    for (const chunk of this.chunks(this.by.get(name))) {
      rest = Buffer.concat([rest, chunk]);
      let from = 0;
      for (let at; (at = rest.indexOf(10, from)) >= 0; from = at + 1) {
        n++;
        if (at - from > longest) throw new Bad(name, n, 'longer than any such line');
        yield [n, rest.subarray(from, at)];
      }
      rest = Buffer.from(rest.subarray(from));
      if (rest.length > longest) throw new Bad(name, n + 1, 'longer than any such line');
    }
    if (rest.length) throw new Bad(name, n + 1, 'the line has no end');
  }

  order() {
    this.list.forEach((m, i) => {
      if (i < FIXED.length ? m.name !== FIXED[i] : i > FIXED.length && m.name <= this.list[i - 1].name) {
        throw new Bad(m.name, 0, 'stands in a place that is not its own');
      }
    });
    if (this.list.length < FIXED.length || !this.by.has('entries.jsonl')) throw new Bad('', 0, 'a member is missing');
  }

  readme() {
    if (sha256(this.small('README.txt', 65536)).toString('hex') !== README_SHA256) throw new Bad('README.txt', 0, 'another text');
  }

  checkpoints() {
    const raw = this.small('checkpoint', 65536);
    const cp = this.within('checkpoint', 0, () => openCheckpoint(raw, this.key));
    this.within('checkpoint', 0, () => {
      if (this.policy && !this.policy.holds(openNote(raw, [this.key, ...this.policy.keys]).signed)) throw new Error('too few witnesses');
      if (cp.size === 0n) throw new Error('of a log without entries');
    });
    const first = this.within('checkpoint.first', 0, () => openCheckpoint(this.small('checkpoint.first', 65536), this.key));
    if (first.size > cp.size) throw new Bad('checkpoint.first', 0, 'of a larger log than the last');
    this.within('consistency', 0, () => {
      const text = this.small('consistency', 8192).toString('latin1');
      if (!text.endsWith('\n')) throw new Error('the line has no end');
      const proof = hashes(text.slice(0, -1));
      if (first.size === 0n || first.size === cp.size) {
        if (proof.length) throw new Error('a proof where none is needed');
        if (first.size && !first.root.equals(cp.root)) throw new Error('two roots of one size');
        return;
      }
      extendsTree(proof, cp.size, cp.root, first.size, first.root);
    });
    this.cp = cp;
    Object.assign(this.report, { origin: cp.origin, size: Number(cp.size), first_size: Number(first.size) });
  }

  creation() {
    this.within('creation.json', 0, () => {
      const raw = this.small('creation.json', 65535);
      const e = readEntry(raw);
      const detail = e.event?.detail ?? new Map();
      if (e.kind !== 'admin' || e.event?.action !== 'bundle.create' || (detail.get('failed') ?? '') !== '') throw new Error('not the entry of a creation');
      if (detail.get('format') !== 'trailgate-bundle/1') throw new Error('another format');
      const number = (s) => {
        if (!/^(0|[1-9][0-9]{0,18})$/.test(s) || BigInt(s) > 9223372036854775807n) throw new Error('not a number');
        return BigInt(s);
      };
      this.count = number(detail.get('entries'));
      this.contentsSum = detail.get('contents');
      if (!HEX.test(this.contentsSum)) throw new Error('no hash of the contents');
      this.statements = detail.get('statements') === 'true';
      this.rows = detail.get('rows') === 'true';
      if (detail.has('range')) {
        const [lo, ...hi] = detail.get('range').split('-');
        this.range = [number(lo), number(hi.join('-'))];
        if (this.range[0] > this.range[1] || this.range[1] - this.range[0] + 1n !== this.count) throw new Error('the range is of another length');
      }
      this.created = { raw, seq: e.seq };
    });
  }

  gather(e) {
    for (const s of e.statements ?? []) for (const sha of [s.blob, s.parameters_blob]) if (sha) this.blobs.add(sha);
    if (e.principal?.evidence) this.identities.add(e.principal.evidence);
    const r = e.recording;
    if (r?.body) this.bodies.set(r.body, { rows: r.stored_rows ?? 0n, bytes: r.stored_bytes ?? 0n });
    if (r?.schema) this.bodies.set(r.schema, { schema: true });
  }

  entries() {
    const walk = new Walk(this.cp.size, this.cp.root);
    const proofs = this.lines('proofs', 8192);
    const take = (member, line, seq, raw) => {
      const { value, done } = proofs.next();
      if (done) throw new Bad('proofs', 0, 'a proof is missing');
      const path = this.within('proofs', value[0], () => hashes(value[1].toString('latin1')));
      this.within(member, line, () => walk.take(seq, leafHash(raw), path));
    };
    let count = 0n;
    for (const [line, raw] of this.lines('entries.jsonl', 65535)) {
      const e = this.within('entries.jsonl', line, () => readEntry(raw));
      take('entries.jsonl', line, e.seq, raw);
      if (this.range && e.seq !== this.range[0] + count) throw new Bad('entries.jsonl', line, 'not the next entry of the range');
      this.gather(e);
      count++;
    }
    if (count !== this.count) throw new Bad('entries.jsonl', 0, `${count} entries, the log says ${this.count}`);
    take('creation.json', 0, this.created.seq, this.created.raw);
    if (!proofs.next().done) throw new Bad('proofs', 0, 'a proof too many');
    this.report.entries = Number(count);
  }

  // sum is the hash of a member, in hex, and how many lines it has.
  sum(m) {
    const h = createHash('sha256');
    let lines = 0n;
    for (const chunk of this.chunks(m)) {
      h.update(chunk);
      for (let at = -1; (at = chunk.indexOf(10, at + 1)) >= 0;) lines++;
    }
    return { sum: h.digest('hex'), lines };
  }

  contents() {
    if (this.sum(this.by.get('SHA256SUMS')).sum !== this.contentsSum) throw new Bad('SHA256SUMS', 0, 'not the list that the log knows of');
    const lines = this.lines('SHA256SUMS', 256);
    for (const m of this.list.slice(FIXED.length)) {
      const { value, done } = lines.next();
      if (done) throw new Bad(m.name, 0, 'not listed');
      const [n, line] = value;
      if (line.toString('latin1', 64) !== `  ${m.name}` || !HEX.test(line.toString('latin1', 0, 64))) throw new Bad('SHA256SUMS', n, 'lists something else');
      const { sum, lines: rows } = this.sum(m);
      if (sum !== line.toString('latin1', 0, 64)) throw new Bad(m.name, 0, 'was changed');
      this.content(m, sum, rows);
    }
    const more = lines.next();
    if (!more.done) throw new Bad('SHA256SUMS', more.value[0], 'lists what is not there');
    for (const [set, wanted, name] of [
      [this.blobs, this.statements, (x) => `blobs/${x}`],
      [this.identities, true, (x) => `identity/${x}.json`],
      [this.bodies, this.rows, (x) => `rows/${x}.body`],
    ]) {
      if (wanted && set.size) throw new Bad(name([...set.keys()].sort()[0]), 0, 'missing');
    }
  }

  content(m, sum, rows) {
    const [dir, ...rest] = m.name.split('/');
    const base = rest.join('/');
    if (m.name === 'entries.jsonl') return;
    if (RENDERED.includes(m.name)) this.report.renderings.push(m.name);
    else if (dir === 'blobs' && base === sum && this.statements && this.blobs.delete(sum)) this.report.blobs++;
    else if (dir === 'identity' && base === `${sum}.json` && this.identities.delete(sum)) this.report.identities++;
    else if (m.name === 'rows/absent.txt' && this.rows) this.absent();
    else if (dir === 'rows' && this.rows) this.body(m, base, sum, rows);
    else throw new Bad(m.name, 0, 'no entry names it, or it was not asked for');
  }

  body(m, base, sum, rows) {
    if (base.endsWith('.opening')) {
      if (!this.by.has(`rows/${base.slice(0, -8)}.body`)) throw new Bad(m.name, 0, 'opens nothing');
      return;
    }
    const c = base.slice(0, -5);
    const facts = this.bodies.get(c);
    if (!base.endsWith('.body') || !facts) throw new Bad(m.name, 0, 'no entry names it');
    this.bodies.delete(c);
    const name = `rows/${c}.opening`;
    if (!this.by.has(name)) throw new Bad(m.name, 0, 'no opening');
    const text = this.small(name, 65).toString('latin1');
    if (!/^[0-9a-f]{64}\n$/.test(text)) throw new Bad(name, 0, 'not 32 bytes in hex');
    const mac = Buffer.from(text.slice(0, 64), 'hex');
    if (sha256('trailgate recording v1\n', mac, Buffer.from(sum, 'hex')).toString('hex') !== c) throw new Bad(m.name, 0, 'not what was recorded');
    if (!facts.schema && (BigInt(m.size) !== facts.bytes || rows !== facts.rows)) throw new Bad(m.name, 0, 'another number of rows or bytes than the entry says');
    this.report.bodies++;
  }

  absent() {
    let last = '';
    for (const [n, line] of this.lines('rows/absent.txt', 256)) {
      const text = line.toString('latin1');
      const at = text.indexOf(' ');
      const [c, why] = at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + 1)];
      if (c <= last || !this.bodies.delete(c) || !['erased', 'missing', 'damaged'].includes(why)) throw new Bad('rows/absent.txt', n, 'not rows that an entry names');
      last = c;
      this.report.absent_rows++;
    }
  }

  run() {
    this.order();
    this.readme();
    this.checkpoints();
    this.creation();
    this.entries();
    this.contents();
    return this.report;
  }
}

// verify returns what a bundle holds, or throws a Bad. Key and policy are texts.
export function verify(path, key, policy) {
  const logKey = readKey(key, 1);
  const witnesses = policy ? readPolicy(policy) : undefined;
  const fd = openSync(path, 'r');
  try {
    return new Verifier(fd, members(fd, fstatSync(fd).size), logKey, witnesses).run();
  } finally {
    closeSync(fd);
  }
}

function main(args) {
  let file;
  let key;
  let policy;
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--key') key = readFileSync(args[++i], 'utf8');
    else if (args[i] === '--witness-policy') policy = readFileSync(args[++i], 'utf8');
    else file = args[i];
  }
  if (!file || !key) {
    console.error('usage: node verify.mjs FILE --key log.pub [--witness-policy POLICY]');
    return 2;
  }
  try {
    console.log(JSON.stringify({ good: true, ...verify(file, key, policy) }));
    return 0;
  } catch (e) {
    if (!(e instanceof Bad)) throw e;
    console.log(JSON.stringify({ good: false, member: e.member, line: e.line, reason: e.reason }));
    return 3;
  }
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) process.exitCode = main(process.argv.slice(2));
