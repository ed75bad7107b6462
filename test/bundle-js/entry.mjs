// Reads an entry as docs/spec/entry.md has it: the one canonical encoding, and no other.

// What a member may be: 's' string, 'i' 64-bit integer, 'b' true, 't' a time, 'm' a map from
// names to strings, [x] an array of x, or an object. A '!' means that it is there always.
const gateway = { id: 's!', version: 's!', config_digest: 's', policy_digest: 's' };
const principal = {
  agent: 's', token_id: 's', issuer: 's', subject: 's', human: 's', human_by: 's', actors: ['s'], auth_mode: 's',
  credential_sha256: 's', evidence: 's',
};
const claims = {
  user_agent: 's', api_client: 's', reason: 's', human: 's', trace_parent: 's', labels: 'm', dropped_labels: 'm',
  quota_project: 's', title: 's', purpose: 's',
};
const request = { verb: 's!', path: 's!', bytes: 'i', sha256: 's', request_id: 's', dry_run: 'b', duplicate_of: 's', for: 's' };
const statement = {
  where: 's!', text: 's', blob: 's', sha256: 's!', length: 'i!', dialect: 's', parameters: 's', parameters_blob: 's',
};
const job = {
  project: 's', id: 's', location: 's', assigned_by: 's', type: 's', owner_agent: 's', owner_entry: 's', children: ['s'],
};
const decision = { effect: 's!', rule: 's', reason: 's', limits: 'm', approval_id: 's', approvers: ['s'] };
const upstream = { mode: 's!', principal: 's', shared: 'b', assertion: 's', host: 's' };
const outcome = {
  status: 'i', end: 's', error_reason: 's', error_message: 's', job_state: 's', bytes: 'i', request_bytes: 'i',
  request_sha256: 's', rows: 'i', total_rows: 'i', rows_affected: 'i', bytes_processed: 'i', bytes_billed: 'i',
  cache_hit: 'b', slot_ms: 'i', duration_ns: 'i', capture_error: 's',
};
const recording = {
  level: 's', sha256: 's', rows: 'i', bytes: 'i', start_row: 'i', place_unknown: 'b', body: 's', stored_rows: 'i',
  stored_bytes: 'i', schema: 's', key: 's', redacted: 'i', truncated: 'b', error: 's',
};
const members = {
  id: 's!', kind: 's!', intent_id: 's', gateway, principal, claims, session: 's', client: 's', connection: 's',
  project: 's', location: 's', method: 's', class: 's', classes: ['s'], request, statements: [statement],
  statement_type: { local: 's', dry_run: 's', final: 's', disagree: 'b' },
  tables: { read: ['s'], written: ['s'], omitted: 'i', final: 'b' },
  destinations: ['s'], job, decision, upstream, outcome, recording,
  aggregate: { count: 'i!', since: 't!', addresses: ['s'] },
  event: { action: 's!', target: 's', actor: 's', via: 's', detail: 'm' },
  flags: ['s'],
};

const MAX_ENTRY = 65535;
const HEADER = /^\{"v":1,"seq":(0|[1-9][0-9]{0,19}),"time":"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)\.\d{9}Z"/;
const LONGEST_HEADER = 73; // with a sequence number of 20 digits
const STRING = /"(?:[^"\\\u0000-\u001f\u2028\u2029]|\\["\\bfnrt]|\\u00[01][0-9a-f]|\\u202[89])*"/y;
const LONG_ESCAPE = /(?<!\\)(?:\\\\)*\\u000[89acd]/; // of characters that have a short one
const INTEGER = /0|-?[1-9][0-9]{0,18}/y;
const TIME = /"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{0,8}[1-9])?Z"/y;
const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function realTime(y, mo, d, h, mi, s) {
  const days = [31, y % 4 === 0 && (y % 100 !== 0 || y % 400 === 0) ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
  return mo >= 1 && mo <= 12 && d >= 1 && d <= days[mo - 1] && h <= 23 && mi <= 59 && s <= 59;
}

class Walker {
  constructor(text, at) {
    this.text = text;
    this.at = at;
  }

  fail() {
    throw new Error('not an entry in canonical form');
  }

  lit(c) {
    if (this.text[this.at] !== c) return false;
    this.at++;
    return true;
  }

  match(form) {
    form.lastIndex = this.at;
    const m = form.exec(this.text);
    if (!m) this.fail();
    this.at += m[0].length;
    return m;
  }

  string() {
    const [s] = this.match(STRING);
    if (LONG_ESCAPE.test(s)) this.fail();
    return JSON.parse(s);
  }

  value(form, always) {
    if (Array.isArray(form)) {
      if (!this.lit('[')) this.fail();
      const list = [];
      do list.push(this.value(form[0], true)); while (this.lit(','));
      if (!this.lit(']')) this.fail();
      return list;
    }
    if (typeof form === 'object') {
      if (!this.lit('{')) this.fail();
      return this.members(form, true);
    }
    switch (form[0]) {
      case 's': {
        const s = this.string();
        if (s === '' && !always) this.fail();
        return s;
      }
      case 'i': {
        const n = BigInt(this.match(INTEGER)[0]);
        if (n > 9223372036854775807n || n < -9223372036854775808n || (n === 0n && !always)) this.fail();
        return n;
      }
      case 'b':
        if (!this.text.startsWith('true', this.at)) this.fail();
        this.at += 4;
        return true;
      case 't': {
        const m = this.match(TIME);
        if (!realTime(...m.slice(1, 7).map(Number))) this.fail();
        return m[0];
      }
      case 'm': {
        if (!this.lit('{')) this.fail();
        const map = new Map();
        let last = null;
        do {
          const name = this.string();
          const bytes = Buffer.from(name);
          if (last && Buffer.compare(last, bytes) >= 0) this.fail();
          last = bytes;
          if (!this.lit(':')) this.fail();
          map.set(name, this.string());
        } while (this.lit(','));
        if (!this.lit('}')) this.fail();
        return map;
      }
    }
    return this.fail();
  }

  // members goes through an object's members, in their order, to its end.
  members(table, first) {
    const out = {};
    for (const [name, form] of Object.entries(table)) {
      const always = typeof form === 'string' && form.endsWith('!');
      const key = (first ? '' : ',') + JSON.stringify(name) + ':';
      if (!this.text.startsWith(key, this.at)) {
        if (always || table === members && name === 'gateway') this.fail();
        continue;
      }
      this.at += key.length;
      out[name] = this.value(form, always);
      first = false;
    }
    if (!this.lit('}')) this.fail();
    return out;
  }
}

// readEntry returns the members of an entry; integers are BigInt, maps are Map.
export function readEntry(raw) {
  if (raw.length > MAX_ENTRY) throw new Error('longer than an entry may be');
  const text = utf8.decode(raw);
  const head = HEADER.exec(text);
  if (!head || !realTime(...head.slice(2, 8).map(Number))) throw new Error('not an entry of version 1');
  const seq = BigInt(head[1]);
  if (seq > 18446744073709551615n) throw new Error('a sequence number that is too large');
  if (raw.length - head[0].length + LONGEST_HEADER > MAX_ENTRY) throw new Error('longer than an entry may be');
  const w = new Walker(text, head[0].length);
  const out = w.members(members, false);
  if (w.at !== text.length) w.fail();
  return { seq, ...out };
}
