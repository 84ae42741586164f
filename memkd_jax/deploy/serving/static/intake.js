// Makes items of files: one each, or one of several files that were recorded of an object.

// How the files of an object that belong together are called, and their fields in a form.
const ENDINGS = [
  ['_image_0.png', 'images'],
  ['_info_depth.yaml', 'depth_info'],
  ['_depth.png', 'depth'],
  ['_normals.png', 'normals'],
  ['.tiff', 'xyz'],
  ['.tif', 'xyz'],
];
const NAMES = {
  images: 'photograph',
  xyz: 'point cloud',
  depth: 'depth',
  depth_info: 'range of depth',
  normals: 'normals',
};
const incomplete = new Map(); // by their name

export function looksFurther(model) {
  return model.inputs.some((name) => name !== 'rgb');
}

function newItem(name, files, model) {
  const item = { name, files, category: model.category, state: 'waiting', reason: '' };
  return Object.assign(item, { inputs: model.inputs, time: new Date(), urls: [], gone: false });
}

function missing({ files, inputs, apart }) {
  const fields = ['images'];
  if (apart) {
    if (inputs.includes('depth')) fields.push('depth', 'depth_info');
    if (inputs.includes('normals')) fields.push('normals');
  } else {
    fields.push('xyz');
  }
  return fields.filter((field) => !(field in files)).map((field) => NAMES[field]);
}

// A file begins an object, or completes one that waits for it.
function place(file, model, { begin, wait, send, fail }) {
  const name = file.name.toLowerCase();
  const [ending, field] = ENDINGS.find(([end]) => name.endsWith(end)) || ['', 'images'];
  const stem = ending ? file.name.slice(0, -ending.length) : file.name.replace(/\.[^.]*$/, '');
  let item = incomplete.get(stem);
  if (!item || field in item.files) {
    if (item) fail(item, `Another ${file.name} came before the rest of this one.`);
    item = newItem(stem, {}, model);
    incomplete.set(stem, item);
    begin(item);
  }
  item.files[field] = file;
  item.apart ||= ending.startsWith('_'); // a file for depth and one for normals
  const lacking = missing(item);
  if (lacking.length) {
    wait(item, `Waiting for its ${lacking.join(', ')}.`);
  } else {
    incomplete.delete(stem);
    wait(item, '');
    send(item);
  }
}

/**
 * Takes files.
 *
 * @param files of one choice or drop.
 * @param model that is to look at them.
 * @param steps functions of what happens to items: `begin(item)` where there is a new one,
 *   `wait(item, reason)`, `send(item)` where it is complete, `fail(item, reason)`.
 */
export function take(files, model, steps) {
  for (const file of files) {
    if (looksFurther(model)) {
      place(file, model, steps);
    } else {
      const item = newItem(file.name, { images: file }, model);
      steps.begin(item);
      steps.send(item);
    }
  }
}

/** Waits no longer for the rest of anything; gives what was incomplete. */
export function giveUp() {
  const items = [...incomplete.values()];
  incomplete.clear();
  return items;
}
