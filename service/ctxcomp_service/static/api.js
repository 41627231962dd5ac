/** Calls of the service. Paths are relative to the page, so that it also works behind a proxy's prefix. */

const PATIENCE_MS = 120_000;

/** A call that failed: `kind` is "key", "busy", "large", "input", "server", "network" or "slow". */
export class ApiError extends Error {
  constructor(kind, message, retrySeconds = null) {
    super(message);
    this.kind = kind;
    this.retrySeconds = retrySeconds;
    /** Whether another request would fail as well. */
    this.stopsAll = ["key", "busy", "network"].includes(kind);
  }
}

/** The methods the server offers: `[{name, summary}]`, and the name of its default. */
export async function fetchMethods(key) {
  const { methods, default: usual } = await call("v1/methods", { key });
  return { methods, usual: usual ?? methods[0]?.name };
}

/** Compress; `body` is the native form of POST /v1/compress. */
export function compress(body, { key, signal }) {
  return call("v1/compress", { key, signal, body: { ...body, include: ["scores"] } });
}

/** The address of a path of the service, in full. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

async function call(path, { body, key, signal }) {
  const headers = body ? { "Content-Type": "application/json" } : {};
  if (key) headers.Authorization = `Bearer ${key}`;
  const patience = AbortSignal.timeout(PATIENCE_MS);
  const options = {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal: signal ? AbortSignal.any([signal, patience]) : patience,
  };
  let response;
  let answer;
  try {
    response = await fetch(address(path), options);
    answer = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (patience.aborted) throw new ApiError("slow", "The server did not answer within two minutes.");
    throw new ApiError("network", "The server cannot be reached.");
  }
  const value = parse(answer);
  if (!response.ok) throw failure(response, value);
  if (value === null) throw new ApiError("server", "The server's answer is not JSON.");
  return value;
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function failure(response, value) {
  const said = typeof value?.error?.message === "string" ? value.error.message : "";
  const { status } = response;
  const wait = retrySeconds(response.headers.get("Retry-After"));
  if (status === 401 || status === 403) return new ApiError("key", said || "The server wants an API key.");
  if (status === 413) return new ApiError("large", said || "This is more text than the server takes.");
  if (status === 429) return new ApiError("busy", said || "Too many requests for now.", wait ?? 5);
  if (status === 504) return new ApiError("slow", said || "The server gave up: this took too long.");
  if (status === 503) return new ApiError("busy", said || "The server is busy.", wait ?? 5);
  if (status < 500) return new ApiError("input", said || `The server refused the request (status ${status}).`);
  return new ApiError("server", said || `The server failed (status ${status}).`);
}

/** Seconds to wait, from a Retry-After header: a number of seconds, or a date. */
function retrySeconds(header) {
  if (!header) return null;
  const seconds = /^\d+$/.test(header) ? Number(header) : (Date.parse(header) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.min(Math.max(Math.ceil(seconds), 1), 3600) : null;
}
