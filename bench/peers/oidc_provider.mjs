// oidc-provider as it comes, with introspection and client_credentials on: PORT SECRET RESOURCE SCOPE.
// Its own in-memory adapter keeps the last 1,000 to 2,000 entries; this one forgets nothing, so that every
// token that is asked about is live.
import Provider, { errors } from "oidc-provider";

const [port, secret, resource, scope] = process.argv.slice(-4);
const kept = new Map();

class Adapter {
  constructor(model) {
    this.model = model;
  }
  async upsert(id, payload) {
    kept.set(`${this.model}:${id}`, payload);
  }
  async find(id) {
    return kept.get(`${this.model}:${id}`);
  }
  async destroy(id) {
    kept.delete(`${this.model}:${id}`);
  }
}

const client = (client_id) => ({
  client_id,
  client_secret: secret,
  grant_types: ["client_credentials"],
  redirect_uris: [],
  response_types: [],
  scope,
});

const provider = new Provider(`http://127.0.0.1:${port}`, {
  adapter: Adapter,
  clients: [client("machine"), client("tools")],
  features: {
    clientCredentials: { enabled: true },
    devInteractions: { enabled: false },
    introspection: { enabled: true, allowedPolicy: async (ctx, asking) => asking.clientId === "tools" },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: async (ctx, asked) => {
        if (asked !== resource) throw new errors.InvalidTarget();
        return { scope, audience: resource, accessTokenFormat: "opaque" };
      },
    },
  },
  scopes: [scope],
  ttl: { ClientCredentials: 3600 },
});

provider.listen(Number(port), "127.0.0.1");
