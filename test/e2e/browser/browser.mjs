// A real browser on the pages. It is told what to do line by line on standard input,
// answers each with one line of JSON, and checks the accessibility of every page that it
// looks at with axe.
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import puppeteer from 'puppeteer-core';

const [base, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM, timeout: 120_000, protocolTimeout: 120_000,
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
const page = await browser.newPage();
await page.setViewport({ width: 1280, height: 900 });
const complaints = [];
page.on('pageerror', (e) => complaints.push('script: ' + e.message));
page.on('console', (m) => { if (m.type() === 'error' && !/status of 4\d\d/.test(m.text())) complaints.push('console: ' + m.text()); });
page.on('request', (r) => { const u = new URL(r.url()); if (u.origin !== new URL(base).origin && !u.pathname.startsWith('/authorize') && u.protocol !== 'data:') complaints.push('asked elsewhere: ' + r.url()); });

const limit = { timeout: 60_000 };
const text = (selector) => page.$eval(selector, (e) => e.textContent.trim());
const until = (f, ...args) => page.waitForFunction(f, limit, ...args);
let shot = 0;
const look = async (name) => {
  await page.screenshot({ path: `${shots}/${String(++shot).padStart(2, '0')}-${name}.png`, fullPage: true });
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
  return found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.map((n) => n.target.join(' ')).slice(0, 3).join(', ')}`);
};

const commands = {
  go: async ({ path }) => { const r = await page.goto(base + path, { waitUntil: 'load', ...limit }); return { status: r.status(), at: page.url() }; },
  at: async () => ({ at: page.url(), body: await text('body') }),
  look: async ({ name }) => ({ violations: await look(name) }),
  narrow: async ({ name }) => {
    await page.setViewport({ width: 360, height: 800 });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    const violations = await look(name);
    await page.setViewport({ width: 1280, height: 900 });
    return { wide, violations };
  },
  dark: async ({ on }) => { await page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: on ? 'dark' : 'light' }]); return {}; },
  token: async ({ token }) => { await page.type('#token', token); await Promise.all([page.waitForNavigation(limit), page.click('form.token button')]); return { at: page.url() }; },
  click: async ({ selector, stay }) => { await (stay ? page.click(selector) : Promise.all([page.waitForNavigation(limit), page.click(selector)])); return { at: page.url() }; },
  fill: async ({ selector, value }) => { await page.$eval(selector, (e) => { e.value = ''; }); await page.type(selector, value); return {}; },
  filter: async ({ value }) => {
    await page.$eval('#filter', (e) => { e.value = ''; });
    await page.type('#filter', value);
    await Promise.all([page.waitForNavigation(limit), page.keyboard.press('Enter')]);
    return { at: page.url(), rows: await page.$$eval('#rows tr[data-id]', (l) => l.map((r) => r.textContent.replace(/\s+/g, ' '))) };
  },
  complete: async ({ value }) => {
    await page.$eval('#filter', (e) => { e.value = ''; });
    await page.type('#filter', value);
    await until(() => !document.getElementById('options').hidden);
    const options = await page.$$eval('#options li', (l) => l.map((o) => o.firstChild.textContent));
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    return { options, value: await page.$eval('#filter', (e) => e.value) };
  },
  facets: async () => { await until(() => document.querySelectorAll('#facets a').length > 0); return { facets: await page.$$eval('#facets li', (l) => l.map((x) => x.textContent.trim().replace(/\s+/g, ' '))) }; },
  brush: async ({ from, to }) => {
    await until(() => document.querySelector('#histogram svg a'));
    const box = await (await page.$('#histogram svg')).boundingBox();
    await page.mouse.move(box.x + box.width * from, box.y + 20);
    await page.mouse.down();
    await page.mouse.move(box.x + box.width * (from + to) / 2, box.y + 25, { steps: 4 });
    await page.mouse.move(box.x + box.width * to, box.y + 25, { steps: 4 });
    await Promise.all([page.waitForNavigation(limit), page.mouse.up()]);
    return { at: decodeURIComponent(page.url()) };
  },
  rows: async () => ({ rows: await page.$$eval('#rows tr[data-id]', (l) => l.map((r) => r.textContent.replace(/\s+/g, ' '))) }),
  scroll: async ({ more }) => {
    await page.evaluate(() => window.scrollTo(0, document.body.scrollHeight));
    await until((n) => document.querySelectorAll('#rows tr[data-id]').length > n, more);
    return { rows: await page.$$eval('#rows tr[data-id]', (l) => l.length) };
  },
  live: async () => { await page.click('#live'); await until(() => document.getElementById('live-news').textContent !== ''); return {}; },
  arrives: async ({ text: wanted }) => { await until((w) => [...document.querySelectorAll('#rows tr[data-id]')].some((r) => r.textContent.includes(w)), wanted); return {}; },
  proof: async () => {
    await until(() => ['good', 'bad'].some((k) => document.getElementById('proof').classList.contains(k)));
    return { good: await page.$eval('#proof', (e) => e.classList.contains('good')), words: await text('#proof .words'), marks: await page.$$eval('.proven', (l) => l.map((x) => x.className)), checked: await page.$$eval('#proof li', (l) => l.map((x) => x.textContent)) };
  },
  verify: async () => {
    await page.click('#verify');
    await until(() => ['good', 'bad'].some((k) => document.getElementById('check').classList.contains(k)));
    return { good: await page.$eval('#check', (e) => e.classList.contains('good')), words: await text('#check .words') };
  },
  replay: async () => {
    await page.select('#speed', '100');
    await page.click('#with-rows');
    await page.click('#play');
    await until(() => document.getElementById('where').textContent.startsWith('the end'));
    return { end: await text('#where'), grids: await page.$$eval('.timeline .grid', (l) => l.map((g) => g.textContent.replace(/\s+/g, ' '))) };
  },
  keys: async () => {
    await page.keyboard.press('j');
    await page.keyboard.press('j');
    const row = await page.evaluate(() => [...document.querySelectorAll('[data-row] a[data-open]')].indexOf(document.activeElement));
    await page.keyboard.press('/');
    return { row, filter: await page.evaluate(() => document.activeElement.id) };
  },
  text: async ({ selector }) => ({ text: await text(selector) }),
  complaints: async () => ({ complaints }),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { do: name, ...args } = JSON.parse(line);
  let answer;
  try { answer = await commands[name](args); } catch (e) { answer = { error: `${name}: ${e.message}`, at: page.url() }; await page.screenshot({ path: `${shots}/failed.png` }).catch(() => {}); }
  console.log(JSON.stringify(answer));
}
await browser.close();
