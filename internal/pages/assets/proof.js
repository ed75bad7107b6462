// The proof badge: checks in this browser that the entries shown are in the log that the
// checkpoint signs. Formats: RFC 6962 (leaves, audit paths), C2SP signed-note and
// tlog-checkpoint. Nothing that the gateway says of the result is taken; what it sends is
// recomputed.
'use strict';

const utf8 = new TextEncoder();
const sha256 = async (...parts) => {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) { all.set(p, at); at += p.length; }
  return new Uint8Array(await crypto.subtle.digest('SHA-256', all));
};
const fromBase64 = (s) => {
  if (typeof s !== 'string' || !/^[A-Za-z0-9+/]*={0,2}$/.test(s) || s.length % 4 !== 0) throw new Error('what should be base64 is not');
  return Uint8Array.from(atob(s), (c) => c.charCodeAt(0));
};
const toHex = (b) => [...b].map((x) => x.toString(16).padStart(2, '0')).join('');
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);

// leafHash is RFC 6962's hash of an entry.
const leafHash = (entry) => sha256(Uint8Array.of(0), entry);
const nodeHash = (left, right) => sha256(Uint8Array.of(1), left, right);

// rootFrom walks an audit path (RFC 9162, section 2.1.3.2) from a leaf to the root of a
// tree of size leaves. Sizes are BigInt: a log may be longer than 2^53.
const rootFrom = async (leaf, index, size, path) => {
  if (index >= size) throw new Error('the entry would stand beyond the end of the log');
  let fn = index, sn = size - 1n, r = leaf;
  for (const p of path) {
    if (p.length !== 32) throw new Error('a hash of the proof has not 32 bytes');
    if (sn === 0n) throw new Error('the proof is longer than it can be');
    if ((fn & 1n) === 1n || fn === sn) {
      r = await nodeHash(p, r);
      while ((fn & 1n) === 0n && fn !== 0n) { fn >>= 1n; sn >>= 1n; }
    } else {
      r = await nodeHash(r, p);
    }
    fn >>= 1n; sn >>= 1n;
  }
  if (sn !== 0n) throw new Error('the proof is shorter than it must be');
  return r;
};

// openKey reads a verifier key: name+hash+base64(1 ‖ Ed25519 key).
const openKey = async (vkey) => {
  const m = /^([^+\s]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)$/.exec(String(vkey).trim());
  if (!m) throw new Error('the log\u2019s public key is not one');
  const raw = fromBase64(m[3]);
  if (raw.length !== 33 || raw[0] !== 1) throw new Error('the log\u2019s public key is not an Ed25519 key');
  const id = (await sha256(utf8.encode(m[1] + '\n'), raw)).slice(0, 4);
  if (toHex(id) !== m[2]) throw new Error('the log\u2019s public key does not fit its own hash');
  const key = await crypto.subtle.importKey('raw', raw.slice(1), { name: 'Ed25519' }, false, ['verify']);
  return { name: m[1], id, key, fingerprint: toHex(await sha256(raw.slice(1))) };
};

// openCheckpoint checks a checkpoint's signature and reads it.
const openCheckpoint = async (note, key) => {
  const cut = note.lastIndexOf('\n\n');
  if (cut < 0) throw new Error('the checkpoint is not a signed note');
  const text = note.slice(0, cut + 1);
  let good = false;
  for (const line of note.slice(cut + 2).split('\n')) {
    const m = /^\u2014 (\S+) ([A-Za-z0-9+/=]+)$/.exec(line);
    if (!m || m[1] !== key.name) continue;
    const sig = fromBase64(m[2]);
    if (sig.length !== 68 || !same(sig.slice(0, 4), key.id)) continue;
    good ||= await crypto.subtle.verify({ name: 'Ed25519' }, key.key, sig.slice(4), utf8.encode(text));
  }
  if (!good) throw new Error('the checkpoint is not signed by the log\u2019s key');
  const [origin, size, root] = text.split('\n');
  if (origin !== key.name) throw new Error('the checkpoint is of another log');
  if (!/^(0|[1-9][0-9]{0,18})$/.test(size)) throw new Error('the checkpoint\u2019s size is not a number');
  const hash = fromBase64(root);
  if (hash.length !== 32) throw new Error('the checkpoint\u2019s root is not a hash');
  return { origin, size: BigInt(size), root: hash };
};

// checkStage checks one proof against the bytes that the page shows. It throws where
// anything does not fit.
const checkStage = async (proof, shown, key) => {
  const entry = fromBase64(proof.entry);
  if (!same(entry, shown)) throw new Error('the entry shown is not the one that was proven');
  const index = BigInt(proof.index);
  const said = /^\{"v":1,"seq":([0-9]+),/.exec(new TextDecoder().decode(entry.slice(0, 64)));
  if (!said || BigInt(said[1]) !== index) throw new Error('the entry says that it stands elsewhere in the log');
  const head = await openCheckpoint(proof.checkpoint, key);
  const path = (proof.hashes ?? []).map(fromBase64);
  const root = await rootFrom(await leafHash(entry), index, head.size, path);
  if (!same(root, head.root)) throw new Error('the proof does not lead to the root that the checkpoint signs');
  return head;
};

// remembered holds what this browser saw of a log before: its key, and its longest
// checkpoint. It returns what does not fit, in words.
const remembered = (store, key, head) => {
  const at = 'trailgate-log ' + key.name;
  let old = null;
  try { old = JSON.parse(store.getItem(at)); } catch { /* nothing that can be read */ }
  if (old && old.key !== key.fingerprint) return 'the log\u2019s public key is not the one that this browser saw before';
  const root = toHex(head.root);
  if (old && BigInt(old.size) === head.size && old.root !== root) return 'the log has another root than it had at the same size before';
  if (old && BigInt(old.size) > head.size) return `the log was longer when this browser last saw it (${old.size} entries)`;
  store.setItem(at, JSON.stringify({ key: key.fingerprint, size: String(head.size), root }));
  return '';
};

const proofOf = async (badge) => {
  const words = badge.querySelector('.words'), verdict = badge.querySelector('.verdict');
  const show = (kind, title, text) => { badge.className = 'proof ' + kind; verdict.textContent = title; words.textContent = text; };
  const facts = badge.querySelector('ul');
  const fact = (text) => { const li = document.createElement('li'); li.textContent = text; facts.append(li); };
  if (!globalThis.crypto?.subtle) {
    show('unknown', 'Cannot be checked here', 'Browsers compute hashes on pages from https or this machine alone. Use trailgate show --proof.');
    return;
  }
  show('unknown', 'Checking\u2026', 'waiting for a checkpoint that covers the entry');
  const answer = await fetch(badge.dataset.url, { headers: { Accept: 'application/json' } });
  const body = await answer.json();
  if (!answer.ok) {
    const late = answer.status === 504 || answer.status === 429;
    show(late ? 'unknown' : 'bad', late ? 'Not published yet' : 'NOT proven', body?.error?.message ?? String(answer.status));
    return;
  }
  let key;
  try { key = await openKey(body.public_key); } catch (e) {
    const lacks = e.name === 'NotSupportedError';
    show(lacks ? 'unknown' : 'bad', lacks ? 'Cannot be checked here' : 'NOT proven', lacks ? 'this browser does not know Ed25519; use trailgate show --proof' : e.message);
    return;
  }
  const stages = [...document.querySelectorAll('[data-entry]')];
  let newest = null, failed = '';
  if (stages.length !== body.proofs.length) failed = `the page shows ${stages.length} entries, the gateway proves ${body.proofs.length}; reload the page`;
  for (const [i, stage] of stages.entries()) {
    const mark = stage.querySelector('.proven');
    try {
      const head = await checkStage(body.proofs[i] ?? {}, fromBase64(stage.dataset.entry), key);
      if (!newest || head.size > newest.size) newest = head;
      mark.className = 'proven good';
      mark.textContent = '\u2713 in the log';
    } catch (e) {
      failed ||= `entry ${stage.dataset.seq}: ${e.message}`;
      mark.className = 'proven bad';
      mark.textContent = '\u2717 not proven';
    }
  }
  if (!failed && newest) failed = remembered(localStorage, key, newest);
  badge.querySelector('details').hidden = false;
  if (failed) {
    show('bad', 'NOT proven', failed + '. Keep a copy of what you see, and run trailgate verify.');
    return;
  }
  show('good', 'Proven', `in the log of ${newest.size} entries that the checkpoint signs.`);
  fact(`The bytes of ${stages.length === 1 ? 'the entry' : `all ${stages.length} entries`} shown here hash, along their audit paths, to the root ${toHex(newest.root)}.`);
  fact(`A checkpoint of ${newest.origin} with that root and ${newest.size} entries is signed with Ed25519 by the key with SHA-256 ${key.fingerprint}.`);
  fact('The key is the one that this browser saw before, or saw now for the first time: compare it with the one you were given by other means (log.pub).');
  fact('It does not show that whoever holds the signing key shows everybody the same log: that takes checkpoints that others remember.');
};

if (typeof document !== 'undefined') {
  const badge = document.getElementById('proof');
  if (badge) {
    proofOf(badge).catch((e) => {
      badge.className = 'proof unknown';
      badge.querySelector('.verdict').textContent = 'Not checked';
      badge.querySelector('.words').textContent = 'The proof could not be fetched: ' + e.message;
    });
  }
} else if (typeof module !== 'undefined') {
  module.exports = { leafHash, rootFrom, openKey, openCheckpoint, checkStage, remembered, fromBase64 };
}
