// RFC 6962 Merkle trees with SHA-256.
import { sha256, base64 } from './note.mjs';

export const leafHash = (raw) => sha256(Buffer.from([0]), raw);
const nodeHash = (a, b) => sha256(Buffer.from([1]), a, b);

// half is the largest power of two below n.
function half(n) {
  let k = 1n;
  while (k * 2n < n) k *= 2n;
  return k;
}

// hashes reads hashes that stand as one text in base64.
export function hashes(line) {
  const raw = base64(line);
  if (raw.toString('base64') !== line || raw.length % 32 !== 0 || raw.length > 128 * 32) throw new Error('not hashes in base64');
  const out = [];
  for (let i = 0; i < raw.length; i += 32) out.push(raw.subarray(i, i + 32));
  return out;
}

// Walk checks leaves in ascending order against a root (docs/spec/bundle.md, "Proofs").
export class Walk {
  constructor(size, root) {
    this.known = [{ lo: 0n, hi: size, hash: root }];
  }

  take(index, leaf, path) {
    while (this.known.length && this.known.at(-1).hi <= index) this.known.pop();
    const at = this.known.pop();
    if (!at || at.lo > index) throw new Error('not in the tree behind the one before');
    const aside = [];
    let { lo, hi } = at;
    while (hi - lo > 1n) {
      const mid = lo + half(hi - lo);
      if (index < mid) {
        aside.push({ lo: mid, hi });
        hi = mid;
      } else {
        aside.push({ lo, hi: mid });
        lo = mid;
      }
    }
    if (path.length !== aside.length) throw new Error('a path of another length');
    let h = leaf;
    path.forEach((sibling, i) => {
      const s = aside[aside.length - 1 - i];
      s.hash = sibling;
      h = s.lo > index ? nodeHash(h, sibling) : nodeHash(sibling, h);
    });
    if (!h.equals(at.hash)) throw new Error('not in the log');
    for (const s of aside) if (s.lo > index) this.known.push(s);
  }
}

// extendsTree checks an RFC 6962 consistency proof, 0 < n < size.
export function extendsTree(proof, size, root, n, old) {
  const run = (p, lo, hi) => {
    if (n === hi) {
      if (lo === 0n) {
        if (p.length) throw new Error('a proof of another length');
        return [old, old];
      }
      if (p.length !== 1) throw new Error('a proof of another length');
      return [p[0], p[0]];
    }
    if (!p.length) throw new Error('a proof of another length');
    const mid = lo + half(hi - lo);
    const last = p.at(-1);
    if (n <= mid) {
      const [a, b] = run(p.slice(0, -1), lo, mid);
      return [a, nodeHash(b, last)];
    }
    const [a, b] = run(p.slice(0, -1), mid, hi);
    return [nodeHash(last, a), nodeHash(last, b)];
  };
  const [a, b] = run(proof, 0n, size);
  if (!a.equals(old) || !b.equals(root)) throw new Error('the last checkpoint does not extend the first');
}
