// The page: what is typed goes to the API, what comes back is shown.

import { Answer } from "./answer.js";
import { apiUrl, ask, askRequest, check, checkRequest, models, Refused } from "./api.js";
import { byId, length, make, number } from "./dom.js";
import { Passages } from "./passages.js";
import { curl, python } from "./request.js";
import { summary, verdictOf } from "./verdict.js";

const settings = JSON.parse(document.body.dataset.settings);
const passages = new Passages(byId("passages"));
const answer = new Answer(byId("shown"));
const POLICIES = {
  annotate: "mark it",
  redact: "take the parts out",
  block: "withhold it",
  regenerate: "ask again",
  halt: "stop while it is written",
  hold: "show it once checked",
};
let running = null; // AbortController of the request under way

byId("key-field").hidden = !settings.key;
byId("model-field").hidden = settings.model !== null;
byId("model").value = settings.model ?? "";
for (const name of settings.policies) {
  const selected = name === settings.policy;
  byId("policy").append(make("option", { value: name, selected, defaultSelected: selected }, `${name}: ${POLICIES[name] ?? ""}`));
}

/** Ask the model. */
async function askModel() {
  const question = byId("question").value;
  if (!question.trim()) return missing("question", "Write a question first.");
  if (!byId("model").value) return missing("model", "Name a model first.");
  const asked = askRequest(settings, byId("model").value, question, passages.filled, byId("policy").value);
  await run(asked, "Answering …", async (request, signal) => {
    let text = "";
    for await (const event of ask(request, byId("key").value, signal)) {
      if (event.finish) {
        show(text, event.verdict, event.finish);
        continue; // to the end of the stream: a connection that is closed before it counts as given up
      }
      text += event.text;
      answer.append(event.text, event.running);
      risk(event.running);
    }
  });
}

/** Check an answer that exists. */
async function checkAnswer() {
  const response = byId("answer").value;
  if (!response.trim()) return missing("answer", "Write or paste an answer first.");
  const asked = checkRequest(byId("question").value, passages.filled, response);
  await run(asked, "Checking …", async (request, signal) => {
    show(response, await check(request, byId("key").value, signal), "stop");
  });
}

/** Send `request`; one that is under way is given up. Whatever goes wrong is shown. */
async function run(request, doing, work) {
  running?.abort();
  const mine = (running = new AbortController());
  begin(request, doing);
  try {
    await work(request, mine.signal);
  } catch (error) {
    if (mine !== running) return; // another request has the page
    answer.stop();
    if (error.name === "AbortError") say("Stopped: what there is was not checked.");
    else fail(error instanceof Refused ? error.message : `This page failed: ${error.message}`);
  } finally {
    if (mine === running) end();
  }
}

function begin(request, doing) {
  const [url, keyed] = [apiUrl(), settings.key];
  byId("curl").textContent = curl(url, request, keyed);
  byId("python").textContent = python(url, request, keyed);
  byId("request").hidden = byId("error").hidden = true;
  byId("reuse").hidden = true;
  byId("verdict").replaceChildren();
  byId("stop").hidden = false;
  answer.begin();
  byId("shown").hidden = !request.body.stream;
  risk(null);
  byId("running").hidden = !request.body.hallucination.running;
  say(doing);
  byId("result").classList.add("used");
  if (byId("result").getBoundingClientRect().top > innerHeight / 2) byId("result").scrollIntoView(); // narrow screens
}

function end() {
  running = null;
  const hadFocus = document.activeElement === byId("stop");
  byId("stop").hidden = byId("running").hidden = true;
  byId("request").hidden = false;
  byId("reuse").hidden = byId("shown").hidden;
  if (hadFocus) byId("ask").focus();
}

function show(text, verdict, finish) {
  if (verdict === null) {
    answer.stop();
    return say("Not checked: this server answers without checking.");
  }
  const parts = answer.settle(text, verdict);
  byId("verdict").replaceChildren(...verdictOf(verdict, parts, (part) => answer.focusPart(part)));
  say(`${summary(verdict)}${finish === "length" ? " The answer was cut off at the longest length." : ""}`);
}

function risk(score) {
  const [bar, shown] = [byId("running").querySelector("i"), byId("running").querySelector("b")];
  length(bar, score ?? 0);
  shown.textContent = score === null ? "none yet" : number(score);
}

function say(text) {
  byId("status").textContent = text;
}

function fail(message) {
  say("");
  byId("error").textContent = message;
  byId("error").hidden = false;
}

function missing(id, message) {
  fail(message);
  byId(id).focus();
}

async function copy(button) {
  const source = byId(button.dataset.copies);
  try {
    await navigator.clipboard.writeText(source.textContent);
    say("Copied.");
  } catch {
    getSelection().selectAllChildren(source); // browsers keep the clipboard from pages that came without TLS
    say("Selected: copy it with Ctrl+C.");
  }
}

byId("form").addEventListener("submit", (event) => {
  event.preventDefault();
  askModel();
});
byId("check").addEventListener("click", checkAnswer);
byId("stop").addEventListener("click", () => running?.abort());
byId("add").addEventListener("click", () => passages.add().focus());
byId("clear").addEventListener("click", () => {
  byId("question").value = byId("answer").value = "";
  passages.clear().focus();
});
byId("reuse").addEventListener("click", () => {
  byId("answer").value = answer.text.textContent;
  byId("answer").focus();
});
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", () => copy(button));

document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Enter and Escape belong to the input method
  const { key, target } = event;
  if (key === "Escape") {
    answer.card.hide();
    running?.abort();
  } else if (key === "Enter" && (event.ctrlKey || event.metaKey)) target.id === "answer" ? checkAnswer() : askModel();
  else if (key === "Enter" && target.id === "question" && !event.shiftKey) askModel();
  else return;
  event.preventDefault();
});

if (settings.model === null && !settings.key) {
  const names = await models().catch(() => []);
  byId("models").append(...names.map((value) => make("option", { value })));
  byId("model").value ||= names[0] ?? "";
}
