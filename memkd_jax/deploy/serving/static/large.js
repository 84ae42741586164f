// The picture that is looked at: its decision, its score beside the threshold, and its views.

import { captionOf, factsOf, number, reasonOf, wordsOf } from './words.js';

const find = (id) => document.getElementById(id);
const buttons = [...find('views').children];
let shown = null;
let wanted = null; // the view that a person chose

/** Shows an item. */
export function show(item) {
  shown = item;
  const [sign, word] = wordsOf(item.state);
  find('large').dataset.state = item.state;
  find('decision').querySelector('.sign').textContent = sign;
  find('decision').querySelector('.word').textContent = word;
  find('name').textContent = item.name;
  find('reason').textContent = reasonOf(item);
  const judged = item.score !== undefined;
  find('seen').hidden = !judged;
  showGauge(item);
  if (judged) showPicture(item);
}

// The threshold is in the middle of every scale, so that scores compare at a glance.
function placeOf({ score, threshold }) {
  const half = threshold > 0 ? threshold : Math.max(Math.abs(threshold), Math.abs(score - threshold));
  return Math.min(1, Math.max(0, 0.5 + (score - threshold) / (2 * half || 1)));
}

function showGauge(item) {
  const gauge = find('gauge');
  gauge.hidden = item.score === undefined || item.threshold === null;
  if (gauge.hidden) return;
  const place = 100 * placeOf(item);
  gauge.setAttribute('aria-label', `On a scale: ${reasonOf(item)}`);
  gauge.querySelector('.dot').style.left = `${place}%`;
  const label = gauge.querySelector('.score');
  label.textContent = `Score ${number(item.score)}`;
  label.style.left = `${place}%`;
  label.style.transform = `translateX(-${place}%)`; // so that it stays within
  gauge.querySelector('.mark').textContent = `threshold ${number(item.threshold)}`;
}

function showPicture(item) {
  find('frame').style.setProperty('--ratio', item.width / item.height);
  find('picture').src = item.picture;
  find('picture').alt = `The picture ${item.name}`;
  find('heat').src = item.heat;
  const lines = find('lines');
  lines.setAttribute('viewBox', `0 0 ${item.width} ${item.height}`);
  const drawn = item.regions.map(({ outline }) => `M${outline.join('L')}Z`).join('');
  for (const path of lines.children) path.setAttribute('d', drawn);
  const rows = [...factsOf(item), ...item.remarks.map((remark) => ['Note', remark])];
  const cells = rows.flatMap(([name, value]) => [
    Object.assign(document.createElement('dt'), { textContent: name }),
    Object.assign(document.createElement('dd'), { textContent: value }),
  ]);
  find('facts').replaceChildren(...cells);
  showView();
}

function showView() {
  // Without a threshold there is nothing to outline.
  const view = wanted || (shown.threshold === null ? 'heat' : 'outline');
  for (const button of buttons) button.setAttribute('aria-pressed', String(button.value === view));
  find('lines').toggleAttribute('hidden', view === 'picture');
  find('heat').hidden = find('legend').hidden = view !== 'heat';
  find('fade').classList.toggle('away', view !== 'heat');
  find('heat').alt = `The heat map of ${shown.name}`;
  find('caption').textContent = captionOf(shown, view);
  const compared = shown.threshold !== null || shown.commonness !== null;
  find('low').textContent = compared ? 'usual' : 'lowest here';
  find('high').textContent = compared
    ? `unusual; the mark is ${shown.threshold === null ? 'the highest of good parts' : 'the threshold'}`
    : 'highest here';
  find('legend').querySelector('.tick').hidden = !compared;
}

/** Shows the picture alone ('picture'), with outlines ('outline'), or with the heat map ('heat'). */
export function choose(view) {
  wanted = view;
  if (shown && shown.score !== undefined) showView();
}

/** Lets go of what is shown. */
export function clear() {
  shown = null;
  for (const id of ['picture', 'heat']) find(id).removeAttribute('src');
}

for (const button of buttons) button.addEventListener('click', () => choose(button.value));
find('strength').addEventListener('input', (event) => {
  find('heat').style.opacity = event.target.value / 100;
});
