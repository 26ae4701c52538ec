// What the page asks of the server, and what comes back.

/** What went wrong, in the server's own words. */
export class Refused extends Error {}

/** `{path, body}` that asks for an answer, within the settings of the server. */
export function askRequest(settings, model, question, passages, policy) {
  const running = settings.running ? { running: true } : {};
  const hallucination = { passages, policy, tokens: true, ...running, top_terms: 20 };
  const messages = [{ role: "user", content: question }];
  const sampling = settings.model === null ? {} : { temperature: 0 }; // an upstream's model may not take one
  return { path: "chat/completions", body: { model, messages, ...sampling, stream: true, hallucination } };
}

/** `{path, body}` that has an answer checked. */
export function checkRequest(question, passages, response) {
  return { path: "detect", body: { context: passages, question, response, hallucination: { tokens: true, top_terms: 20 } } };
}

/** The URL of the API, whatever path this page is served under. */
export const apiUrl = () => new URL("v1", document.baseURI).href;

/** The names of the models that can be asked. */
export async function models() {
  const reply = await fetch(`${apiUrl()}/models`);
  return reply.ok ? (await reply.json()).data.map(({ id }) => id) : [];
}

/** The verdict on an answer that exists. */
export async function check(request, key, signal) {
  const reply = await send(request, key, signal);
  return (await reply.json()).hallucination;
}

/** The answer as it comes: `{text, running}` again and again, then `{verdict, finish}`, where the verdict is null when
 * the server does not check. Throws Refused. */
export async function* ask(request, key, signal) {
  const reply = await send(request, key, signal);
  let finished = false;
  for await (const data of events(reply.body)) {
    if (data === "[DONE]") continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refused(told(chunk.error));
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    const { status, score } = choice.hallucination ?? {};
    if (choice.delta?.content) yield { text: choice.delta.content, running: status === "running" ? score : null };
    if (choice.finish_reason || (status && status !== "running")) {
      finished = true;
      yield { verdict: choice.hallucination ?? null, finish: choice.finish_reason ?? "stop" };
    }
  }
  if (!finished) throw new Refused("The connection ended before the answer was complete: it was not checked.");
}

async function send({ path, body }, key, signal) {
  const headers = { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
  let reply;
  try {
    reply = await fetch(`${apiUrl()}/${path}`, { method: "POST", headers, body: JSON.stringify(body), signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(`The server could not be asked: ${error.message}.`);
  }
  if (reply.ok) return reply;
  const said = await reply.json().catch(() => null);
  const wait = reply.headers.get("retry-after");
  const message = said?.error ? told(said.error) : `The server answered with status ${reply.status}.`;
  throw new Refused(wait ? `${message} Try again in ${wait} s.` : message);
}

function told({ message, param, code }) {
  const more = [code, param && `field ${param}`].filter(Boolean).join(", ");
  return more ? `${message} (${more})` : message;
}

/** The data of each server-sent event. Bytes may be cut anywhere, inside a character as well. */
async function* events(body) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let kept = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      kept += decoder.decode(value, { stream: true });
      const lines = kept.split(/\r?\n/);
      kept = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
