// The list of the last pictures, the newest first: a listbox of which one is selected.

import { number, reasonOf, wordsOf } from './words.js';

const MOST = 100; // pictures with a result; older ones are let go, with their memory
const list = document.getElementById('list');
const template = document.getElementById('entry').content.firstElementChild;
const items = new Map(); // by their entries
let selected = null;
let onSelect = () => {};

/** Takes what is called with the item that a person selects. */
export function whenSelected(action) {
  onSelect = action;
  list.addEventListener('click', (event) => {
    const entry = event.target.closest('[role=option]');
    if (entry) choose(entry, true);
  });
}

/** The items, the newest first. */
export function all() {
  return [...list.children].map((entry) => items.get(entry));
}

export function current() {
  return selected;
}

export function prepend(item) {
  item.entry = template.cloneNode(true);
  item.entry.querySelector('.title').textContent = item.name;
  const time = item.entry.querySelector('time');
  time.dateTime = item.time.toISOString();
  time.textContent = item.time.toLocaleTimeString();
  items.set(item.entry, item);
  list.prepend(item.entry);
  refresh(item);
}

/** Shows the state of an item. */
export function refresh(item) {
  const [sign, word] = wordsOf(item.state);
  item.entry.dataset.state = item.state;
  item.entry.querySelector('.sign').textContent = sign;
  item.entry.querySelector('.word').textContent = word;
  const judged = item.score !== undefined;
  item.entry.querySelector('.value').textContent = judged ? number(item.score) : '';
  item.entry.title = judged ? '' : reasonOf(item);
}

/** Draws the small picture of an item, whole and in the middle. */
export function drawSmall(item, bitmap) {
  const canvas = item.entry.querySelector('canvas');
  const scale = Math.min(canvas.width / bitmap.width, canvas.height / bitmap.height);
  const [width, height] = [scale * bitmap.width, scale * bitmap.height];
  const [left, top] = [(canvas.width - width) / 2, (canvas.height - height) / 2];
  canvas.getContext('2d').drawImage(bitmap, left, top, width, height);
}

function mark(entry, chosen) {
  entry.setAttribute('aria-selected', String(chosen));
  entry.tabIndex = chosen ? 0 : -1; // so that Tab reaches the list once
}

/** Selects an item without a person's doing. */
export function select(item) {
  const focused = holdsFocus();
  if (selected) mark(selected.entry, false);
  mark(item.entry, true);
  selected = item;
  if (focused) item.entry.focus();
}

function choose(entry, focus) {
  const item = items.get(entry);
  select(item);
  if (focus) entry.focus();
  // By hand, as scrollIntoView would move the whole page.
  const [inner, outer] = [entry.getBoundingClientRect(), list.getBoundingClientRect()];
  if (inner.top < outer.top) list.scrollTop -= outer.top - inner.top;
  if (inner.bottom > outer.bottom) list.scrollTop += inner.bottom - outer.bottom;
  onSelect(item);
}

/** Goes to an older (1) or a newer (-1) picture, or as far as there are any. */
export function move(steps) {
  if (!selected) return;
  const entries = [...list.children];
  const place = entries.indexOf(selected.entry) + steps;
  choose(entries[Math.max(0, Math.min(entries.length - 1, place))], false);
}

export function holdsFocus() {
  return list.contains(document.activeElement);
}

function remove(item) {
  item.gone = true;
  for (const url of item.urls.splice(0)) URL.revokeObjectURL(url);
  items.delete(item.entry);
  item.entry.remove();
}

/** Lets the oldest go where there are too many; what waits and what is shown stay. */
export function trim() {
  const done = all().filter((item) => item.state !== 'waiting');
  const old = done.slice(MOST).filter((item) => item !== selected);
  for (const item of old) remove(item);
}

export function clear() {
  for (const item of all()) remove(item);
  selected = null;
}
