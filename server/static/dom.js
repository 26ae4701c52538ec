// Elements, always from text and never from markup.

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** A new element; `properties` are its own (className, title, ...), `children` elements or text. */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A probability as people read it: "0.67". */
export const number = (p) => p.toFixed(2);

/** Log-odds, with their sign: "+1.70", "−0.32". */
export const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(2);

/** Set the length of a bar from 0 to 1; the style sheet does the rest. */
export function length(bar, share) {
  bar.style.setProperty("--length", Math.min(1, Math.max(0, share)));
  return bar;
}
