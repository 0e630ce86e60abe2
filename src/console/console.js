// The console. Everything shown comes from the pages that this port serves anyway: /metrics, /health, /forebay/v1/ and
// the JSON API. Keys, values and names of clients are data from outside: they reach the page as text nodes, never as
// markup, and nothing here sets innerHTML.
'use strict';

const EVERY_MS = 2000;
const KEPT = 300;

// --- making elements -------------------------------------------------------------------------------------------------

function el(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.flat().filter(child => child !== undefined && child !== null && child !== false));
  return element;
}

function card(title, width, ...children) {
  return el('section', { class: width }, el('h2', {}, title), ...children);
}

function table(head, rows, empty) {
  if (!rows.length) return el('p', { class: 'soft' }, empty || 'nothing yet');
  const numeric = head.map((_, at) => rows.every(row => row[at] === '' || typeof row[at] === 'number' || row[at]?.n !== undefined));
  const cell = (value, at) => {
    if (value instanceof Node) return el('td', {}, value);
    if (value?.n !== undefined) return el('td', { class: 'n' }, value.text);
    return el('td', { class: numeric[at] ? 'n' : '' }, typeof value === 'number' ? count(value) : String(value));
  };
  return el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': head.join(', ') },
    el('table', {},
      el('thead', {}, el('tr', {}, head.map((name, at) => el('th', { scope: 'col', class: numeric[at] ? 'n' : '' }, name)))),
      el('tbody', {}, rows.map(row => el('tr', {}, row.map(cell))))));
}

function spark(values) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', 'spark');
  svg.setAttribute('viewBox', '0 0 100 30');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('aria-hidden', 'true');
  const shown = values.slice(-60);
  const top = Math.max(...shown, 1e-9);
  const step = 100 / Math.max(shown.length - 1, 1);
  const line = shown.map((value, at) => `${at ? 'L' : 'M'}${(at * step).toFixed(1)} ${(29 - value / top * 26).toFixed(1)}`).join('');
  for (const [name, shape] of [['area', `${line}V30H0Z`], ['line', line]]) {
    const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
    path.setAttribute('class', name);
    path.setAttribute('d', shape);
    svg.append(path);
  }
  return svg;
}

function figure(title, value, series, width = 'w3') {
  return card(title, width, el('div', { class: 'big' }, value), series && series.length > 1 ? spark(series) : null);
}

const number = (value, text) => ({ n: value, text });
const finite = value => (Number.isFinite(value) ? value : 0);

function bytes(value) {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  for (value = finite(value); value >= 1024 && unit < 4; unit++) value /= 1024;
  return `${unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function count(value) {
  value = finite(value);
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString('en') : value.toFixed(1);
}

function lasting(seconds) {
  if (!Number.isFinite(seconds)) return 'more than the buckets tell';
  if (seconds < 1) return `${(seconds * 1000).toFixed(1)} ms`;
  if (seconds < 90) return `${seconds.toFixed(1)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

const share = part => `${(finite(part) * 100).toFixed(part < 0.1 ? 1 : 0)} %`;

// --- what is known ---------------------------------------------------------------------------------------------------

const state = { samples: [], top: null, quota: null, policy: null, health: null, paused: false, error: null, budgets: new Map() };

function parseMetrics(text) {
  const page = new Map();
  for (const line of text.split('\n')) {
    if (!line || line[0] === '#') continue;
    const space = line.lastIndexOf(' ');
    const series = line.slice(0, space);
    const brace = series.indexOf('{');
    const name = brace < 0 ? series : series.slice(0, brace);
    const labels = {};
    if (brace >= 0) {
      for (const [, key, value] of series.slice(brace).matchAll(/([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[key] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
    }
    if (!page.has(name)) page.set(name, []);
    page.get(name).push([labels, Number(line.slice(space + 1))]);
  }
  return page;
}

class Sample {
  constructor(page, at) { this.page = page; this.at = at; }
  has(name) { return this.page.has(name); }
  sum(name, where = () => true) {
    return (this.page.get(name) || []).reduce((sum, [labels, value]) => (where(labels) ? sum + value : sum), 0);
  }
}

const now = () => state.samples[state.samples.length - 1];
const sum = (name, where) => (now() ? now().sum(name, where) : 0);

function rate(name, where, back = 5) {
  const to = now(), from = state.samples[Math.max(0, state.samples.length - 1 - back)];
  if (!to || from === to) return 0;
  return Math.max(0, to.sum(name, where) - from.sum(name, where)) / ((to.at - from.at) / 1000);
}

function rates(name, where) {
  const values = [];
  for (let at = 1; at < state.samples.length; at++) {
    const [from, to] = [state.samples[at - 1], state.samples[at]];
    values.push(Math.max(0, to.sum(name, where) - from.sum(name, where)) / ((to.at - from.at) / 1000));
  }
  return values;
}

const series = name => state.samples.map(sample => sample.sum(name));

function quantile(name, part, where = () => true) {
  const to = now(), from = state.samples[Math.max(0, state.samples.length - 30)];
  if (!to) return NaN;
  const buckets = new Map();
  for (const [sample, sign] of [[to, 1], ...(from === to ? [] : [[from, -1]])]) {
    for (const [labels, value] of sample.page.get(`${name}_bucket`) || []) {
      if (!where(labels)) continue;
      const bound = labels.le === '+Inf' ? Infinity : Number(labels.le);
      buckets.set(bound, (buckets.get(bound) || 0) + sign * value);
    }
  }
  const bounds = [...buckets].sort((a, b) => a[0] - b[0]);
  const total = bounds.length ? bounds[bounds.length - 1][1] : 0;
  if (total <= 0) return NaN;
  return bounds.find(([, n]) => n >= total * part)[0];
}

const shownTime = seconds => (Number.isNaN(seconds) ? 'none lately' : lasting(seconds));

// Of the operator; kept for as long as the page is open. What changes anything is shown to who brings it.
let adminToken = null;

function admin(path, options = {}) {
  return fetch(`/forebay/v1/${path}`, adminToken ? { ...options, headers: { authorization: `Bearer ${adminToken}` } } : options);
}

async function get(path) {
  const response = await fetch(path, { headers: { accept: 'application/json' } });
  if (!response.ok) throw Object.assign(new Error(`${path}: ${response.status}`), { status: response.status });
  return response;
}

async function adminPage(page) {
  const response = await admin(page);
  state.isForbidden = response.status === 403;
  return response.ok ? response.json() : null;
}

async function refresh() {
  try {
    const [text, health] = await Promise.all([
      get('/metrics').then(response => response.text()),
      fetch('/health').then(async response => ({ ok: response.ok, ...(await response.json()) })).catch(() => null),
    ]);
    state.samples.push(new Sample(parseMetrics(text), Date.now()));
    if (state.samples.length > KEPT) state.samples.shift();
    state.health = health;
    state.error = null;
    // A member alone has no admission: asked once a page.
    if (isGateway()) {
      [state.top, state.quota, state.policy] = await Promise.all(['top', 'quota', 'policy'].map(adminPage));
      for (const budget of state.quota?.budgets || []) {
        const name = budgetName(budget);
        const seen = state.budgets.get(name) || [];
        seen.push([Date.now(), budget.used]);
        state.budgets.set(name, seen.slice(-KEPT));
      }
    }
  } catch (error) {
    state.error = error;
  }
}

// --- views -----------------------------------------------------------------------------------------------------------

// Which it is before the first request, too.
const isGateway = () => now()?.has('forebay_admission_seats');
const isMember = () => now()?.has('etcd_server_has_leader');

function strip() {
  if (state.error) return [pill('no answer', 'bad')];
  if (!now()) return [];
  const pills = [state.health?.health === 'true' ? pill('healthy', 'good') : pill(state.health?.reason || 'not healthy', 'bad')];
  if (isMember()) pills.push(sum('etcd_server_has_leader') ? pill(sum('etcd_server_is_leader') ? 'leads' : 'follows a leader', 'good') : pill('no leader', 'bad'));
  if (isMember()) {
    const used = sum('etcd_mvcc_db_total_size_in_bytes') / sum('etcd_server_quota_backend_bytes');
    pills.push(pill(`space ${share(used)}`, used > 0.95 ? 'bad' : used > 0.8 ? 'warn' : ''));
  }
  if (now().has('forebay_mirror_serving') && isMirroring()) {
    pills.push(sum('forebay_mirror_serving') ? pill('mirror serves', 'good') : pill('no mirror', 'warn'));
  }
  if (isGateway()) pills.push(pill(`load ${bytes(rate('forebay_admission_load_bytes_total'))}/s`));
  const refused = rate('forebay_admission_refused_total');
  if (refused > 0) pills.push(pill(`refused ${count(refused)}/s`, 'warn'));
  return pills;
}

const isMirroring = () => !isMember() || sum('forebay_mirror_serving') > 0;
const pill = (text, tone = '') => el('span', { class: `pill ${tone}` }, text);

function overview() {
  const unary = labels => labels.grpc_type === 'unary';
  const bad = labels => !['OK', 'Canceled', 'NotFound', 'InvalidArgument', 'OutOfRange'].includes(labels.grpc_code);
  return [
    figure('Requests', `${count(rate('grpc_server_started_total'))}/s`, rates('grpc_server_started_total')),
    figure('Failed', `${count(rate('grpc_server_handled_total', bad))}/s`, rates('grpc_server_handled_total', bad)),
    figure('99 % of unary calls within', shownTime(quantile('grpc_server_handling_seconds', 0.99, unary))),
    figure('Memory', bytes(sum('process_resident_memory_bytes')), series('process_resident_memory_bytes')),
    card('Load map: clients × prefixes', 'w8', heatMap()),
    card('Calls', 'w4', methods()),
  ];
}

function methods() {
  const rows = (now().page.get('grpc_server_started_total') || [])
    .map(([labels]) => [labels.grpc_method, rate('grpc_server_started_total', own => own.grpc_method === labels.grpc_method)])
    .filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1]).slice(0, 12);
  return table(['METHOD', 'REQ/s'], rows.map(([name, value]) => [name, number(value, count(value))]), 'no calls lately');
}

function heatMap() {
  const rows = state.top?.rows || [];
  if (!rows.length) return el('p', { class: 'soft' }, state.top ? 'nobody asked anything in the last seconds' : needsGateway());
  const total = (key) => {
    const sums = new Map();
    for (const row of rows) sums.set(row[key], (sums.get(row[key]) || 0) + row.loadBytesPerSecond);
    return [...sums].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  };
  const [clients, prefixes] = [total('client').slice(0, 12), total('prefix').slice(0, 6)];
  const load = (client, prefix) => rows.filter(row => row.client === client && row.prefix === prefix).reduce((all, row) => all + row.loadBytesPerSecond, 0);
  const top = Math.max(...clients.map(client => Math.max(...prefixes.map(prefix => load(client, prefix)))), 1);
  const cell = value => {
    const td = el('td', { class: 'n' }, value ? `${bytes(value)}/s` : '');
    // Set by the object model, which the policy on styles allows; a square root shows small loads too.
    td.style.backgroundColor = value ? `rgba(var(--heat), ${(0.08 + 0.55 * Math.sqrt(value / top)).toFixed(2)})` : '';
    return td;
  };
  return el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': 'load map' }, el('table', {},
    el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'CLIENT'), prefixes.map(prefix => el('th', { scope: 'col', class: 'n' }, prefix || '(none)')))),
    el('tbody', {}, clients.map(client => el('tr', {}, el('th', { scope: 'row' }, client), prefixes.map(prefix => cell(load(client, prefix))))))));
}

function needsGateway() {
  if (!isGateway()) return 'a member alone does not tell who asks for what: look at a gateway';
  if (!state.isForbidden) return 'nothing yet';
  return el('span', {}, 'Who does what is told to who brings the admin token (--admin-token-file); without one, to this machine alone.', tokenForm('Show'));
}

function tokenForm(label) {
  const form = el('form', { class: 'row', onsubmit: async event => {
    event.preventDefault();
    adminToken = new FormData(form).get('token');
    const accepted = await admin('top');
    if (!accepted.ok) { adminToken = null; form.append(el('span', { class: 'bad', role: 'alert' }, 'That is not the token.')); return; }
    $('dialog').close();
    await refresh();
    draw(true);
  } }, el('label', {}, 'admin token', el('input', { name: 'token', type: 'password', autocomplete: 'off', required: true })), el('button', {}, label));
  return form;
}

/** Asks before it does something, and shows what came of it. */
function act(title, warning, doing) {
  const said = el('p', { role: 'status' });
  const go = el('button', { class: 'danger', onclick: async () => {
    go.disabled = true;
    try { said.textContent = (await doing()) || 'Done.'; said.className = 'good'; } catch (error) { said.textContent = error.message; said.className = 'bad'; }
    await refresh();
    draw(true);
  } }, title);
  dialog(title, el('p', {}, warning), go, said);
}

function changeMode(rule) {
  const mode = rule.mode === 'Enforce' ? 'Shadow' : 'Enforce';
  const effect = mode === 'Enforce' ? `${rule.name} holds requests to its limits from now on` : `${rule.name} only counts from now on, and holds nobody up`;
  act(mode === 'Enforce' ? 'Enforce this rule' : 'Only count', `${effect}, on this gateway, until it loads its policy file again.`, async () => {
    const response = await admin(`policy/mode?${new URLSearchParams({ rule: rule.name, mode })}`, { method: 'POST' });
    if (!response.ok) throw new Error(await response.text());
    return `${rule.name}: ${mode}`;
  });
}

function filterBox(name, draw) {
  return el('label', { class: 'row' }, 'filter', el('input', {
    id: 'filter', type: 'search', value: filters[name] || '', autocomplete: 'off', oninput: event => { filters[name] = event.target.value; draw(); },
  }));
}
const filters = {};

function clients() {
  const list = el('div', {});
  const draw = () => {
    const wanted = (filters.clients || '').toLowerCase();
    const rows = (state.top?.rows || []).filter(row => `${row.client} ${row.prefix} ${row.rpc}`.toLowerCase().includes(wanted))
      .sort((a, b) => b.loadBytesPerSecond - a.loadBytesPerSecond).slice(0, 100);
    const per = (a, b) => (b ? a / b : 0);
    const micros = value => (value === null ? '' : number(value, lasting(value / 1e6)));
    list.replaceChildren(state.top ? table(
      ['CLIENT', 'PREFIX', 'RPC', 'REQ/s', 'OBJ/req', 'B/obj', 'LOAD/s', 'p50', 'p99', 'QUEUED', 'REFUSED', ''],
      rows.map(row => [row.client, row.prefix, row.rpc,
        number(row.requestsPerSecond, count(row.requestsPerSecond)), number(0, count(per(row.objects, row.requests))),
        number(0, bytes(per(row.bytes, row.objects || row.requests))), number(0, bytes(row.loadBytesPerSecond)),
        micros(row.p50Micros), micros(row.p99Micros), row.queued, row.refused,
        el('button', { class: 'link', onclick: () => draft(row) }, 'draft rule')]), 'nobody in the last seconds') : el('p', { class: 'soft' }, needsGateway()));
  };
  draw();
  return [card('Clients: requests × objects × size = load, over the last ten seconds', '', filterBox('clients', draw), list)];
}

function draft(row) {
  const quoted = text => JSON.stringify(text);
  const level = state.policy?.levels.some(level => level.name === 'workload') ? 'workload' : 'catch-all';
  const rule = `    - name: held-${row.rpc.toLowerCase()}\n      matchingPrecedence: 1000\n      mode: Shadow\n` +
    `      match: {subjects: [${quoted(row.client)}], rpcs: [${row.rpc}], keys: [${quoted(row.prefix)}]}\n` +
    `      priorityLevel: ${level}\n      limits: {requests: ${Math.max(1, Math.ceil(row.requestsPerSecond / 2))}/s}\n      onLimit: Queue\n`;
  dialog('A rule for this client', el('p', {}, 'Under flowRules of the policy file. It only counts until mode is Enforce.'), el('pre', { tabindex: 0 }, rule));
}

const budgetName = budget => `${budget.quota} ${budget.prefix} ${budget.resource}`;

function timeToFull(budget) {
  const seen = state.budgets.get(budgetName(budget)) || [];
  if (budget.used >= budget.hard) return 'full';
  if (seen.length < 2) return '';
  const [[t0, u0], [t1, u1]] = [seen[0], seen[seen.length - 1]];
  const pace = (u1 - u0) / ((t1 - t0) / 1000);
  return pace > 0 ? `in ${lasting((budget.hard - u1) / pace)}` : 'not at this pace';
}

function meter(part, warnAt = 0.8) {
  const tone = part >= 1 ? 'bad' : part >= warnAt ? 'warn' : '';
  const bar = el('i', { class: tone });
  bar.style.width = `${Math.min(100, part * 100)}%`;
  return el('div', { class: 'meter', role: 'meter', 'aria-valuenow': Math.round(part * 100), 'aria-valuemin': 0, 'aria-valuemax': 100, 'aria-label': 'used' }, bar);
}

function policy() {
  const warn = new Map((state.quota?.quotas || []).map(quota => [quota.quota, quota.warnAtPercent / 100]));
  const budgets = (state.quota?.budgets || []).sort((a, b) => b.used / b.hard - a.used / a.hard).slice(0, 50);
  const rules = state.policy?.rules || [];
  return [
    card('Quotas', 'w6', table(['QUOTA', 'PREFIX', 'RESOURCE', 'USED', 'HARD', '', 'FULL'],
      budgets.map(budget => [budget.quota, budget.prefix, budget.resource, budget.used, budget.hard, meter(budget.used / Math.max(budget.hard, 1), warn.get(budget.quota)), timeToFull(budget)]),
      state.quota ? 'no quota has been counted since the gateway began' : needsGateway())),
    card('What would happen to a request?', 'w6', dryRun()),
    card(`Rules of ${state.policy?.name ?? 'the policy'}`, 'w6', state.policy && !state.policy.current ? el('p', { class: 'bad' }, 'The policy file cannot be used; the last good one is in force.') : null,
      table(['RULE', 'MODE', 'LEVEL', 'LET IN', 'REFUSED', 'WOULD REFUSE', ...(adminToken ? [''] : [])], rules.map(rule => [rule.name, rule.mode, rule.level, rule.admitted, rule.refused, rule.shadowRefused,
        ...(adminToken ? [rule.builtIn ? '' : el('button', { class: 'link', onclick: () => changeMode(rule) }, rule.mode === 'Enforce' ? 'only count' : 'enforce')] : [])]), needsGateway())),
    card('Priority levels', 'w6', table(['LEVEL', 'SEATS', 'NOMINAL', 'WAITING'], (state.policy?.levels || []).map(level => [level.name + (level.exempt && level.name !== 'exempt' ? ' (exempt)' : ''), level.seats, level.nominalSeats, level.waiting]), needsGateway())),
  ];
}

const asked = { client: 'ip=127.0.0.1', rpc: 'Range', key: '/registry/pods/', objects: '1000', file: '' };

function dryRun() {
  const out = el('pre', { id: 'dry-run', tabindex: 0 });
  const field = (name, label) => el('label', {}, label, el('input', { name, value: asked[name], size: name === 'key' ? 18 : 12, oninput: event => { asked[name] = event.target.value; } }));
  const ask = async event => {
    event.preventDefault();
    const response = await admin(`explain?${new URLSearchParams({ client: asked.client, rpc: asked.rpc, key: asked.key, objects: asked.objects, prefix: 'true' })}`);
    out.textContent = await response.text();
  };
  const file = el('textarea', { rows: 4, cols: 44, 'aria-label': 'policy file', placeholder: 'apiVersion: forebay.dev/v1alpha1 ...', oninput: event => { asked.file = event.target.value; } }, asked.file);
  const trial = async event => {
    event.preventDefault();
    const response = await admin('policy/try', { method: 'POST', body: file.value });
    const text = await response.text();
    try { out.textContent = JSON.stringify(JSON.parse(text), null, 2); } catch { out.textContent = text; }
  };
  return [
    el('form', { class: 'row', onsubmit: ask }, field('client', 'client'), field('rpc', 'rpc'), field('key', 'prefix'), field('objects', 'objects'), el('button', {}, 'Explain')),
    el('form', { class: 'row', onsubmit: trial }, file, el('button', {}, 'Try this policy')),
    out,
  ];
}

function watches() {
  const served = name => labels => labels.served === name;
  const all = rate('forebay_mirror_requests_total');
  const reasons = ['hit', 'absent', 'uncovered', 'lagging', 'window', 'unvouched', 'unavailable'];
  const ratio = sum('forebay_mirror_watchers') / Math.max(1, sum('forebay_mirror_upstream_watches'));
  const mirror = now().has('forebay_mirror_serving') ? [
    figure('Client watches', count(sum('forebay_mirror_watchers')), series('forebay_mirror_watchers')),
    figure('Upstream watches', count(sum('forebay_mirror_upstream_watches')), series('forebay_mirror_upstream_watches')),
    figure('Clients for each upstream watch', count(ratio)),
    figure('Behind by', `${count(sum('forebay_mirror_lag_revisions'))} revisions`, series('forebay_mirror_lag_revisions')),
    card('Reads and watches by how they were answered', 'w6', table(['ANSWERED', '/s', 'SHARE'], reasons.map(name => [name, number(0, count(rate('forebay_mirror_requests_total', served(name)))), number(0, share(all ? rate('forebay_mirror_requests_total', served(name)) / all : 0))]))),
    card('The mirror', 'w6', table(['', ''], [
      ['serves', sum('forebay_mirror_serving') ? 'yes' : 'no'], ['memory', bytes(sum('forebay_mirror_bytes'))],
      ['behind for', lasting(sum('forebay_mirror_lag_seconds'))],
      ['99 % of freshness rounds within', shownTime(quantile('forebay_mirror_freshness_seconds', 0.99))],
      ['reads for each round', count(rate('forebay_mirror_freshness_waits_total') / Math.max(1e-9, rate('forebay_mirror_freshness_rounds_total')))],
      ['built anew', count(sum('forebay_mirror_rebuilds_total'))], ['pages that differed in audits', count(sum('forebay_mirror_audits_total', labels => labels.outcome === 'different'))],
    ])),
  ] : [];
  return [...mirror, ...(isMember() ? [
    figure('Watchers at this member', count(sum('etcd_debugging_mvcc_watcher_total')), series('etcd_debugging_mvcc_watcher_total'), 'w4'),
    figure('Slow watchers', count(sum('etcd_debugging_mvcc_slow_watcher_total')), series('etcd_debugging_mvcc_slow_watcher_total'), 'w4'),
    figure('Events', `${count(rate('etcd_debugging_mvcc_events_total'))}/s`, rates('etcd_debugging_mvcc_events_total'), 'w4'),
  ] : [])];
}

function storage() {
  const endpoints = new Map();
  for (const [labels, value] of now().page.get('forebay_gateway_upstream_connections') || []) endpoints.set(labels.endpoint, value);
  const upstream = endpoints.size ? [card('Upstream', '', table(['ENDPOINT', 'CONNECTIONS', 'ANSWERED/s', 'FAILED/s', 'p99'], [...endpoints].map(([name, open]) => {
    const own = outcome => labels => labels.endpoint === name && (labels.outcome === 'answered') === outcome;
    return [name, open, number(0, count(rate('forebay_gateway_upstream_requests_total', own(true)))), number(0, count(rate('forebay_gateway_upstream_requests_total', own(false)))),
      number(0, shownTime(quantile('forebay_gateway_upstream_response_seconds', 0.99, labels => labels.endpoint === name)))];
  })))] : [];
  if (!isMember()) return upstream;
  const [size, used, quota] = ['etcd_mvcc_db_total_size_in_bytes', 'etcd_mvcc_db_total_size_in_use_in_bytes', 'etcd_server_quota_backend_bytes'].map(name => sum(name));
  return [
    card('Database', 'w6', el('div', { class: 'row' }, el('span', { class: 'big' }, bytes(size)), el('span', { class: 'soft' }, `of ${bytes(quota)}, ${bytes(used)} in use`)), meter(size / Math.max(quota, 1)),
      el('p', {}, `${count(sum('etcd_debugging_mvcc_keys_total'))} keys, ${count(sum('etcd_debugging_mvcc_current_revision') - Math.max(0, sum('etcd_debugging_mvcc_compact_revision')))} revisions since the last compaction`)),
    card('Disk', 'w6', table(['', ''], [
      ['99 % of WAL fsyncs within', shownTime(quantile('etcd_disk_wal_fsync_duration_seconds', 0.99))],
      ['99 % of backend commits within', shownTime(quantile('etcd_disk_backend_commit_duration_seconds', 0.99))],
      ['WAL written', `${bytes(rate('etcd_disk_wal_write_bytes_total'))}/s`],
    ])),
    ...(adminToken ? [maintenance()] : []),
    figure('Proposals', `${count(rate('etcd_server_proposals_committed_total'))}/s`, rates('etcd_server_proposals_committed_total')),
    figure('Waiting', count(sum('etcd_server_proposals_pending')), series('etcd_server_proposals_pending')),
    figure('Leader changes', count(sum('etcd_server_leader_changes_seen_total'))),
    figure('Peers, 99 % of round trips', shownTime(quantile('etcd_network_peer_round_trip_time_seconds', 0.99))),
    ...upstream,
  ];
}

/** What an operator does by etcdctl, with etcd's own rights: sign in under Keys where users are on. */
function maintenance() {
  const revision = sum('etcd_debugging_mvcc_current_revision');
  return card('Maintenance of this member', '', el('div', { class: 'row' },
    el('button', { onclick: () => act('Compact', `The history before revision ${revision} is forgotten: reads and watches from there fail. Kubernetes compacts by itself.`,
      async () => { await call('kv/compaction', { revision: String(revision), physical: true }); return `compacted at ${revision}`; }) }, 'Compact'),
    el('button', { onclick: () => act('Defragment', 'The db file is written anew. This member may answer slowly meanwhile.',
      async () => { await call('maintenance/defragment', {}); return `now ${bytes(Number((await call('maintenance/status', {})).dbSize))}`; }) }, 'Defragment'),
    el('button', { onclick: () => act('Disarm alarms', 'Writes are taken again. Make space first: compact and defragment.',
      async () => { const { alarms = [] } = await call('maintenance/alarm', { action: 'GET' }); for (const { memberID, alarm } of alarms) await call('maintenance/alarm', { action: 'DEACTIVATE', memberID, alarm }); return `${alarms.length} disarmed`; }) }, 'Disarm alarms')));
}

// --- keys ------------------------------------------------------------------------------------------------------------

const encoder = new TextEncoder(), decoder = new TextDecoder('utf-8', { fatal: true });
const toBase64 = data => btoa(Array.from(data, byte => String.fromCharCode(byte)).join(''));
const fromBase64 = text => Uint8Array.from(atob(text || ''), c => c.charCodeAt(0));

/** Bytes as text; what is none as \x escapes, which `toBytes` reads again. */
function shown(data) {
  try {
    const text = decoder.decode(data);
    if (!/[\x00-\x1f\x7f\\]/.test(text)) return text;
  } catch { /* no text */ }
  return Array.from(data, byte => (byte > 0x1f && byte < 0x7f && byte !== 0x5c ? String.fromCharCode(byte) : `\\x${byte.toString(16).padStart(2, '0')}`)).join('');
}

function toBytes(text) {
  const parts = text.split(/(\\x[0-9a-f]{2})/);
  return Uint8Array.from(parts.flatMap(part => (/^\\x[0-9a-f]{2}$/.test(part) ? [parseInt(part.slice(2), 16)] : [...encoder.encode(part)])));
}

/** The first key behind all that begin with `prefix`; a zero byte stands for the end of everything. */
function behind(prefix) {
  for (let at = prefix.length - 1; at >= 0; at--) {
    if (prefix[at] < 0xff) return Uint8Array.from([...prefix.slice(0, at), prefix[at] + 1]);
  }
  return new Uint8Array([0]);
}

let token = null;

async function call(method, body) {
  const headers = { 'content-type': 'application/json' };
  if (token) headers.authorization = token;
  const response = await fetch(`/v3/${method}`, { method: 'POST', headers, body: JSON.stringify(body) });
  const text = await response.text();
  if (response.status === 404) throw new Error('this port has no API: open the console on a client port');
  let answer;
  try { answer = JSON.parse(text); } catch { throw new Error(text.slice(0, 200)); }
  if (!response.ok) throw new Error(answer.error || answer.message);
  return answer;
}

const FOLDERS = 200;
const view = { prefix: '', key: null, versions: [], against: null };

/** What lies under a prefix, a row for each folder, found by jumping from folder to folder: keys are not listed. */
async function listing(prefix) {
  const start = toBytes(prefix), end = prefix ? behind(start) : new Uint8Array([0]);
  let cursor = start.length ? start : new Uint8Array([0]);
  const rows = [];
  let left = null;
  while (rows.length < FOLDERS) {
    const answer = await call('kv/range', { key: toBase64(cursor), range_end: toBase64(end), limit: '1', keys_only: true });
    const remaining = Number(answer.count || 0);
    if (left !== null) rows[rows.length - 1].count = left - remaining;
    left = remaining;
    if (!answer.kvs?.length) break;
    const key = fromBase64(answer.kvs[0].key);
    const slash = key.indexOf(0x2f, Math.max(start.length, 1));
    const isFolder = slash >= 0 && slash < key.length - 1;
    rows.push({ name: shown(isFolder ? key.slice(0, slash + 1) : key), isFolder, count: 1 });
    cursor = isFolder ? behind(key.slice(0, slash + 1)) : Uint8Array.from([...key, 0]);
    if (cursor.length === 1 && cursor[0] === 0) break;
  }
  return { rows, total: rows.reduce((all, row) => all + row.count, 0), isCut: rows.length >= FOLDERS };
}

/** The versions of a key, newest first, as far back as they are kept. */
async function versionsOf(key) {
  const versions = [];
  let revision;
  while (versions.length < 20) {
    let answer;
    try {
      answer = await call('kv/range', { key: toBase64(toBytes(key)), ...(revision ? { revision: String(revision) } : {}) });
    } catch (error) {
      if (versions.length) break;
      throw error;
    }
    const kv = answer.kvs?.[0];
    if (!kv) break;
    versions.push(kv);
    if (Number(kv.version) <= 1) break;
    revision = BigInt(kv.mod_revision) - 1n;
  }
  return versions;
}

// Protocol buffers, as far as an outline needs them.
function* fields(data) {
  let at = 0;
  const varint = () => {
    let value = 0n;
    for (let shift = 0n; ; shift += 7n) {
      if (at >= data.length || shift > 63n) throw new Error('cut');
      const byte = data[at++];
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < data.length) {
    const tag = Number(varint());
    const [field, kind] = [tag >>> 3, tag & 7];
    if (field === 0) throw new Error('no field');
    if (kind === 0) yield [field, varint()];
    else if (kind === 2) {
      const length = Number(varint());
      if (at + length > data.length) throw new Error('cut');
      yield [field, data.subarray(at, at += length)];
    } else if (kind === 1 || kind === 5) {
      const length = kind === 1 ? 8 : 4;
      if (at + length > data.length) throw new Error('cut');
      yield [field, data.subarray(at, at += length)];
    } else throw new Error('no kind');
  }
}

function outline(data, depth = 0) {
  const lines = [];
  for (const [field, value] of fields(data)) {
    const indent = '  '.repeat(depth);
    if (typeof value === 'bigint') { lines.push(`${indent}${field}: ${value}`); continue; }
    let text = null;
    try { text = decoder.decode(value); } catch { /* no text */ }
    const printable = text !== null && !/[\x00-\x08\x0e-\x1f]/.test(text);
    if (!printable && depth < 12) {
      try { lines.push(`${indent}${field}:`, ...outline(value, depth + 1)); continue; } catch { lines.splice(lines.length); }
    }
    lines.push(`${indent}${field}: ${printable ? JSON.stringify(text) : `${value.length} bytes`}`);
  }
  return lines;
}

const first = (data, wanted) => { for (const [field, value] of fields(data)) if (field === wanted) return value; };

/** What Kubernetes calls the object, if it is one: `k8s\0`, a type, and the object whose first field is its metadata. */
function kubernetes(data) {
  if (data.length < 4 || data[0] !== 0x6b || data[1] !== 0x38 || data[2] !== 0x73 || data[3] !== 0) return null;
  try {
    const text = value => (value ? decoder.decode(value) : '');
    const body = data.subarray(4), kind = first(body, 1), raw = first(body, 2);
    const meta = first(raw, 1);
    return { apiVersion: text(first(kind, 1)), kind: text(first(kind, 2)), name: text(first(meta, 1)), namespace: text(first(meta, 3)), lines: outline(raw) };
  } catch { return null; }
}

/** A value in lines, to be read and compared. */
function readable(data) {
  const object = kubernetes(data);
  if (object) return [`${object.apiVersion} ${object.kind} ${object.namespace ? `${object.namespace}/` : ''}${object.name}`, ...object.lines];
  try {
    const text = decoder.decode(data);
    try { return JSON.stringify(JSON.parse(text), null, 2).split('\n'); } catch { /* no JSON */ }
    if (!/[\x00-\x08\x0e-\x1f]/.test(text)) return text.split('\n');
  } catch { /* no text */ }
  const lines = [];
  for (let at = 0; at < Math.min(data.length, 4096); at += 16) {
    const row = Array.from(data.slice(at, at + 16));
    lines.push(`${at.toString(16).padStart(6, '0')}  ${row.map(byte => byte.toString(16).padStart(2, '0')).join(' ').padEnd(47)}  ${row.map(byte => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : '.')).join('')}`);
  }
  return lines;
}

/** The lines of a difference by their longest common subsequence; long texts are not compared line by line. */
function difference(before, after) {
  if (before.length * after.length > 4e6) return [...before.map(line => ['cut', line]), ...after.map(line => ['add', line])];
  const width = after.length + 1;
  const common = new Uint32Array((before.length + 1) * width);
  for (let a = before.length - 1; a >= 0; a--) {
    for (let b = after.length - 1; b >= 0; b--) {
      common[a * width + b] = before[a] === after[b] ? common[(a + 1) * width + b + 1] + 1 : Math.max(common[(a + 1) * width + b], common[a * width + b + 1]);
    }
  }
  const lines = [];
  let [a, b] = [0, 0];
  while (a < before.length || b < after.length) {
    if (a < before.length && b < after.length && before[a] === after[b]) { lines.push(['', before[a++]]); b++; }
    else if (b < after.length && (a === before.length || common[a * width + b + 1] >= common[(a + 1) * width + b])) lines.push(['add', after[b++]]);
    else lines.push(['cut', before[a++]]);
  }
  return lines;
}

function keys() {
  const list = el('div', { id: 'listing' }, el('p', { class: 'soft' }, 'reading'));
  const detail = el('div', { id: 'detail' }, el('p', { class: 'soft' }, 'choose a key'));
  const fail = (place, error) => place.replaceChildren(el('p', { class: 'bad' }, error.message), /user|token|permission/i.test(error.message) ? login() : '');
  const login = () => {
    const form = el('form', { class: 'row', onsubmit: async event => {
      event.preventDefault();
      const values = new FormData(form);
      try { token = (await call('auth/authenticate', { name: values.get('name'), password: values.get('password') })).token; open(view.prefix); } catch (error) { fail(list, error); }
    } }, el('label', {}, 'user', el('input', { name: 'name', autocomplete: 'username' })), el('label', {}, 'password', el('input', { name: 'password', type: 'password', autocomplete: 'current-password' })), el('button', {}, 'Sign in'));
    return form;
  };
  const open = async prefix => {
    view.prefix = prefix;
    input.value = prefix;
    try {
      const { rows, total, isCut } = await listing(prefix);
      const up = prefix.replace(/[^/]*\/?$/, '');
      list.replaceChildren(
        el('p', { class: 'soft' }, `${count(total)}${isCut ? ' or more' : ''} keys under ${prefix || 'everything'}`),
        prefix ? el('p', {}, el('button', { class: 'link', onclick: () => open(up === prefix ? '' : up) }, `.. (${up || 'everything'})`)) : '',
        table(['KEY', 'KEYS'], rows.map(row => [el('button', { class: 'link', onclick: () => (row.isFolder ? open(row.name) : show(row.name)) }, row.name), row.isFolder ? row.count : '']), 'no keys'));
    } catch (error) { fail(list, error); }
  };
  const show = async key => {
    try {
      Object.assign(view, { key, versions: await versionsOf(key), against: null });
      draw();
    } catch (error) { fail(detail, error); }
  };
  const draw = (at = 0) => {
    const kv = view.versions[at];
    if (!kv) return detail.replaceChildren(el('p', { class: 'soft' }, 'the key is gone'));
    const data = fromBase64(kv.value), object = kubernetes(data);
    const older = view.versions[at + 1];
    const lines = older ? difference(readable(fromBase64(older.value)), readable(data)) : readable(data).map(line => ['', line]);
    const text = view.against === at ? lines : readable(data).map(line => ['', line]);
    detail.replaceChildren(
      el('h2', {}, view.key),
      object ? el('p', {}, el('strong', {}, object.kind), ` ${object.apiVersion}, ${object.namespace ? `${object.namespace}/` : ''}${object.name}`) : '',
      el('p', { class: 'soft' }, `${bytes(data.length)}, version ${kv.version}, created at ${kv.create_revision}, changed at ${kv.mod_revision}${kv.lease && kv.lease !== '0' ? `, lease ${BigInt(kv.lease).toString(16)}` : ''}`),
      el('div', { class: 'row', role: 'group', 'aria-label': 'versions' },
        view.versions.map((version, index) => el('button', { 'aria-pressed': String(index === at), onclick: () => draw(index) }, `v${version.version}`)),
        older ? el('button', { onclick: () => { view.against = view.against === at ? null : at; draw(at); } }, view.against === at ? 'show value' : `changes since v${older.version}`) : ''),
      el('pre', { tabindex: 0 }, text.slice(0, 5000).map(([kind, line]) => (kind ? el('span', { class: kind }, `${kind === 'add' ? '+' : '-'} ${line}`) : `${line}\n`))));
  };
  const input = el('input', { id: 'filter', type: 'search', size: 30, value: view.prefix, autocomplete: 'off', 'aria-label': 'prefix' });
  const form = el('form', { class: 'row', onsubmit: event => { event.preventDefault(); open(input.value); } }, el('label', {}, 'prefix', input), el('button', {}, 'Open'));
  const [, , kind, named] = place();
  // A link that somebody cut in the middle of an escape names what it says.
  let linked = named === undefined ? null : named;
  try { linked = linked && decodeURIComponent(linked); } catch { /* as it is */ }
  open(kind === ':' ? linked : kind === '=' ? linked.replace(/[^/]*$/, '') : view.prefix);
  if (kind === '=') show(linked);
  else if (view.key) draw();
  return [card('Keys', 'w6', form, list), card('Value and history', 'w6', detail)];
}

// --- the page --------------------------------------------------------------------------------------------------------

// Those that live are drawn again with every refresh; a form would lose what is typed into it.
const VIEWS = [
  ['overview', 'Overview', overview, true], ['clients', 'Clients', clients, false], ['policy', 'Quotas & policy', policy, false],
  ['watches', 'Watches & mirror', watches, true], ['storage', 'Storage & raft', storage, true], ['keys', 'Keys', keys, false],
];

// `#keys:PREFIX` opens a prefix and `#keys=KEY` a key, so that both can be linked to.
const place = () => /^#([a-z]*)(?:([:=])(.*))?$/s.exec(location.hash) || [];
const current = () => VIEWS.find(([name]) => name === place()[1]) || VIEWS[0];
const $ = id => document.getElementById(id);

function dialog(title, ...children) {
  $('dialog-title').textContent = title;
  $('dialog-body').replaceChildren(...children);
  $('dialog').showModal();
}

function draw(all) {
  $('strip').replaceChildren(...strip());
  const [name, , make, isLive] = current();
  document.querySelectorAll('nav a').forEach(link => (link.hash === `#${name}` ? link.setAttribute('aria-current', 'page') : link.removeAttribute('aria-current')));
  const isTyping = $('main').contains(document.activeElement) && /^(INPUT|BUTTON|TEXTAREA)$/.test(document.activeElement.tagName);
  if (now() && (all || isLive || (name !== 'keys' && !isTyping))) {
    const scrolled = [...document.querySelectorAll('main .scroll')].map(part => part.scrollLeft);
    $('main').replaceChildren(...make().flat());
    document.querySelectorAll('main .scroll').forEach((part, at) => { part.scrollLeft = scrolled[at] || 0; });
  } else if (!now() && state.error) {
    $('main').replaceChildren(card('No answer', '', el('p', { class: 'bad' }, state.error.message)));
  }
  $('operator').textContent = adminToken ? 'stop acting as operator' : 'operator';
  $('age').textContent = state.paused ? 'paused' : state.error ? `no answer: ${state.error.message}` : `as of ${new Date().toLocaleTimeString()}`;
}

/** Takes the admin token, or gives it up. */
function operator() {
  if (!isGateway()) return dialog('Operator', el('p', {}, 'A member alone has no admin token; a gateway has, and forebay up with --admin-token-file.'));
  if (!adminToken) return dialog('Operator', el('p', {}, 'With the admin token (--admin-token-file) rules can be enforced or only counted, and members maintained, from here.'), tokenForm('Use it'));
  adminToken = null;
  draw(true);
}

async function live() {
  if (!state.paused && !document.hidden) {
    await refresh();
    draw(state.samples.length === 1);
  }
  setTimeout(live, EVERY_MS);
}

addEventListener('hashchange', () => { draw(true); $('main').focus(); });
addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|TEXTAREA)$/.test(event.target.tagName)) return;
  const view = VIEWS[Number(event.key) - 1];
  if (view) location.hash = view[0];
  else if (event.key === '/') { event.preventDefault(); $('filter')?.focus(); }
  else if (event.key === 'a') operator();
  else if (event.key === 'p') { state.paused = !state.paused; draw(false); }
  else if (event.key === '?') {
    dialog('Keys', table(['KEY', ''], [...VIEWS.map(([, title], at) => [String(at + 1), title]), ['/', 'filter or prefix'], ['p', 'pause'], ['a', 'act as operator'], ['Esc', 'close'], ['?', 'this']].map(([key, text]) => [el('kbd', {}, key), text])));
  }
});
$('operator').addEventListener('click', operator);
$('where').textContent = location.host;
$('nav').append(...VIEWS.map(([name, title], at) => el('a', { href: `#${name}` }, el('kbd', {}, String(at + 1)), ` ${title}`)));
live();
