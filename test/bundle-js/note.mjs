// Signed notes (https://c2sp.org/signed-note), checkpoints (https://c2sp.org/tlog-checkpoint),
// cosignatures (https://c2sp.org/tlog-cosignature) and witness policies
// (https://c2sp.org/tlog-policy), as far as a bundle needs them. Ed25519 alone.
import { createHash, createPublicKey, verify as verifySignature } from 'node:crypto';

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
const SPACE = /[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/;
const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

export const sha256 = (...parts) => {
  const h = createHash('sha256');
  for (const p of parts) h.update(p);
  return h.digest();
};

const validName = (s) => s !== '' && !SPACE.test(s) && !s.includes('+');

export function base64(text) {
  if (!BASE64.test(text)) throw new Error('not base64');
  return Buffer.from(text, 'base64');
}

// readKey reads NAME+HASH+KEY; type 1 is a log's, 4 a witness's.
export function readKey(vkey, type) {
  const parts = vkey.trim().split('+');
  const name = parts[0];
  const key = base64(parts.slice(2).join('+'));
  if (parts.length < 3 || !validName(name) || !/^[0-9a-f]{8}$/.test(parts[1]) || key.length !== 33 || key[0] !== type) {
    throw new Error(`not the key of a ${type === 1 ? 'log' : 'witness'}`);
  }
  const hash = sha256(name, '\n', key).readUInt32BE(0);
  if (hash !== Number.parseInt(parts[1], 16)) throw new Error('the key is not the one that its hash is of');
  const der = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), key.subarray(1)]);
  const publicKey = createPublicKey({ key: der, format: 'der', type: 'spki' });
  const check = (text, sig) => {
    if (type === 1) return sig.length === 64 && verifySignature(null, text, publicKey, sig);
    if (sig.length !== 72) return false;
    const time = sig.readBigUInt64BE(0);
    if (time > 253402300799n) return false;
    return verifySignature(null, Buffer.concat([Buffer.from(`cosignature/v1\ntime ${time}\n`), text]), publicKey, sig.subarray(8));
  };
  return { name, hash, check };
}

// openNote returns the text, and which of the keys signed it; at least one must have.
export function openNote(raw, keys) {
  const text = utf8.decode(raw);
  if (/[\u0000-\u0009\u000b-\u001f]/.test(text)) throw new Error('a control character');
  const split = text.lastIndexOf('\n\n');
  if (split < 0) throw new Error('no signatures');
  const body = text.slice(0, split + 1);
  const rest = text.slice(split + 2);
  if (!rest.endsWith('\n')) throw new Error('no signatures');
  const signed = new Set();
  let n = 0;
  for (const line of rest.slice(0, -1).split('\n')) {
    if (!line.startsWith('— ')) throw new Error('not a signature line');
    const at = line.indexOf(' ', 2);
    const name = at < 0 ? line.slice(2) : line.slice(2, at);
    const sig = base64(at < 0 ? '' : line.slice(at + 1));
    if (!validName(name) || sig.length < 5 || ++n > 100) throw new Error('not a signature line');
    const key = keys.find((k) => k.name === name && k.hash === sig.readUInt32BE(0));
    if (!key || signed.has(key)) continue;
    if (!key.check(Buffer.from(body), sig.subarray(4))) throw new Error(`the signature of ${name} does not verify`);
    signed.add(key);
  }
  if (signed.size === 0) throw new Error('not signed by a key that is known');
  return { body, signed };
}

export function openCheckpoint(raw, key) {
  if (raw.length > 65536) throw new Error('larger than 64 KiB');
  const lines = openNote(raw, [key]).body.split('\n');
  if (lines.length < 4) throw new Error('fewer than three lines');
  const [origin, size, root] = lines;
  if (!/^(0|[1-9][0-9]{0,18})$/.test(size) || BigInt(size) > 9223372036854775807n) throw new Error('not a size');
  const hash = base64(root);
  if (hash.length !== 32) throw new Error('not a root hash');
  if (origin !== key.name) throw new Error('another origin than the key is for');
  return { origin, size: BigInt(size), root: hash };
}

// readPolicy reads "log", "witness", "group" and "quorum" lines.
export function readPolicy(text) {
  const witnesses = new Map();
  const groups = new Map();
  let quorum;
  for (const line of text.split('\n')) {
    const [word, ...args] = line.trim().split(/[ \t]+/);
    if (word === '' || word.startsWith('#') || word === 'log') continue;
    if (word === 'witness') witnesses.set(args[0], readKey(args[1], 4));
    else if (word === 'group') groups.set(args[0], { n: args[1], of: args.slice(2) });
    else if (word === 'quorum') [quorum] = args;
    else throw new Error(`unknown word in the policy: ${word}`);
  }
  if (quorum === undefined) throw new Error('the policy has no quorum');
  const holds = (name, signed) => {
    if (name === 'none') return true;
    if (witnesses.has(name)) return signed.has(witnesses.get(name));
    const g = groups.get(name);
    if (!g) throw new Error(`the policy does not define ${name}`);
    const need = g.n === 'any' ? 1 : g.n === 'all' ? g.of.length : Number(g.n);
    return g.of.filter((m) => holds(m, signed)).length >= need;
  };
  return { keys: [...witnesses.values()], holds: (signed) => holds(quorum, signed) };
}
