// The trail page: completion, counts, brushing, endless rows, live rows. Without it the
// page has links for all of that but the live rows.
'use strict';

const filter = document.getElementById('filter');
const parse = (html) => new DOMParser().parseFromString(`<table><tbody>${html}</tbody></table>`, 'text/html');
const fragment = async (url) => {
  const answer = await fetch(url, { headers: { Accept: 'text/html' } });
  if (answer.redirected) { location.reload(); throw new Error('signed out'); }
  if (!answer.ok) throw new Error(String(answer.status));
  return answer.text();
};

// Counts and histogram come behind the rows, which are what the page is for.
const fill = async (id) => {
  const box = document.getElementById(id);
  if (!box || box.childElementCount > 0 || document.getElementById('problem')) return;
  try {
    const doc = new DOMParser().parseFromString(await fragment(`${box.dataset.src}?filter=${encodeURIComponent(filter.value)}`), 'text/html');
    box.replaceChildren(...doc.body.childNodes);
  } catch { box.replaceChildren(); }
};

// Brushing: drag over the histogram, or move with the keyboard from bar to bar.
const brush = () => {
  const box = document.getElementById('histogram');
  const svg = box.querySelector('svg');
  if (!svg) return;
  const bars = [...svg.querySelectorAll('a')];
  const range = (a) => {
    const f = new URL(a.getAttribute('href'), location.href).searchParams.get('filter');
    return /time >= "([^"]+)" AND time < "([^"]+)"$/.exec(f);
  };
  const at = (e) => {
    const r = svg.getBoundingClientRect();
    return Math.max(0, Math.min(bars.length - 1, Math.floor((e.clientX - r.left) / r.width * bars.length)));
  };
  let from = -1, moved = false;
  const mark = document.createElementNS('http://www.w3.org/2000/svg', 'rect');
  mark.setAttribute('class', 'brush');
  const show = (a, b) => {
    const w = svg.viewBox.baseVal.width / bars.length;
    mark.setAttribute('x', String(Math.min(a, b) * w)); mark.setAttribute('y', '0');
    mark.setAttribute('width', String((Math.abs(a - b) + 1) * w)); mark.setAttribute('height', String(svg.viewBox.baseVal.height));
    if (!mark.parentNode) svg.prepend(mark);
  };
  svg.addEventListener('pointerdown', (e) => { if (e.button === 0) { from = at(e); moved = false; } });
  svg.addEventListener('pointermove', (e) => {
    if (from < 0) return;
    if (at(e) !== from) { moved = true; svg.setPointerCapture(e.pointerId); }
    if (moved) show(from, at(e));
  });
  svg.addEventListener('pointerup', (e) => {
    if (from >= 0 && moved) {
      const a = range(bars[Math.min(from, at(e))]), b = range(bars[Math.max(from, at(e))]);
      const base = box.dataset.base;
      const term = `time >= "${a[1]}" AND time < "${b[2]}"`;
      const whole = base === '' ? term : `${/ OR /.test(base) && !base.startsWith('(') ? `(${base})` : base} AND ${term}`;
      location.href = `/trail?filter=${encodeURIComponent(whole)}`;
    }
    from = -1;
  });
  svg.addEventListener('click', (e) => { if (moved) e.preventDefault(); }, true);
  svg.addEventListener('dragstart', (e) => e.preventDefault());
};

// Endless rows: the next page comes when the end is near.
const body = document.getElementById('rows');
let loading = false;
const more = async () => {
  const mark = body.querySelector('tr[data-more]');
  if (!mark || loading) return;
  loading = true;
  try {
    const rows = parse(await fragment(mark.dataset.more)).querySelectorAll('tr');
    mark.remove();
    localTimes({ querySelectorAll: (s) => [...rows].flatMap((r) => [...r.querySelectorAll(s)]) });
    body.append(...rows);
    const next = body.querySelector('tr[data-more]'), link = document.querySelector('#next a');
    if (next) { link.href = next.dataset.next; } else { document.getElementById('next')?.remove(); }
  } finally { loading = false; }
};
const end = document.getElementById('next');
if (end) new IntersectionObserver((seen) => { if (seen.some((s) => s.isIntersecting)) more().catch(() => {}); }, { rootMargin: '600px' }).observe(end);

// Live rows. The server draws them; this only puts them in their place.
const live = document.getElementById('live'), news = document.getElementById('live-news');
const mostLive = 500;
let source = null, fresh = 0, waiting = new Map(), timer = 0;
const place = async () => {
  timer = 0;
  const ids = [...waiting.keys()].slice(-50);
  waiting = new Map();
  const terms = ids.map((id) => `id = "${id}"`).join(' OR ');
  const rows = [...parse(await fragment(`/trail/rows?filter=${encodeURIComponent(terms)}`)).querySelectorAll('tr[data-id]')];
  for (const row of rows.reverse()) {
    const old = body.querySelector(`tr[data-id="${CSS.escape(row.dataset.id)}"]`);
    row.classList.add('fresh');
    if (old) { old.replaceWith(row); } else { body.prepend(row); fresh++; }
  }
  if (rows.length > 0) document.getElementById('none')?.remove();
  localTimes(body);
  // A page that watches all day stays light: the oldest rows go, and with them the way
  // on from there, which would leave a gap.
  const rest = [...body.querySelectorAll('tr[data-id]')].slice(mostLive);
  if (rest.length > 0) {
    for (const row of rest) row.remove();
    body.querySelector('tr[data-more]')?.remove();
    const next = document.getElementById('next');
    if (next) next.textContent = `Only the newest ${mostLive} are kept here; reload the page for older ones.`;
  }
  news.textContent = fresh === 0 ? 'waiting for calls' : `${fresh} new`;
};
const follow = (on) => {
  source?.close();
  source = null;
  if (!on) { news.textContent = ''; return; }
  news.textContent = 'waiting for calls';
  source = new EventSource(live.dataset.src);
  source.addEventListener('row', (e) => {
    waiting.set(JSON.parse(e.data).id, true);
    timer ||= setTimeout(() => place().catch(() => {}), 300);
  });
  source.addEventListener('error', () => { if (source?.readyState === EventSource.CLOSED) { news.textContent = 'the stream ended'; live.checked = false; } });
};
live.addEventListener('change', () => follow(live.checked));
document.addEventListener('visibilitychange', () => { if (live.checked) follow(!document.hidden); });

// Completion.
const list = document.getElementById('options');
let options = [], chosen = -1, asked = 0;
const close = () => { list.hidden = true; filter.setAttribute('aria-expanded', 'false'); filter.removeAttribute('aria-activedescendant'); chosen = -1; };
const take = (o) => {
  const chars = [...filter.value];
  const head = chars.slice(0, o.from).join('') + o.insert;
  filter.value = head + chars.slice(o.to).join('');
  filter.setSelectionRange(head.length, head.length);
  close();
  filter.focus();
  if (o.insert.endsWith(' ')) complete();
};
const choose = (i) => {
  chosen = i;
  [...list.children].forEach((li, n) => li.setAttribute('aria-selected', String(n === i)));
  if (i >= 0) { filter.setAttribute('aria-activedescendant', list.children[i].id); list.children[i].scrollIntoView({ block: 'nearest' }); }
};
const complete = async () => {
  const turn = ++asked;
  const cursor = [...filter.value.slice(0, filter.selectionStart)].length;
  const answer = await fetch(`/api/v1/filter:complete?text=${encodeURIComponent(filter.value)}&cursor=${cursor}`);
  if (!answer.ok || turn !== asked || document.activeElement !== filter) return;
  const got = await answer.json();
  options = got.options.map((o) => ({ ...o, from: got.from, to: got.to }));
  list.replaceChildren(...options.map((o, i) => {
    const li = document.createElement('li'), detail = document.createElement('span');
    li.id = `option-${i}`; li.setAttribute('role', 'option'); li.setAttribute('aria-selected', 'false');
    li.textContent = o.label; detail.textContent = o.detail ?? ''; detail.className = 'soft';
    li.append(detail);
    li.addEventListener('mousedown', (e) => { e.preventDefault(); take(o); });
    return li;
  }));
  list.hidden = options.length === 0;
  filter.setAttribute('aria-expanded', String(!list.hidden));
  chosen = -1;
};
let typing = 0;
filter.addEventListener('input', () => { clearTimeout(typing); typing = setTimeout(() => complete().catch(() => {}), 150); });
filter.addEventListener('blur', close);
filter.addEventListener('keydown', (e) => {
  if (e.key === 'Escape') close();
  if (list.hidden) { if (e.key === 'ArrowDown') complete().catch(() => {}); return; }
  if (e.key === 'ArrowDown' || e.key === 'ArrowUp') { e.preventDefault(); choose((chosen + (e.key === 'ArrowDown' ? 1 : options.length - 1 + (chosen < 0 ? 1 : 0))) % options.length); }
  if ((e.key === 'Enter' || e.key === 'Tab') && chosen >= 0) { e.preventDefault(); take(options[chosen]); }
});

// The permalink is the address itself.
const copy = document.getElementById('copy');
if (navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener('click', async () => { await navigator.clipboard.writeText(location.href); copy.textContent = 'Copied'; });
}

fill('histogram').then(brush);
fill('facets');
