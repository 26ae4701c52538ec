// The answer: its words coloured by their risk, its unsupported parts marked, and why, for each word.

import { byId, make } from "./dom.js";
import { Card } from "./card.js";
import { pieces } from "./text.js";

const KEYS = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };

/** The answer on the page. One word of it is in the tab order; arrow keys lead from there. */
export class Answer {
  #about = new Map(); // element of a word -> what is known of it

  constructor(box) {
    this.box = box;
    this.text = box.querySelector(".text");
    this.card = new Card(box, byId("card"));
    this.text.addEventListener("mouseover", ({ target }) => this.#tell(target));
    this.text.addEventListener("focusin", ({ target }) => this.#tell(target));
    this.text.addEventListener("focusout", () => this.card.hide());
    this.text.addEventListener("mouseleave", () => this.card.hideSoon());
    this.text.addEventListener("keydown", (event) => this.#move(event));
  }

  /** An empty answer, to be streamed into. */
  begin() {
    this.#about.clear();
    this.card.hide();
    this.text.replaceChildren();
    this.text.setAttribute("aria-busy", "true");
    this.box.hidden = byId("shown-hint").hidden = false;
  }

  /** More text, with the score of all the text so far. */
  append(text, running) {
    this.text.append(this.#word(text, running, { running }));
  }

  /** No more text, and no verdict. */
  stop() {
    this.text.setAttribute("aria-busy", "false");
    this.box.hidden = !this.text.textContent;
    this.#enter();
  }

  /** The whole answer with what its verdict says of each word. Gives the marked parts, each with its `number`. */
  settle(text, verdict) {
    const { spans, tokens, terms } = shownIn(text, verdict);
    const told = spans.map((span, i) => ({ ...span, number: i + 1 }));
    this.begin();
    byId("shown-hint").hidden = !tokens.length && !spans.length; // there is nothing to point at
    let mark = null;
    let part = -1;
    for (const piece of pieces(text, tokens, spans)) {
      const span = told[piece.part];
      const word = this.#word(piece.text, piece.score, { ...piece, span, terms: within(terms, span ?? piece) });
      if (piece.part !== part) mark = piece.part < 0 ? null : make("mark");
      if (mark && piece.part !== part) this.text.append(mark);
      (mark ?? this.text).append(word);
      part = piece.part;
    }
    [...this.text.querySelectorAll("mark")].forEach((one, i) => (one.dataset.n = i + 1));
    this.stop();
    return told;
  }

  /** Go to a marked part. */
  focusPart(number) {
    this.#focus(this.text.querySelector(`mark[data-n="${number}"] .word`));
  }

  #word(text, score, about) {
    const word = make("span", { className: text.trim() ? "word" : "gap" }, text);
    if (score !== null) word.style.setProperty("--risk", score);
    if (!text.trim()) return word; // white space has a colour, and nothing to point at
    word.tabIndex = -1;
    this.#about.set(word, { text, ...about });
    return word;
  }

  #tell(target) {
    const word = target.closest?.(".word");
    if (word) this.card.show(word, this.#about.get(word));
    else this.card.hideSoon();
  }

  #enter() {
    const first = this.text.querySelector(".word");
    if (first) first.tabIndex = 0;
  }

  #focus(word) {
    if (!word) return;
    for (const other of this.text.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    word.tabIndex = 0;
    word.focus();
  }

  #move(event) {
    const words = [...this.#about.keys()];
    const now = words.indexOf(document.activeElement);
    const step = KEYS[event.key];
    if (now < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    let next = null;
    if (event.key === "Home") next = words[0];
    else if (event.key === "End") next = words.at(-1);
    else if (event.key === "ArrowRight" || event.key === "ArrowLeft") next = words[now + step];
    else if (step) next = this.#part(words[now], step);
    else return;
    event.preventDefault();
    this.#focus(next);
  }

  /** First word of the next or previous marked part. */
  #part(word, step) {
    const firsts = [...this.text.querySelectorAll("mark")].map((mark) => mark.querySelector(".word"));
    const side = step > 0 ? Node.DOCUMENT_POSITION_FOLLOWING : Node.DOCUMENT_POSITION_PRECEDING;
    const there = firsts.filter((first) => first !== word && word.compareDocumentPosition(first) & side);
    return step > 0 ? there[0] : there.at(-1);
  }
}

/** What of a verdict can be shown in `text`: its offsets count in the model's answer, which a policy may have replaced. */
function shownIn(text, verdict) {
  if (verdict.action === "block") return { spans: [], tokens: [], terms: [] };
  if (verdict.action === "redact") {
    return { spans: verdict.spans.map((span) => ({ ...span, ...span.redacted })), tokens: [], terms: [] };
  }
  return { spans: verdict.spans, tokens: verdict.tokens ?? [], terms: verdict.terms };
}

/** The terms that count most in a part, or in a word. Their tokens may begin with the space before it. */
function within(terms, { start, end }) {
  return terms.filter((term) => term.start !== null && term.start < end && term.start + [...term.token].length > start);
}
