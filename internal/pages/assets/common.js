// What every page has: keys to move along lists, and times in the reader's own zone.
'use strict';

document.addEventListener('keydown', (e) => {
  const typing = e.target.matches('input, textarea, select, [contenteditable]');
  if (typing || e.ctrlKey || e.metaKey || e.altKey) return;
  if (e.key === '/') {
    const box = document.querySelector('[data-key="/"]');
    if (box) { e.preventDefault(); box.focus(); box.select(); }
    return;
  }
  if (e.key !== 'j' && e.key !== 'k') return;
  const rows = [...document.querySelectorAll('[data-row] a[data-open]')];
  if (rows.length === 0) return;
  const at = rows.indexOf(document.activeElement);
  const next = e.key === 'j' ? Math.min(at + 1, rows.length - 1) : Math.max(at - 1, 0);
  rows[next].focus();
  e.preventDefault();
});

// Times are shown in UTC, as the trail has them; the local time is a title away.
const localTimes = (root) => {
  for (const t of root.querySelectorAll('time[datetime]')) {
    if (!t.title) t.title = new Date(t.dateTime).toLocaleString();
  }
};
localTimes(document);
