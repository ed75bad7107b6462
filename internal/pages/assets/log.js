// Verify now: rehashes every entry of the log in this browser and compares the root with
// the one that the checkpoint signs, and with what this browser remembers.
'use strict';

const width = 256, most = 2_000_000;

// tree keeps the roots of the full subtrees of what was added so far (RFC 6962, 2.1).
const newTree = () => ({ roots: [], size: 0n });
const addLeaf = async (tree, leaf) => {
  let hash = leaf, level = 0;
  for (let n = tree.size; (n & 1n) === 1n; n >>= 1n, level++) hash = await nodeHash(tree.roots.pop(), hash);
  tree.roots.push(hash);
  tree.size++;
};
const rootOf = async (tree) => {
  if (tree.roots.length === 0) return sha256(new Uint8Array());
  let hash = tree.roots.at(-1);
  for (let i = tree.roots.length - 2; i >= 0; i--) hash = await nodeHash(tree.roots[i], hash);
  return hash;
};

// bundlePath is the path of an entry bundle (https://c2sp.org/tlog-tiles).
const bundlePath = (index, size) => {
  let s = String(index % 1000n).padStart(3, '0');
  for (let n = index / 1000n; n > 0n; n /= 1000n) s = 'x' + String(n % 1000n).padStart(3, '0') + '/' + s;
  const left = size - index * BigInt(width);
  return 'tile/entries/' + s + (left < BigInt(width) ? '.p/' + left : '');
};

// entriesOf takes a bundle apart: entries, each behind its length in 16 bits.
const entriesOf = (bytes) => {
  const list = [];
  for (let i = 0; i < bytes.length;) {
    if (i + 2 > bytes.length) throw new Error('a bundle breaks off');
    const n = bytes[i] << 8 | bytes[i + 1];
    if (i + 2 + n > bytes.length) throw new Error('a bundle breaks off');
    list.push(bytes.subarray(i + 2, i + 2 + n));
    i += 2 + n;
  }
  return list;
};

// verifyLog goes through the whole log; get fetches a path below it as bytes.
const verifyLog = async (get, vkey, progress) => {
  const key = await openKey(vkey);
  const head = await openCheckpoint(new TextDecoder().decode(await get('checkpoint')), key);
  if (head.size > BigInt(most)) throw new Error(`the log has ${head.size} entries, which is too much for a browser: use trailgate verify`);
  const tree = newTree();
  for (let i = 0n; i * BigInt(width) < head.size; i++) {
    const entries = entriesOf(await get(bundlePath(i, head.size)));
    const want = head.size - i * BigInt(width) < BigInt(width) ? Number(head.size - i * BigInt(width)) : width;
    if (entries.length !== want) throw new Error(`bundle ${i} has ${entries.length} entries, not ${want}`);
    for (const e of entries) {
      const said = /^\{"v":1,"seq":([0-9]+),/.exec(new TextDecoder().decode(e.slice(0, 64)));
      if (!said || BigInt(said[1]) !== tree.size) throw new Error(`entry ${tree.size} says that it stands elsewhere`);
      await addLeaf(tree, await leafHash(e));
    }
    progress(Number(tree.size) / Number(head.size));
  }
  if (!same(await rootOf(tree), head.root)) throw new Error('the entries do not hash to the root that the checkpoint signs');
  return { head, key };
};

if (typeof document !== 'undefined') {
  const check = document.getElementById('check'), button = document.getElementById('verify'), bar = document.getElementById('progress');
  const say = (kind, title, text) => { check.className = 'proof ' + kind; check.querySelector('.verdict').textContent = title; check.querySelector('.words').textContent = text; };
  if (globalThis.crypto?.subtle) {
    button.hidden = false;
    say('unknown', 'Not checked', 'Rehash every entry, here in your browser. Reading them is an entry itself.');
    button.addEventListener('click', async () => {
      button.disabled = true;
      bar.hidden = false;
      const get = async (path) => {
        const answer = await fetch('/api/v1/log/' + path);
        if (!answer.ok) throw new Error(`${path} cannot be read (${answer.status})`);
        return new Uint8Array(await answer.arrayBuffer());
      };
      try {
        const vkey = new TextDecoder().decode(await get('key'));
        const { head, key } = await verifyLog(get, vkey, (done) => { bar.value = done; });
        const odd = remembered(localStorage, key, head);
        if (odd) throw new Error(odd);
        say('good', 'Good', `all ${head.size} entries hash to the root that the checkpoint signs, with the key that has SHA-256 ${key.fingerprint}. Compare that with the key you were given by other means.`);
      } catch (e) {
        say('bad', 'NOT as it was written', e.message + '. Change nothing, keep a copy, and run trailgate verify.');
      } finally { button.disabled = false; bar.hidden = true; }
    });
  }
} else if (typeof module !== 'undefined') {
  module.exports = { newTree, addLeaf, rootOf, bundlePath, entriesOf, verifyLog };
}
