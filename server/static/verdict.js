// The verdict: score against threshold, what it is made of, the marked parts.

import { compared } from "./card.js";
import { length, make, number, signed } from "./dom.js";

const SHOWN = 6; // terms
const REASONS = {
  no_passages: "There are no passages to be faithful to.",
  tool_call: "The reply calls a tool and claims nothing.",
  abstained: "The answer says that the passages do not say: it claims nothing.",
  empty_response: "There is no answer.",
  prompt_too_long: "Passages, question and answer are longer than the model can read.",
  model_mismatch: "The detector belongs to another model.",
  capture_failed: "The check failed.",
  invalid_input: "The answer could not be read.",
  disabled: "Checking was switched off.",
};
const ACTIONS = {
  redact: "The unsupported parts were taken out.",
  block: "The answer was withheld.",
  regenerate: "The first answer was flagged, so the model was asked again; the better answer is shown.",
  halt: "The answer was stopped, because the risk so far rose above the limit.",
  hold: "The answer was held back until it was checked.",
};
const KINDS = { latent: "activations (latents)", residual: "activations (directions)", grounding: "words that are not in the passages" };

/** In one sentence, to be read aloud. */
export function summary({ status, reason, score, threshold, flagged, spans }) {
  if (status !== "checked") return `Not checked. ${REASONS[reason] ?? reason}`;
  const marked = spans.length === 1 ? "1 part is marked" : `${spans.length || "No"} parts are marked`;
  return `${flagged ? "Flagged" : "Not flagged"}: score ${number(score)}, threshold ${number(threshold)}. ${marked}.`;
}

/** The verdict as elements; `parts` are the marked parts, `go(number)` leads to one. */
export function verdictOf(verdict, parts, go) {
  const action = ACTIONS[verdict.action];
  const head = verdict.status === "checked" ? checked(verdict) : unchecked(verdict);
  return [
    ...head,
    ...(verdict.explanation ? [make("p", { className: "why", dir: "auto" }, verdict.explanation)] : []),
    ...(action ? [make("p", { className: "action" }, action)] : []),
    ...tries(verdict.attempts),
    ...partsOf(parts, go),
    ...(verdict.status === "checked" ? [...unlike(verdict.unlike_training), ...reasons(verdict)] : []),
    ...source(verdict.detector),
  ];
}

function checked({ score, threshold, flagged }) {
  const bar = make("div", { className: "scale" }, length(make("i"), score), length(make("u"), threshold));
  bar.setAttribute("aria-hidden", "true");
  return [
    make(
      "div",
      { className: `score ${flagged ? "flagged" : "clear"}` },
      make("b", {}, number(score)),
      make("span", { className: "badge" }, flagged ? "Flagged" : "Not flagged"),
      make("span", { className: "hint" }, `chance that it is not faithful; flagged above ${number(threshold)}`),
    ),
    bar,
  ];
}

function unchecked({ reason, detail }) {
  return [
    make("div", { className: "score" }, make("span", { className: "badge" }, "Not checked")),
    make("p", {}, REASONS[reason] ?? reason, " ", make("span", { className: "hint" }, `(${reason})`)),
    ...(detail ? [make("p", { className: "hint" }, detail)] : []),
  ];
}

function tries(attempts = []) {
  const items = attempts.map(({ text, score, kept, reason }) =>
    make("li", {}, kept ? make("b", {}, "Kept") : "Dropped", `, ${score === null ? reason : number(score)}: `, make("q", { dir: "auto" }, text)),
  );
  return items.length ? [make("h3", {}, "Attempts"), make("ol", {}, ...items)] : [];
}

function partsOf(parts, go) {
  const items = parts.map((part) => {
    const there = make("button", { type: "button", className: "link", dir: "auto" }, `“${part.text.trim()}”`);
    there.addEventListener("click", () => go(part.number));
    return make("li", {}, `Score ${number(part.score)}`, there, ...compared(part));
  });
  return items.length ? [make("h3", {}, "Parts that are not supported"), make("ol", { className: "parts" }, ...items)] : [];
}

function unlike(found) {
  if (!found) return [];
  const farther = Math.round((1 - found.quantile) * 100);
  const share = farther ? `${farther} %` : "Fewer than 1 %";
  const text = found.flag
    ? `Unlike the training data: trust the score less. ${share} of the training answers lie as far out.`
    : `Like the training data: ${share} of its answers lie as far out, or farther.`;
  return [make("p", { className: found.flag ? "warning" : "hint", id: "unlike" }, text)];
}

/** What the score is made of: shares by kind, then the strongest terms. */
function reasons({ shares, terms, other, intercept, logit }) {
  const kinds = Object.entries(shares).filter(([kind, sum]) => sum || kind === "latent");
  const shown = terms.slice(0, SHOWN);
  const rest = terms.slice(SHOWN).reduce((sum, term) => sum + term.contribution, other);
  const most = Math.max(...[...kinds.map(([, sum]) => sum), ...shown.map((term) => term.contribution)].map(Math.abs), 1e-9);
  return [
    make("h3", {}, "Why this score"),
    make("p", { className: "hint" }, "Log-odds: what is above zero speaks against the answer, what is below for it."),
    table("By kind", kinds.map(([kind, sum]) => [KINDS[kind] ?? kind, null, sum]), most),
    table("Strongest terms", shown.map((term) => [term.name, term.token, term.contribution]), most),
    make("p", { className: "hint" }, `Other terms ${signed(rest)}, intercept ${signed(intercept)}: in all ${signed(logit)}.`),
  ];
}

function table(caption, rows, most) {
  const lines = rows.map(([name, token, value]) => {
    const bar = length(make("i", { className: value < 0 ? "less" : "more" }), Math.abs(value) / most);
    const at = token?.trim() ? [" ", make("span", { className: "hint" }, `at “${token.trim()}”`)] : [];
    const cell = make("th", { scope: "row" }, name, ...at);
    return make("tr", {}, cell, make("td", { className: "bar" }, bar), make("td", {}, signed(value)));
  });
  return make("table", {}, make("caption", {}, caption), make("tbody", {}, ...lines));
}

function source(detector) {
  return detector ? [make("p", { className: "hint" }, `Detector ${detector.id}, version ${detector.version}.`)] : [];
}
