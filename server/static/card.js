// The card beside a word that says what is known of it. It can be pointed at, and Escape closes it.

import { make, number, signed } from "./dom.js";

const GRACE = 200; // milliseconds to get from the word to the card
const SHOWN = 3; // terms

export class Card {
  #closing = 0;

  constructor(around, card) {
    this.around = around;
    this.card = card;
    card.addEventListener("mouseenter", () => clearTimeout(this.#closing));
    card.addEventListener("mouseleave", () => this.hideSoon());
  }

  hide() {
    clearTimeout(this.#closing);
    this.card.hidden = true;
    this.word?.removeAttribute("aria-describedby");
  }

  hideSoon() {
    clearTimeout(this.#closing);
    this.#closing = setTimeout(() => this.hide(), GRACE);
  }

  /** Say `about` under `word`. */
  show(word, about) {
    this.hide();
    this.word = word;
    this.card.replaceChildren(...lines(about));
    this.card.hidden = false;
    word.setAttribute("aria-describedby", this.card.id);
    const [place, frame] = [[...word.getClientRects()].at(-1), this.around.getBoundingClientRect()];
    const room = frame.width - this.card.offsetWidth;
    this.card.style.left = `${Math.max(0, Math.min(place.left - frame.left, room))}px`;
    this.card.style.top = `${place.bottom - frame.top + 6}px`;
  }
}

function lines(about) {
  const quoted = make("b", {}, `“${about.text.trim()}”`);
  if (about.running !== undefined) {
    const score = about.running === null ? "not known yet" : number(about.running);
    return [make("p", {}, quoted, ` risk of the answer up to here: ${score}`)];
  }
  const own = about.score === null || about.score === undefined ? "no score of its own" : `score ${number(about.score)}`;
  return [make("p", {}, quoted, ` ${own}`), ...partLines(about.span), ...termLines(about.terms)];
}

function partLines(span) {
  if (!span) return [];
  return [make("p", {}, make("b", {}, `Part ${span.number}`), ` not supported, score ${number(span.score)}`), ...compared(span)];
}

/** The passage text to compare a part with. */
export function compared({ evidence, reason }) {
  const why = reason ? [make("p", { className: "why", dir: "auto" }, reason)] : [];
  if (!evidence) return [...why, make("p", { className: "hint" }, "Nothing in the passages comes near it.")];
  const where = `Compare passage ${evidence.passage_id} (similarity ${number(evidence.similarity)}):`;
  return [...why, make("p", { className: "hint" }, where), make("blockquote", { dir: "auto" }, evidence.text)];
}

function termLines(terms) {
  if (!terms.length) return [];
  const items = terms.slice(0, SHOWN).map((term) => make("li", {}, make("span", {}, term.name), " ", make("b", {}, signed(term.contribution))));
  return [make("p", { className: "hint" }, "Strongest here, in log-odds:"), make("ul", {}, ...items)];
}
