// The inbox stays fresh while somebody looks at it.
'use strict';

const inbox = document.getElementById('inbox');
const news = document.getElementById('inbox-news');
const countOf = () => Number(inbox.querySelector('[data-count]')?.dataset.count ?? 0);
const title = document.title;
const tell = () => { document.title = (countOf() > 0 ? `(${countOf()}) ` : '') + title; };

const refresh = async () => {
  if (document.hidden || inbox.contains(document.activeElement)) return; // nothing moves under somebody's fingers
  const before = countOf();
  const answer = await fetch(inbox.dataset.refresh, { headers: { Accept: 'text/html' } });
  if (!answer.ok || answer.redirected) return;
  inbox.replaceChildren(...new DOMParser().parseFromString(await answer.text(), 'text/html').body.children);
  tell();
  if (countOf() !== before) news.textContent = `${countOf()} calls wait for a human`;
};
tell();
setInterval(() => refresh().catch(() => {}), 5000);
