// Puts a bearer on every request of the conformance suite to the server under test; the suite has no option for it.
// Loaded into it by NODE_OPTIONS=--import.

import http from "node:http";
import { realpathSync } from "node:fs";
import { createRequire, syncBuiltinESMExports } from "node:module";

const origin = process.env.CONFORMANCE_ORIGIN;
const bearer = `Bearer ${process.env.CONFORMANCE_TOKEN}`;

// The suite's own undici: its handlers and those of the one in Node differ by version.
const program = process.argv[1];
if (origin && program) {
  const { Agent, setGlobalDispatcher } = createRequire(realpathSync(program))("undici");

  const named = (headers) =>
    Array.isArray(headers) ? headers.filter((_, index) => index % 2 === 0) : Object.keys(headers ?? {});
  const withBearer = (headers) => {
    if (named(headers).some((name) => String(name).toLowerCase() === "authorization")) return headers;
    return Array.isArray(headers) ? [...headers, "authorization", bearer] : { ...headers, authorization: bearer };
  };

  setGlobalDispatcher(
    new Agent().compose((dispatch) => (options, handler) => {
      const ours = String(options.origin) === origin;
      return dispatch(ours ? { ...options, headers: withBearer(options.headers) } : options, handler);
    }),
  );

  const request = http.request;
  http.request = (...given) => {
    const sent = request(...given);
    const { port } = typeof given[0] === "string" ? new URL(given[0]) : given[0];
    // By the address: what the Host header says is what some scenarios forge.
    if (`http://${sent.host}:${port}` === origin && !sent.hasHeader("authorization")) {
      sent.setHeader("authorization", bearer);
    }
    return sent;
  };
  syncBuiltinESMExports();
}
