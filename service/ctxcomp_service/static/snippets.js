/**
 * The same request as curl and as Python. The passages are whoever's, and these texts are made to be pasted into a
 * terminal: nothing in them may be more than data there, and nothing may hide.
 */

// Direction overrides, zero-width and other format characters would show another text than the one that is copied.
const HIDDEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu;

export const FORMS = { curl, python, library };

/** For a POSIX shell: JSON in a quoted here-document, where nothing is expanded. */
export function curl(url, body, withKey) {
  const json = JSON.stringify(body, null, 2).replace(HIDDEN, (c) => (c === "\n" ? c : escapeUtf16(c)));
  return [
    `curl -sS ${shellQuote(url)} \\`,
    "  -H 'Content-Type: application/json' \\",
    ...(withKey ? ['  -H "Authorization: Bearer $CTXCOMP_API_KEY" \\'] : []),
    "  --data-binary @- <<'JSON'",
    json.replaceAll("!", "\\u0021"), // an interactive shell may look for history even here
    "JSON",
    "",
  ].join("\n");
}

/** Python's standard library against the service. */
export function python(url, body, withKey) {
  const headers = ['"Content-Type": "application/json"'];
  if (withKey) headers.push('"Authorization": "Bearer " + os.environ["CTXCOMP_API_KEY"]');
  return [
    "import json",
    ...(withKey ? ["import os"] : []),
    "from urllib.request import Request, urlopen",
    "",
    `body = ${pythonValue(body, "")}`,
    `headers = {${headers.join(", ")}}`,
    `request = Request(${pythonString(url)}, json.dumps(body).encode(), headers)`,
    "with urlopen(request) as response:",
    "    result = json.load(response)",
    'print(result["text"])',
    "",
  ].join("\n");
}

/** The library itself, without a service. */
export function library(_url, { query, passages, budget, method }) {
  const rows = passages.map(({ text, ...rest }) => {
    const named = Object.entries(rest).map(([name, value]) => `, ${name}=${pythonValue(value, "")}`);
    return `    Passage(${pythonString(text)}${named.join("")}),\n`;
  });
  const [[kind, amount]] = Object.entries(budget);
  return [
    "from ctxcomp import Budget, Passage, load",
    "",
    `passages = [\n${rows.join("")}]`,
    `compressor = load(${pythonString(method)})`,
    `result = compressor.compress(${pythonString(query)}, passages, Budget(${kind}=${amount}))`,
    "print(result.text)",
    "",
  ].join("\n");
}

function shellQuote(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function pythonValue(value, indent) {
  if (typeof value === "string") return pythonString(value);
  if (value === null || typeof value === "number") return value === null ? "None" : String(value);
  const inner = `${indent}    `;
  const flat = Object.values(value).every((one) => typeof one !== "object") && !Array.isArray(value);
  const items = Array.isArray(value)
    ? value.map((one) => pythonValue(one, inner))
    : Object.entries(value).map(([name, one]) => `${pythonString(name)}: ${pythonValue(one, inner)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (flat) return open + items.join(", ") + close;
  return `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
}

/** A Python string literal on one line. */
function pythonString(text) {
  const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };
  const quoted = text.replace(/["\\]/g, "\\$&");
  return `"${quoted.replace(HIDDEN, (c) => short[c] ?? escapeCodePoint(c))}"`;
}

function escapeCodePoint(character) {
  const code = character.codePointAt(0);
  return code > 0xffff ? `\\U${code.toString(16).padStart(8, "0")}` : `\\u${code.toString(16).padStart(4, "0")}`;
}

function escapeUtf16(character) {
  return Array.from({ length: character.length }, (_, i) => escapeCodePoint(character.charAt(i))).join("");
}
