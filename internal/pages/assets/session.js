// Replay: the timeline is shown call by call, at the pace of the session or faster. Long
// gaps are shortened, and that is said.
'use strict';

const player = document.getElementById('replay');
const steps = [...document.querySelectorAll('#timeline > li')];
const play = document.getElementById('play'), scrub = document.getElementById('scrub'), where = document.getElementById('where');
const speed = document.getElementById('speed'), withRows = document.getElementById('with-rows');
const longest = 3000; // ms that a gap lasts at most
let at = steps.length, timer = 0;

const rowsOf = async (li) => {
  if (!li.dataset.rows || li.dataset.shown) return;
  li.dataset.shown = 'yes';
  const box = li.querySelector('.rows');
  try {
    const answer = await fetch(li.dataset.rows, { headers: { Accept: 'text/html' } });
    const doc = new DOMParser().parseFromString(await answer.text(), 'text/html');
    if (answer.ok) { box.prepend(...doc.body.childNodes); } else { box.append(doc.querySelector('[role=alert]')?.textContent ?? 'not available'); }
  } catch { li.dataset.shown = ''; }
};

const show = (n, quiet) => {
  at = Math.max(0, Math.min(steps.length, n));
  steps.forEach((li, i) => { li.classList.toggle('later', i >= at); li.classList.toggle('now', i === at - 1 && at < steps.length); });
  scrub.value = String(at);
  if (!quiet) where.textContent = `call ${at} of ${steps.length}`;
  const now = steps[at - 1];
  if (now && at < steps.length) now.scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  if (now && withRows.checked) rowsOf(now);
};
const stop = () => { clearTimeout(timer); timer = 0; play.textContent = 'Play'; };
const next = () => {
  if (at >= steps.length) { stop(); where.textContent = `the end, ${steps.length} calls`; return; }
  const gap = at === 0 ? 0 : (Number(steps[at].dataset.at) - Number(steps[at - 1].dataset.at)) / Number(speed.value);
  const wait = Math.min(gap, longest);
  if (gap > longest) where.textContent = `a gap of ${Math.round(gap * Number(speed.value) / 1000)} s is shortened`;
  timer = setTimeout(() => { show(at + 1, gap > longest); next(); }, Math.max(wait, 150));
};
const toggle = () => {
  if (timer) { stop(); return; }
  if (at >= steps.length) show(0);
  play.textContent = 'Pause';
  next();
};
if (steps.length > 0) {
  player.hidden = false;
  play.addEventListener('click', toggle);
  document.getElementById('forth').addEventListener('click', () => { stop(); show(at >= steps.length ? 1 : at + 1); });
  document.getElementById('back').addEventListener('click', () => { stop(); show(at - 1); });
  scrub.addEventListener('input', () => { stop(); show(Number(scrub.value)); });
  withRows.addEventListener('change', () => { if (withRows.checked && at > 0) rowsOf(steps[at - 1]); });
  document.addEventListener('keydown', (e) => {
    if (e.target.matches('input, select, button, a') || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key === ' ') { e.preventDefault(); toggle(); }
    if (e.key === 'ArrowRight') { stop(); show(at + 1); }
    if (e.key === 'ArrowLeft') { stop(); show(at - 1); }
  });
}
