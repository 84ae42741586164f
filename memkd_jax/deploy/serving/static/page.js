// The operators' page: files come in, are scored by the server, and are shown and listed.

import { giveUp, looksFurther, take } from './intake.js';
import './keys.js';
import * as large from './large.js';
import * as list from './list.js';
import * as scoring from './scoring.js';
import { reasonOf, ruleOf, summaryOf, wordsOf } from './words.js';

const CALM = 400; // ms without news, before a screen reader is told
const find = (id) => document.getElementById(id);
const counts = { good: 0, reject: 0, unjudged: 0, failed: 0, waiting: 0 };
let models = [];
let follows = true; // the newest result is shown, until a person looks at an older one
let telling = 0;

function model() {
  return models.find((m) => m.category === find('category').value) || models[0];
}

function showModel() {
  const chosen = model();
  find('model').textContent = ruleOf(chosen);
  find('undecided').hidden = !chosen.undecided;
  find('undecided').querySelector('p').textContent = chosen.undecided;
  find('notes').replaceChildren(
    ...chosen.notes.map((note) => Object.assign(document.createElement('li'), { textContent: note }))
  );
  find('notes').hidden = !chosen.notes.length;
  find('together').hidden = !looksFurther(chosen);
}

function showCounts() {
  find('summary').textContent = summaryOf(counts);
  find('work').hidden = !list.current();
  find('drop').classList.toggle('slim', Boolean(list.current()));
}

// Many results at once are told as one, with the picture that is shown.
function announce() {
  clearTimeout(telling);
  telling = setTimeout(() => {
    const item = list.current();
    const [, word] = wordsOf(item.state);
    const shown = follows ? `${word}: ${item.name}. ${reasonOf(item)} ` : '';
    find('announcement').textContent = `${shown}${summaryOf(counts)}.`;
  }, CALM);
}

function present(item) {
  list.select(item);
  large.show(item);
}

function follow() {
  const items = list.all();
  const newest = items.find((item) => item.state !== 'waiting') || items[0];
  if (newest !== list.current()) {
    present(newest);
  } else {
    large.show(newest);
  }
}

function begin(item) {
  counts.waiting += 1;
  list.prepend(item);
}

function setState(item, state) {
  counts[item.state] -= 1;
  counts[state] += 1;
  item.state = state;
  list.refresh(item);
  if (follows) {
    follow();
  } else if (item === list.current()) {
    large.show(item);
  }
  list.trim();
  showCounts();
  if (state !== 'waiting') announce();
}

function wait(item, reason) {
  item.reason = reason;
  setState(item, 'waiting');
}

function fail(item, reason) {
  item.reason = reason;
  item.files = {};
  setState(item, 'failed');
}

function blobOf(dataUrl) {
  const bytes = Uint8Array.from(atob(dataUrl.split(',')[1]), (c) => c.charCodeAt(0));
  return new Blob([bytes], { type: 'image/png' });
}

function urlOf(item, blob) {
  const url = URL.createObjectURL(blob);
  item.urls.push(url);
  return url;
}

// What the browser cannot show (TIFF, 16 bits) is shown as the model saw it.
async function readPicture(file, asSeen) {
  for (const blob of [file, blobOf(asSeen)]) {
    try {
      return { blob, bitmap: await createImageBitmap(blob) };
    } catch {
      // The other one then.
    }
  }
  throw new Error('The server sent no picture.');
}

async function keep(item, answer) {
  const image = answer.images[0];
  const { blob, bitmap } = await readPicture(item.files.images, image.picture);
  if (!item.gone) {
    list.drawSmall(item, bitmap);
    Object.assign(item, {
      score: image.score,
      threshold: answer.threshold,
      commonness: image.p_value,
      width: image.width,
      height: image.height,
      regions: image.regions,
      remarks: answer.notes.filter((note) => !model().notes.includes(note)),
      picture: urlOf(item, blob),
      heat: urlOf(item, blobOf(image.heat_map)),
    });
  }
  bitmap.close();
  item.files = {}; // the object URLs hold what is still needed
}

async function settle(item, state, { answer, reason }) {
  if (answer && !item.gone) await keep(item, answer);
  if (item.gone) return; // it was cleared meanwhile
  if (state === 'failed') {
    fail(item, reason);
  } else {
    item.reason = reason || '';
    setState(item, state);
  }
}

function add(files) {
  if (!files.length || !models.length) return;
  follows = true;
  take(files, model(), { begin, wait, send: scoring.send, fail });
  follow();
  showCounts();
}

function clear() {
  clearTimeout(telling);
  scoring.forget();
  giveUp();
  list.clear();
  large.clear();
  for (const name of Object.keys(counts)) counts[name] = 0;
  follows = true;
  find('announcement').textContent = '';
  showCounts();
  find('files').focus(); // the button is gone
}

async function start() {
  const answer = await (await fetch('api/models')).json();
  models = answer.models;
  scoring.limit(answer.limits.bytes);
  for (const { category } of models) find('category').append(new Option(category, category));
  find('choice').hidden = models.length < 2;
  const most = Math.floor(answer.limits.bytes / 2 ** 20);
  find('limits').textContent =
    `${most ? `Up to ${most} MB each. ` : ''}They are checked on this server and not kept.`;
  showModel();
}

scoring.tell(settle);
list.whenSelected((item) => {
  follows = item === list.all()[0];
  large.show(item);
});
find('category').addEventListener('change', () => {
  for (const item of giveUp()) fail(item, 'Another model was chosen meanwhile.');
  showModel();
});
find('clear').addEventListener('click', clear);
find('files').addEventListener('change', (event) => {
  add([...event.target.files]);
  event.target.value = '';
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
