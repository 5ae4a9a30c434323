// The REST calls of the page. Errors carry the service's own message and hint.

const BASE = "/api/v1";

export class ApiError extends Error {
  constructor(status, type, message, hint) {
    super(message);
    this.status = status;
    this.type = type;
    this.hint = hint;
  }
}

async function call(method, path, { params, body, signal } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params ?? {})) {
    if (value !== null && value !== undefined && value !== "") query.append(name, value);
  }
  const url = `${BASE}${path}${query.size ? `?${query}` : ""}`;
  const options = { method, signal, headers: { Accept: "application/json" } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(url, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The service can't be reached.", "Is it still running? The page tries again.");
  }
  if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
  const answer = response.status === 204 ? {} : await response.json().catch(() => ({}));
  if (!response.ok) {
    const { type = "error", message = `HTTP ${response.status}`, hint = "" } = answer.error ?? {};
    throw new ApiError(response.status, type, message, hint);
  }
  return answer;
}

export const get = (path, params, signal) => call("GET", path, { params, signal });
export const post = (path, body = {}) => call("POST", path, { body });
export const remove = (path) => call("DELETE", path);

export const runPath = (id) => `/runs/${encodeURIComponent(id)}`;

// Figure names may hold "/", which is part of the path; everything else is encoded.
export const figurePath = (id, name) => `${runPath(id)}/figures/${name.split("/").map(encodeURIComponent).join("/")}`;
