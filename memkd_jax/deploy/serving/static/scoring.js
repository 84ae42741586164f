// Sends items to the server, some at once, and again where it is busy.

// More at once than the server scores in a batch would only wait there.
const AT_ONCE = 8;
const MAX_RETRIES = 20;
const queue = [];
let running = 0;
let settle;
let mostBytes = Infinity;

/** Takes what is told of each item: `settle(item, state, {answer, reason})`. */
export function tell(settling) {
  settle = settling;
}

/** No larger request is sent. */
export function limit(bytes) {
  mostBytes = bytes;
}

export function send(item) {
  queue.push(item);
  work();
}

/** Sends nothing of what still waits. */
export function forget() {
  queue.length = 0;
}

async function refusalOf(response) {
  try {
    const detail = (await response.json()).detail;
    return typeof detail === 'string' ? detail : 'The server refused the request.';
  } catch {
    return `The server answered ${response.status}.`;
  }
}

async function score(item) {
  const files = Object.entries(item.files);
  const size = files.reduce((sum, [, file]) => sum + file.size, 4096);
  if (size > mostBytes) {
    const reason = `It has more than the ${mostBytes.toLocaleString('en')} bytes that are allowed.`;
    settle(item, 'failed', { reason });
    return;
  }
  const query = new URLSearchParams({ category: item.category, overlay: 'true' });
  for (let i = 0; ; i += 1) {
    const form = new FormData();
    for (const [field, file] of files) form.append(field, file, file.name);
    const response = await fetch(`api/score?${query}`, { method: 'POST', body: form });
    if (response.ok) {
      const answer = await response.json();
      const { anomalous } = answer.images[0];
      const state = anomalous === null ? 'unjudged' : anomalous ? 'reject' : 'good';
      await settle(item, state, { answer });
      return;
    }
    if (response.status !== 503 || i === MAX_RETRIES) {
      settle(item, 'failed', { reason: await refusalOf(response) });
      return;
    }
    const seconds = Number(response.headers.get('Retry-After')) || 1;
    settle(item, 'waiting', { reason: 'The server is busy.' });
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    if (item.gone) return;
  }
}

async function work() {
  if (running >= AT_ONCE || !queue.length) return;
  running += 1;
  const item = queue.shift();
  try {
    await score(item);
  } catch {
    const reason = 'The server cannot be reached, or did not take the whole file.';
    settle(item, 'failed', { reason });
  }
  running -= 1;
  work();
}
