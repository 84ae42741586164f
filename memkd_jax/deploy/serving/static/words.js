// What the page says, in words of whoever stands at the line.

const WORDS = {
  good: ['✓', 'Good'],
  reject: ['✕', 'Reject'],
  unjudged: ['?', 'Not judged'],
  failed: ['!', 'Not checked'],
  waiting: ['…', 'Waiting'],
};

/** The sign and the word of a state; the sign tells states apart without their colours. */
export function wordsOf(state) {
  return WORDS[state];
}

export function number(value) {
  return value === 0 || Math.abs(value) >= 0.001 ? value.toFixed(4) : value.toExponential(2);
}

function percent(share) {
  return share > 0.995 ? '100%' : `${Number((100 * share).toPrecision(2))}%`;
}

/** When a model rejects, and how often it is wrong to. */
export function ruleOf({ category, threshold }) {
  if (!threshold) {
    return `${category}: this model has no threshold, so it decides nothing. It gives a score and a heat map.`;
  }
  const byHand = threshold.false_alarm_rate === null ? ', a threshold set by hand' : '';
  const rule = `${category}: rejects above a score of ${number(threshold.value)}${byHand}.`;
  if (threshold.expected_rate === null) return rule;
  return `${rule} About ${percent(threshold.expected_rate)} of good parts are rejected too (from ${
    threshold.held_out_images
  } pictures of good parts).`;
}

/** Why a picture was decided upon as it was. */
export function reasonOf(item) {
  if (item.state === 'failed' || item.state === 'waiting') return item.reason;
  if (item.state === 'unjudged') return `Score ${number(item.score)}. This model has no threshold.`;
  const side = item.state === 'reject' ? 'above' : 'not above';
  return `Score ${number(item.score)}, ${side} the threshold of ${number(item.threshold)}.`;
}

/** What is to be seen in a view of a picture. */
export function captionOf(item, view) {
  if (view === 'picture') return 'The picture alone.';
  const bright = view === 'heat' ? 'Bright places look unusual. ' : '';
  if (item.threshold === null) return bright || 'No outlines: this model has no threshold.';
  const places = item.regions.length;
  if (!places) return bright || 'Nothing is outlined.';
  const outlined = places === 1 ? 'One unusual place is' : `${places} unusual places are`;
  return `${bright}${outlined} outlined.`;
}

/** Further facts on a picture, as pairs of name and value. */
export function factsOf(item) {
  const facts = [
    ['Size', `${item.width} × ${item.height}`],
    ['Model', item.category],
  ];
  if (item.commonness !== null) {
    facts.unshift(['Good parts that score as high', `about ${percent(item.commonness)}`]);
  }
  return facts;
}

/** How many were looked at, in words; from the counts of each state. */
export function summaryOf(counts) {
  const looked = counts.good + counts.reject + counts.unjudged;
  const parts = [`${looked} looked at`];
  if (counts.good || counts.reject || !looked) parts.push(`${counts.reject} rejected`);
  for (const state of ['unjudged', 'failed', 'waiting']) {
    if (counts[state]) parts.push(`${counts[state]} ${WORDS[state][1].toLowerCase()}`);
  }
  return parts.join(', ');
}
