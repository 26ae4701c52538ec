// The boxes for passages.

import { byId, make } from "./dom.js";

const BLANK_LINES = /\n[ \t]*(?:\n[ \t]*)+/;

/** A list of boxes, one per passage; there is always at least one. */
export class Passages {
  constructor(list) {
    this.list = list;
    for (const item of [...list.children]) this.#furnish(item);
    this.#number();
  }

  /** What is in the boxes; a passage's id is the number of its box. */
  get filled() {
    return this.#boxes
      .map((box, i) => ({ id: String(i + 1), text: box.value }))
      .filter(({ text }) => text.trim());
  }

  /** A new box behind `item` (or the last one), holding `text`. */
  add(text = "", item = this.list.lastElementChild) {
    const added = make("li", {}, make("textarea", { rows: 4, dir: "auto", value: text }));
    item ? item.after(added) : this.list.append(added);
    this.#furnish(added);
    this.#number();
    return added.querySelector("textarea");
  }

  /** One empty box. */
  clear() {
    this.list.replaceChildren();
    return this.add();
  }

  get #boxes() {
    return [...this.list.querySelectorAll("textarea")];
  }

  #furnish(item) {
    const box = item.querySelector("textarea");
    const split = make("button", { type: "button", className: "split", hidden: true }, "Split at blank lines");
    const remove = make("button", { type: "button", className: "remove" }, "Remove");
    const offer = () => (split.hidden = !BLANK_LINES.test(box.value.trim()));
    box.addEventListener("input", offer);
    split.addEventListener("click", () => this.#split(item, box));
    remove.addEventListener("click", () => this.#remove(item));
    item.prepend(make("div", { className: "row" }, make("label"), split, remove));
    box.setAttribute("aria-describedby", "passages-hint");
    offer();
  }

  #split(item, box) {
    const [first, ...others] = box.value.trim().split(BLANK_LINES);
    box.value = first;
    box.dispatchEvent(new Event("input"));
    let last = item;
    for (const text of others) last = this.add(text, last).closest("li");
    last.querySelector("textarea").focus();
    byId("status").textContent = `Split into ${others.length + 1} passages.`;
  }

  #remove(item) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (next ? next.querySelector("textarea") : this.add()).focus();
    this.#number();
  }

  /** Labels follow the order, as ids do. */
  #number() {
    [...this.list.children].forEach((item, i) => {
      const [label, box] = [item.querySelector("label"), item.querySelector("textarea")];
      label.textContent = `Passage ${i + 1}`;
      label.htmlFor = box.id = `passage-${i + 1}`;
      item.querySelector(".remove").setAttribute("aria-label", `Remove passage ${i + 1}`);
      item.querySelector(".split").setAttribute("aria-label", `Split passage ${i + 1} at blank lines`);
    });
  }
}
