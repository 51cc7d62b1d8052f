// The page of a room. What machines say of themselves gets into the page by textContent
// only, never as HTML.
'use strict';
const $ = (s, e = document) => e.querySelector(s);
const machines = new Map(); // MAC to {view, element}
let sets = [];

function size(n) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let i = 0;
  while (n >= 1000 && i < units.length - 1) { n /= 1000; i++; }
  return (i ? n.toFixed(1) : n) + ' ' + units[i];
}

function left(s) {
  if (s < 0) return '';
  if (s < 90) return `${s} s left`;
  return s < 5400 ? `${Math.round(s / 60)} min left` : `${(s / 3600).toFixed(1)} h left`;
}

function svg(name, attributes) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  return e;
}

// disk draws a disk: what is on it now, and how much of the work on it is done.
function disk(d, v) {
  const e = document.createElement('div');
  e.className = 'disk' + (d.gets ? ' gets' : '');
  const p = document.createElement('p');
  p.textContent = `${d.name} ${size(d.size)} ${d.model} ${d.word ? 'serial ' + d.word : 'WITHOUT a serial number of its own'}` +
    (d.gets ? `: gets ${d.gets} of ${v.set}` : '') + (d.busy ? ` (${d.busy})` : '');
  const picture = svg('svg', { viewBox: '0 0 1000 24', preserveAspectRatio: 'none', role: 'img', 'aria-label': 'what is on ' + d.name });
  picture.append(svg('rect', { class: 'all', x: 0, y: 1, width: 1000, height: 22 }));
  for (const part of d.parts || []) {
    const r = svg('rect', { class: 'part', x: 1000 * part.start / d.size, y: 4, width: Math.max(2, 1000 * part.size / d.size), height: 16 });
    const t = svg('title', {});
    t.textContent = `${part.what} ${size(part.size)}`;
    r.append(t);
    picture.append(r);
  }
  if (d.gets && v.percent > 0) picture.append(svg('rect', { class: 'written', x: 0, y: 1, width: 10 * v.percent, height: 22 }));
  e.append(p, picture);
  return e;
}

function show(v) {
  let m = machines.get(v.mac);
  if (!m) {
    const e = $('#machine').content.firstElementChild.cloneNode(true);
    e.dataset.mac = v.mac;
    m = { element: e };
    machines.set(v.mac, m);
    $('.go', e).onclick = () => ask([m.view]);
    for (const verb of ['hold', 'wake', 'forget']) $('.' + verb, e).onclick = () => act(verb, [m.view]);
    $('input', e).onchange = counts;
    const after = [...$('#room').children].find(x => x.dataset.mac && machines.get(x.dataset.mac).view.number > v.number);
    $('#room').insertBefore(e, after || null);
  }
  m.view = v;
  const e = m.element;
  e.className = 'machine ' + v.state;
  $('h2', e).textContent = v.hostname || v.mac;
  $('.id', e).textContent = `${v.vendor} ${v.model}, serial number ${v.serial || 'none'}, ${v.mac}, ${v.address}, ${v.firmware}, ${size(v.memory)}`;
  $('.state', e).textContent = v.state + (v.state === 'working' && v.percent >= 0 ? ` ${v.percent} %` : '');
  const p = v.progress;
  $('.step', e).textContent = v.state !== 'working' ? '' :
    [p.phase, p.total ? `${size(p.bytes)} of ${size(p.total)}` : '', p.rate ? size(p.rate) + '/s' : '', left(v.left)].filter(x => x).join(', ');
  $('progress', e).hidden = v.state !== 'working';
  $('progress', e).value = Math.max(0, v.percent);
  $('.why', e).textContent = [v.why, v.problem].filter(x => x).join('; ');
  $('.flags', e).textContent = v.flags.join('; ');
  $('.disks', e).replaceChildren(...v.disks.map(d => disk(d, v)));
  $('.go', e).textContent = { failed: 'Retry ...', done: 'Restore again ...' }[v.state] || 'Release ...';
  $('.go', e).disabled = v.state === 'working' || v.state === 'released' || v.problem !== '';
  $('.hold', e).disabled = v.state === 'working' || v.state === 'held';
  $('.forget', e).disabled = v.state === 'working';
  const log = v.log.map(l => `${new Date(l.time).toLocaleTimeString()} ${l.level === 'note' ? '' : l.level + ': '}${l.text}`).join('\n');
  const pre = $('pre', e);
  if (pre.textContent !== log) {
    const end = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 5;
    pre.textContent = log;
    if (end) pre.scrollTop = pre.scrollHeight;
  }
  $('details', e).hidden = log === '';
  filter(e, v);
}

function filter(e, v) {
  const want = $('#filter').value;
  e.classList.toggle('hidden', want !== '' && want !== v.state);
}

function counts() {
  const n = {};
  for (const m of machines.values()) n[m.view.state] = (n[m.view.state] || 0) + 1;
  const ticked = chosen().length;
  $('#counts').textContent = (machines.size === 1 ? '1 machine' : `${machines.size} machines`) + Object.keys(n).sort().map(s => `, ${n[s]} ${s}`).join('') + (ticked ? `; ${ticked} ticked` : '');
}

// chosen are the machines that are ticked and shown.
function chosen() {
  return [...machines.values()].filter(m => $('input', m.element).checked && !m.element.classList.contains('hidden')).map(m => m.view);
}

// ask shows what a release overwrites; what is sent is what is shown here.
function ask(list) {
  if (!list.length) return;
  const able = list.filter(v => v.problem === '' && v.state !== 'working' && v.state !== 'released');
  $('#what').replaceChildren(...list.map(v => {
    const li = document.createElement('li');
    const why = able.includes(v) ? '' : v.problem || 'it is ' + v.state;
    li.textContent = `${v.hostname || v.mac} (${v.vendor} ${v.model}, serial number ${v.serial || 'none'}, confirmed by ${v.confirm}): ` +
      (why ? `is left out: ${why}` : v.disks.filter(d => d.gets).map(d => `${d.name} ${d.model} ${size(d.size)} serial ${d.word} gets ${d.gets} of ${v.set}`).join(', ') + `; then ${v.after}`) +
      (v.flags.length ? `. Note: ${v.flags.join('; ')}` : '');
    return li;
  }));
  $('#refused').textContent = '';
  $('#yes').disabled = !able.length;
  $('#yes').onclick = async () => {
    const bad = await act('release', able);
    if (bad) { $('#refused').textContent = bad; $('#yes').disabled = true; return; }
    for (const m of machines.values()) $('input', m.element).checked = false;
    counts();
    $('#ask').close();
  };
  $('#ask').showModal();
}

// act sends what a person wants, and gives what was refused.
async function act(verb, list) {
  let text = '';
  try {
    const r = await fetch('/v1/' + verb, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(list.map(v => ({ mac: v.mac, confirm: v.confirm, seen: v.seen }))) });
    const out = await r.json();
    text = Array.isArray(out) ? out.filter(o => o.error).map(o => `${o.mac}: ${o.error}`).join('\n') : out.error;
  } catch (e) {
    text = 'The server does not answer.';
  }
  if (text && verb !== 'release') alert(text);
  return text;
}

function follow() {
  const s = new EventSource('/v1/events');
  s.addEventListener('room', e => {
    const room = JSON.parse(e.data);
    sets = room.sets;
    const seen = new Set(room.machines.map(v => v.mac));
    for (const x of [...$('#room').children]) {
      if (!x.dataset.mac || !seen.has(x.dataset.mac)) { machines.delete(x.dataset.mac); x.remove(); }
    }
    room.machines.forEach(show);
    counts();
    $('#link').hidden = true;
    document.body.dataset.live = 'yes';
  });
  s.addEventListener('machine', e => { show(JSON.parse(e.data)); counts(); });
  s.addEventListener('gone', e => {
    const m = machines.get(JSON.parse(e.data).mac);
    if (m) { m.element.remove(); machines.delete(m.view.mac); counts(); }
  });
  s.onopen = () => { $('#link').hidden = true; };
  s.onerror = () => {
    $('#link').hidden = false;
    if (s.readyState === EventSource.CLOSED) setTimeout(follow, 2000);
  };
}

$('#release').onclick = () => ask(chosen());
$('#hold').onclick = () => act('hold', chosen());
$('#wake').onclick = () => act('wake', chosen());
$('#no').onclick = () => $('#ask').close();
$('#view').onclick = () => {
  const tiles = $('#room').classList.toggle('tiles');
  $('#room').classList.toggle('table', !tiles);
  $('#view').textContent = tiles ? 'Table' : 'Tiles';
};
$('#filter').onchange = () => { for (const m of machines.values()) filter(m.element, m.view); counts(); };
$('#all').onchange = e => {
  for (const m of machines.values()) if (!m.element.classList.contains('hidden')) $('input', m.element).checked = e.target.checked;
  counts();
};
follow();
