'use strict';

// More at once than the server scores in a batch would only wait there.
const AT_ONCE = 8;
const MAX_RETRIES = 20;
const MAX_HEIGHT = 26; // rem, of a picture
// How the files of an object that belong together are called, and their fields in a form.
const ENDINGS = [
  ['_image_0.png', 'images'],
  ['_info_depth.yaml', 'depth_info'],
  ['_depth.png', 'depth'],
  ['_normals.png', 'normals'],
  ['.tiff', 'xyz'],
  ['.tif', 'xyz'],
];
const find = (id) => document.getElementById(id);
const queue = [];
const urls = [];
const incomplete = new Map(); // of objects that come as several files, by their name
const counts = { anomalous: 0, normal: 0, scored: 0, failed: 0, waiting: 0 };
let running = 0;
let models = [];
let limits = null;

function model() {
  return models.find((m) => m.category === find('category').value) || models[0];
}

function looksFurther(chosen) {
  return chosen.inputs.some((name) => name !== 'rgb');
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
  find('together').hidden = !looksFurther(chosen);
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
  const size = Object.values(item.files).reduce((sum, file) => sum + file.size, 4096);
  if (limits && size > limits.bytes) {
    fail(item, `It has more than the ${limits.bytes.toLocaleString('en')} bytes that are allowed.`);
    return;
  }
  const query = new URLSearchParams({ category: item.category, overlay: 'true' });
  for (let i = 0; ; i += 1) {
    const form = new FormData();
    for (const [field, file] of Object.entries(item.files)) form.append(field, file, file.name);
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

function newItem(name, files) {
  const card = find('card').content.firstElementChild.cloneNode(true);
  card.classList.add('waiting');
  card.querySelector('h2').textContent = name;
  counts.waiting += 1;
  return { files, card, category: model().category, state: 'waiting' };
}

function send(item) {
  item.url = URL.createObjectURL(item.files.images);
  urls.push(item.url);
  queue.push(item);
}

function missing({ files, inputs, apart }) {
  const fields = ['images'];
  if (apart) {
    if (inputs.includes('depth')) fields.push('depth', 'depth_info');
    if (inputs.includes('normals')) fields.push('normals');
  } else {
    fields.push('xyz');
  }
  const names = { images: 'photograph', xyz: 'point cloud', depth: 'depth', normals: 'normals' };
  names.depth_info = 'range of depth';
  return fields.filter((field) => !(field in files)).map((field) => names[field]);
}

// A file begins an object, or completes one that waits for it.
function place(file, show) {
  const name = file.name.toLowerCase();
  const [ending, field] = ENDINGS.find(([end]) => name.endsWith(end)) || ['', 'images'];
  const stem = ending ? file.name.slice(0, -ending.length) : file.name.replace(/\.[^.]*$/, '');
  let item = incomplete.get(stem);
  if (!item || field in item.files) {
    if (item) fail(item, `Another ${file.name} came before the rest of this one.`);
    item = newItem(stem, {});
    item.inputs = model().inputs;
    incomplete.set(stem, item);
    show(item);
  }
  item.files[field] = file;
  item.apart ||= ending.startsWith('_'); // a file for depth and one for normals
  const lacking = missing(item);
  if (lacking.length) {
    item.card.querySelector('.decision').textContent = `Waiting for its ${lacking.join(', ')}`;
  } else {
    item.card.querySelector('.decision').textContent = 'Waiting';
    incomplete.delete(stem);
    send(item);
  }
}

function add(files) {
  const above = find('results').firstElementChild;
  const show = (item) => find('results').insertBefore(item.card, above);
  const together = looksFurther(model());
  for (const file of files) {
    if (together) {
      place(file, show);
    } else {
      const item = newItem(file.name, { images: file });
      show(item);
      send(item);
    }
  }
  showSummary();
  for (let i = 0; i < AT_ONCE; i += 1) work();
}

function clear() {
  queue.length = 0;
  incomplete.clear();
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

find('category').addEventListener('change', () => {
  for (const item of incomplete.values()) fail(item, 'Another model was chosen meanwhile.');
  incomplete.clear();
  showModel();
});
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
