/** Calls to the service: the key, retries, problems (RFC 9457), server-sent events. */

import { askForKey, currentKey } from "./key.js";

const BASE = new URL("..", import.meta.url);
const LONGEST_WAIT_S = 60;

/** An error whose message is meant for the person who looks at the page. */
export class Problem extends Error {}

export const exampleAddress = (name) => new URL(`examples/${encodeURIComponent(name)}`, BASE).href;

/**
 * `context` is what `Panel.run` hands to its task: `signal` aborts, `notice` tells of a delay.
 * In `query`, a list stands for a parameter that is repeated.
 */
export async function get(path, query = {}, context = {}) {
  return json(await send(path, query, { method: "GET" }, context));
}

export async function post(path, query, file, context) {
  return json(await postForStream(path, query, file, context));
}

export async function postForStream(path, query, file, context) {
  const body = file ? new FormData() : null;
  body?.append("file", file, file.name);
  return send(path, query, { method: "POST", body }, context);
}

/** The file of an example, as if the person had chosen it from disk. */
export async function exampleFile(name, context) {
  const response = await send(`examples/${encodeURIComponent(name)}`, {}, { method: "GET" }, context);
  const blob = await reach(response.blob());
  return new File([blob], name, { type: blob.type });
}

/** Events of a text/event-stream as [name, data]; EventSource could not send a file. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reach(reader.read());
    if (done) return;
    const blocks = (text + value).replaceAll("\r\n", "\n").split("\n\n");
    text = blocks.pop();
    yield* blocks.map(parseEvent).filter(([, data]) => data !== undefined);
  }
}

function parseEvent(block) {
  const fields = (name) =>
    block.split("\n").filter((line) => line.startsWith(`${name}:`))
      .map((line) => line.slice(name.length + 1).trimStart());
  const data = fields("data");
  return [fields("event")[0] ?? "message", data.length ? JSON.parse(data.join("\n")) : undefined];
}

async function send(path, query, options, { signal, notice = () => {} }) {
  const address = addressOf(path, query);
  let waited = false;
  for (;;) {
    const key = currentKey();
    const headers = key ? { Authorization: `Bearer ${key}` } : {};
    const response = await reach(fetch(address, { ...options, headers, signal }));
    if (response.ok) return response;
    if (response.status === 401) {
      if (!(await askForKey(key))) throw new Problem("Without a key the service does not answer this.");
      continue;
    }
    const wait = retryAfter(response);
    if (waited || wait === null || wait > LONGEST_WAIT_S) throw new Problem(await detail(response, wait));
    waited = true;
    notice(`The service is busy. Trying again in ${seconds(wait)}.`);
    await sleep(wait * 1000, signal);
    notice("");
  }
}

function addressOf(path, query) {
  const address = new URL(path, BASE);
  for (const [name, value] of Object.entries(query))
    for (const one of [value].flat()) address.searchParams.append(name, one);
  return address;
}

const json = (response) => reach(response.json());

/** What fails before or while an answer comes in, other than by our own wish, is the network. */
function reach(promise) {
  return promise.catch((error) => {
    throw error.name === "AbortError" ? error : new Problem("The service does not answer.");
  });
}

/** Seconds, or null when the service does not ask to come again. */
function retryAfter(response) {
  const value = response.headers.get("Retry-After");
  if (value === null || ![429, 503].includes(response.status)) return null;
  const wait = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isNaN(wait) ? null : Math.max(0, Math.ceil(wait));
}

async function detail(response, wait) {
  const problem = await response.json().catch(() => ({}));
  const text = problem.detail || problem.title || `The service answered with status ${response.status}.`;
  return wait === null ? text : `${text} Please come again in ${seconds(wait)}.`;
}

const seconds = (wait) => (wait === 1 ? "1 second" : `${wait} seconds`);

function sleep(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
