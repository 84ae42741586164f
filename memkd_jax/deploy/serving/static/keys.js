// Single keys do what buttons do, except where a field takes them; a dialog lists them.

import * as large from './large.js';
import * as list from './list.js';

const VIEWS = { 1: 'picture', 2: 'outline', 3: 'heat' };
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const STEPS_IN_LIST = { ArrowUp: -1, ArrowDown: 1, Home: -Infinity, End: Infinity };
const find = (id) => document.getElementById(id);

function inField(element) {
  return element.matches('select, textarea, input:not([type=file]), [contenteditable]');
}

// What a key does; undefined where it is left to the browser.
function actionOf(key) {
  // The arrows of a focused list are a listbox's own, not a shortcut.
  const steps = list.holdsFocus() ? { ...STEPS, ...STEPS_IN_LIST } : {};
  if (key in steps) return () => list.move(steps[key]);
  if (!find('single').checked) return undefined;
  if (key in STEPS && list.current()) return () => list.move(STEPS[key]);
  if (key in VIEWS && list.current()) return () => large.choose(VIEWS[key]);
  if (key === 'o') return () => find('files').click();
  if (key === '?') return () => find('keys').showModal();
  return undefined;
}

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (find('keys').open || inField(event.target)) return;
  const action = actionOf(event.key);
  if (!action) return;
  event.preventDefault();
  action();
});
find('help').addEventListener('click', () => find('keys').showModal());
find('close').addEventListener('click', () => find('keys').close());
