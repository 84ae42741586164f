'use strict';

// More at once than the server scores in a batch would only wait there.
const AT_ONCE = 8;
const MAX_RETRIES = 20;
const MAX_HEIGHT = 26; // rem, of a picture
const find = (id) => document.getElementById(id);
const queue = [];
const urls = [];
const counts = { anomalous: 0, normal: 0, scored: 0, failed: 0, waiting: 0 };
let running = 0;
let models = [];
let limits = null;

function model() {
  return models.find((m) => m.category === find('category').value) || models[0];
}

function number(value) {
  return value === 0 || Math.abs(value) >= 0.001 ? value.toFixed(4) : value.toExponential(2);
}

function rule(threshold) {
  const byHand = threshold.false_alarm_rate === null ? ' (set by hand)' : '';
  const above = `anomalous above ${number(threshold.value)}${byHand}`;
  if (threshold.expected_rate === null) return above;
  const share = threshold.expected_rate;
  const rate = share > 0.995 ? 100 : (100 * share).toPrecision(2);
  return `${above}, which about ${rate}% of normal images exceed (${threshold.held_out_images} held out)`;
}

function showModel() {
  const chosen = model();
  const threshold = chosen.threshold;
  find('model').textContent = `${chosen.category}: ${threshold ? rule(threshold) : chosen.undecided}`;
  find('notes').replaceChildren(
    ...chosen.notes.map((note) => Object.assign(document.createElement('li'), { textContent: note }))
  );
  find('notes').hidden = !chosen.notes.length;
  const compared = threshold || chosen.has_p_values; // else each map has colours of its own
  const mark = threshold ? 'the threshold' : 'the highest of the held-out images';
  find('low').textContent = compared ? 'ordinary' : "the map's lowest";
  find('high').textContent = compared ? `the mark is ${mark}` : 'its highest value';
  find('tick').hidden = !compared;
}

function showSummary() {
  const parts = [
    [counts.anomalous, 'anomalous'],
    [counts.normal, 'normal'],
    [counts.scored, 'scored'],
    [counts.failed, 'not scored'],
    [counts.waiting, 'waiting'],
  ];
  const shown = parts.filter(([n]) => n).map(([n, name]) => `${n} ${name}`);
  find('summary').textContent = shown.join(', ');
  find('bar').hidden = find('legend').hidden = !find('results').children.length;
}

function setState(item, state) {
  if (!item.card.isConnected) return; // it was cleared meanwhile
  counts[item.state] -= 1;
  counts[state] += 1;
  item.state = state;
  item.card.className = `card ${state}`;
  showSummary();
}

function fail(item, reason) {
  item.card.querySelector('.decision').textContent = reason;
  setState(item, 'failed');
}

function addFact(item, name, value) {
  const list = item.card.querySelector('dl');
  for (const [tag, text] of [['dt', name], ['dd', value]]) {
    list.append(Object.assign(document.createElement(tag), { textContent: text }));
  }
}

function showImage(item, selector, image, source, alt) {
  const figure = item.card.querySelector(selector);
  const frame = figure.querySelector('.frame');
  frame.style.aspectRatio = `${image.width} / ${image.height}`;
  frame.style.maxWidth = `${(MAX_HEIGHT * image.width) / image.height}rem`;
  const picture = frame.querySelector('img');
  picture.alt = alt;
  // What the browser cannot show (TIFF, 16 bits) is shown as the model saw it.
  picture.onerror = () => {
    picture.onerror = null;
    picture.src = image.picture;
  };
  picture.src = source;
  figure.hidden = false;
}

function show(item, answer) {
  const image = answer.images[0];
  const judged = image.anomalous !== null;
  const state = judged ? (image.anomalous ? 'anomalous' : 'normal') : 'scored';
  const words = { anomalous: 'Anomalous', normal: 'Normal', scored: 'Not judged' };
  item.card.querySelector('.decision').textContent = words[state];
  addFact(item, 'Score', number(image.score));
  if (answer.threshold !== null) {
    addFact(item, 'Threshold', number(answer.threshold));
  }
  if (image.p_value !== null) addFact(item, 'p-value', number(image.p_value));
  if (answer.threshold > 0) {
    const scale = item.card.querySelector('.scale');
    // The threshold is in the middle of every scale, so that scores compare at a glance.
    const share = Math.min(1, Math.max(0, image.score / (2 * answer.threshold)));
    scale.querySelector('.fill').style.width = `${100 * share}%`;
    scale.hidden = false;
  }
  addFact(item, 'Size', `${image.width} × ${image.height}`);
  if (image.regions.length) addFact(item, 'Regions', image.regions.length);
  addFact(item, 'Model', answer.category);
  showImage(item, '.original', image, item.url, 'The picture');
  showImage(item, '.map', image, item.url, '');
  const heat = item.card.querySelector('.heat');
  heat.alt = 'Its heat map';
  heat.style.opacity = find('strength').value / 100;
  heat.src = image.heat_map;
  setState(item, state);
}

async function reasonOf(response) {
  try {
    const detail = (await response.json()).detail;
    return typeof detail === 'string' ? detail : 'The server refused the request.';
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function score(item) {
  if (limits && item.file.size + 4096 > limits.bytes) {
    fail(item, `It has more than the ${limits.bytes.toLocaleString('en')} bytes that are allowed.`);
    return;
  }
  const query = new URLSearchParams({ category: item.category, overlay: 'true' });
  for (let i = 0; ; i += 1) {
    const form = new FormData();
    form.append('images', item.file, item.file.name);
    const response = await fetch(`api/score?${query}`, { method: 'POST', body: form });
    if (response.ok) {
      show(item, await response.json());
      return;
    }
    if (response.status !== 503 || i === MAX_RETRIES) {
      fail(item, await reasonOf(response));
      return;
    }
    const seconds = Number(response.headers.get('Retry-After')) || 1;
    item.card.querySelector('.decision').textContent = 'Waiting for the server';
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

async function work() {
  if (running >= AT_ONCE || !queue.length) return;
  running += 1;
  const item = queue.shift();
  try {
    await score(item);
  } catch {
    fail(item, 'The server cannot be reached, or did not take the whole file.');
  }
  running -= 1;
  work();
}

function add(files) {
  const cards = document.createDocumentFragment();
  for (const file of files) {
    const card = find('card').content.firstElementChild.cloneNode(true);
    card.classList.add('waiting');
    card.querySelector('h2').textContent = file.name;
    cards.append(card);
    counts.waiting += 1;
    const category = model().category;
    const url = URL.createObjectURL(file);
    urls.push(url);
    queue.push({ file, card, category, state: 'waiting', url });
  }
  find('results').prepend(cards);
  showSummary();
  for (let i = 0; i < AT_ONCE; i += 1) work();
}

function clear() {
  queue.length = 0;
  for (const url of urls.splice(0)) URL.revokeObjectURL(url);
  find('results').replaceChildren();
  for (const name of Object.keys(counts)) counts[name] = 0;
  showSummary();
}

async function start() {
  const answer = await (await fetch('api/models')).json();
  ({ models, limits } = answer);
  for (const { category } of models) find('category').append(new Option(category, category));
  find('choice').hidden = models.length < 2;
  find('limits').textContent =
    `Up to ${Math.floor(limits.bytes / 2 ** 20)} MB each; they are scored on this server and not kept.`;
  showModel();
}

find('category').addEventListener('change', showModel);
find('clear').addEventListener('click', clear);
find('files').addEventListener('change', (event) => {
  add([...event.target.files]);
  event.target.value = '';
});
find('strength').addEventListener('input', (event) => {
  for (const heat of document.querySelectorAll('.heat')) heat.style.opacity = event.target.value / 100;
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  find('drop').classList.add('over');
});
addEventListener('dragleave', (event) => {
  if (!event.relatedTarget) find('drop').classList.remove('over');
});
addEventListener('drop', (event) => {
  event.preventDefault();
  find('drop').classList.remove('over');
  add([...event.dataTransfer.files]);
});
addEventListener('paste', (event) => add([...event.clipboardData.files]));

start().catch(() => {
  find('model').textContent = 'The server cannot be reached; load this page again.';
});
