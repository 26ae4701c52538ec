// The API counts Unicode code points, JavaScript UTF-16 units, and readers see characters of several code points.

/** Where each code point begins, in UTF-16 units; and one more, where the text ends. */
export function unitOffsets(text) {
  const offsets = [];
  let unit = 0;
  for (const point of text) {
    offsets.push(unit);
    unit += point.length;
  }
  return [...offsets, unit];
}

/**
 * The text in pieces of one token each, or of several where they share a character (half an emoji cannot be shown).
 * Each has its `text`, the highest `score` of its tokens (null without), their `start` in code points and `end`, and the
 * `part`: the position in `spans` of the span it lies in, or -1.
 */
export function pieces(text, tokens, spans) {
  const at = unitOffsets(text);
  const inUnits = ({ start, end }) => ({ from: at[Math.min(start, at.length - 1)], to: at[Math.min(end, at.length - 1)] });
  const scored = tokens.map((token) => ({ ...token, ...inUnits(token) }));
  const marked = spans.map(inUnits);
  const visible = new Set([text.length]);
  for (const { index } of new Intl.Segmenter().segment(text)) visible.add(index);
  const cuts = new Set([0, text.length]);
  for (const { from, to } of [...scored, ...marked]) for (const cut of [from, to]) if (visible.has(cut)) cuts.add(cut);
  const places = [...cuts].sort((a, b) => a - b);
  const found = [];
  let token = 0;
  let part = 0;
  for (let i = 0; i + 1 < places.length; i++) {
    const [from, to] = [places[i], places[i + 1]];
    while (token < scored.length && scored[token].to <= from) token++;
    while (part < marked.length && marked[part].to <= from) part++;
    const own = [];
    for (let k = token; k < scored.length && scored[k].from < to; k++) own.push(scored[k]);
    found.push({
      text: text.slice(from, to),
      score: own.length ? Math.max(...own.map((one) => one.score)) : null,
      start: own.length ? own[0].start : null,
      end: own.length ? own[own.length - 1].end : null,
      part: part < marked.length && marked[part].from < to ? part : -1,
    });
  }
  return found;
}
