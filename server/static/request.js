// A request as text that can be run elsewhere. A key is never in it, only the name of the variable that holds it.

const KEY = "GROUNDWIRE_API_KEY";

/** The request with curl, for a POSIX shell. JSON holds no line that is EOF alone, so the document ends where it should. */
export function curl(url, { path, body }, keyed) {
  const lines = [
    `curl ${body.stream ? "-N " : ""}'${`${url}/${path}`.replaceAll("'", "%27")}' \\`,
    "  -H 'content-type: application/json' \\",
    ...(keyed ? [`  -H "authorization: Bearer $${KEY}" \\`] : []),
    "  --data-binary @- <<'EOF'",
  ];
  return `${lines.join("\n")}\n${JSON.stringify(body, null, 2)}\nEOF\n`;
}

/** The request with the `openai` package. */
export function python(url, { path, body }, keyed) {
  const key = keyed ? `os.environ["${KEY}"]` : '"none"';
  const head = `${keyed ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url=${literal(url)}, api_key=${key})\n`;
  if (!body.stream) {
    return `${head}found = client.post("/${path}", cast_to=object, body=${literal(body)})\nprint(found["hallucination"])\n`;
  }
  const { hallucination, ...own } = body;
  const given = Object.entries(own).map(([name, value]) => `    ${name}=${literal(value, 1)},\n`).join("");
  return `${head}stream = client.chat.completions.create(
${given}    extra_body=${literal({ hallucination }, 1)},
)
for chunk in stream:
    for choice in chunk.choices:
        print(choice.delta.content or "", end="", flush=True)
        if choice.finish_reason:
            print("\\n", choice.model_extra["hallucination"])
`;
}

/** A JSON value as Python writes it; strings of JSON are strings of Python. */
function literal(value, depth = 0) {
  const [inner, outer] = ["    ".repeat(depth + 1), "    ".repeat(depth)];
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const items = Array.isArray(value)
    ? value.map((one) => literal(one, depth + 1))
    : Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${literal(one, depth + 1)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  return items.length ? `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${outer}${close}` : open + close;
}
