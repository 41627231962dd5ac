/** Passages out of what is pasted and opened. Nothing here touches the page. */

export const SPLITS = {
  rules: /^[ \t]*-{3,}[ \t]*$/m,
  blank: /\n[ \t]*\n/,
  none: null,
};

/** What files are taken. */
export const SUFFIXES = [".txt", ".md", ".jsonl"];
const MAX_BYTES = 20_000_000;

/** A problem with the input, in words for the user. */
export class InputProblem extends Error {}

/** The passages of a text: `{text}` each, cut where `how` (a key of SPLITS) says. */
export function split(text, how) {
  const pieces = SPLITS[how] ? text.split(SPLITS[how]) : [text];
  return pieces.map(trimBlankLines).filter(Boolean).map((piece) => ({ text: piece }));
}

function trimBlankLines(text) {
  return text.replace(/^(?:[ \t]*\n)+/, "").trimEnd();
}

/** Line ends as the page shows them, and nothing that UTF-8 cannot carry. */
export function clean(text) {
  return text.replace(/\r\n?/g, "\n").toWellFormed();
}

/**
 * Read one file.
 * @returns {Promise<{name: string, text: string} | {name: string, rows: object[]}>} the text of a .txt or .md file, the
 *   passages of a .jsonl file
 * @throws {InputProblem} it is of another kind, too large, or damaged
 */
export async function readFile(file) {
  const name = file.name.toWellFormed();
  const lower = name.toLowerCase();
  if (!SUFFIXES.some((suffix) => lower.endsWith(suffix))) {
    throw new InputProblem(`${name}: only ${SUFFIXES.join(", ")} files can be opened; convert it first.`);
  }
  if (file.size > MAX_BYTES) {
    throw new InputProblem(`${name}: larger than ${MAX_BYTES / 1e6} MB; use \`ctxcomp compress\` for it.`);
  }
  const text = decode(await file.arrayBuffer(), name);
  return lower.endsWith(".jsonl") ? { name, rows: parseLines(text, name) } : { name, text };
}

function decode(buffer, name) {
  const [a, b] = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  const encoding = a === 0xff && b === 0xfe ? "utf-16le" : a === 0xfe && b === 0xff ? "utf-16be" : "utf-8";
  try {
    return clean(new TextDecoder(encoding, { fatal: true }).decode(buffer));
  } catch {
    throw new InputProblem(`${name}: not ${encoding.toUpperCase()} text; convert it first.`);
  }
}

function parseLines(text, name) {
  const lines = text.split("\n").map((line, i) => [line.trim(), `${name}:${i + 1}`]);
  return lines.filter(([line]) => line).map(([line, where]) => parsePassage(line, where));
}

function parsePassage(line, where) {
  let row;
  try {
    row = JSON.parse(line);
  } catch {
    throw new InputProblem(`${where}: not JSON; a .jsonl file holds one JSON object a line.`);
  }
  if (typeof row?.text !== "string") {
    const shape = '{"text": "…", "id": "…", "title": "…", "score": 1.0}';
    throw new InputProblem(`${where}: no "text"; a passage is ${shape}.`);
  }
  const passage = { text: row.text.toWellFormed(), id: where };
  if (typeof row.id === "string" || Number.isInteger(row.id)) passage.id = String(row.id).toWellFormed();
  if (typeof row.title === "string") passage.title = row.title.toWellFormed();
  if (Number.isFinite(row.score)) passage.score = row.score;
  return passage;
}

/** All passages, pasted ones first; those of a text file are cut as the pasted text is, and named after the file. */
export function gather(pasted, files, how) {
  const own = split(clean(pasted), how);
  return own.concat(...files.map((file) => passagesOf(file, how)));
}

/** The passages of one file. */
export function passagesOf(file, how) {
  if (file.rows) return file.rows;
  const pieces = split(file.text, how);
  return pieces.map((piece, i) => ({ ...piece, id: pieces.length > 1 ? `${file.name}:${i + 1}` : file.name }));
}
