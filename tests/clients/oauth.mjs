// An MCP client of the TypeScript SDK with the SDK's own OAuth client in it. It prints the URL that a browser
// should open and reads where the browser was sent to from standard input; each line it prints is a JSON object.
//
//   node --input-type=module --eval "$(cat oauth.mjs)" sdk|client RESOURCE CALLBACK SECONDS
//
// That way packages are looked for in the working folder. sdk is @modelcontextprotocol/sdk, client is
// @modelcontextprotocol/client. Between two calls of a tool it waits SECONDS, so that its access token can expire.

import { createInterface } from 'node:readline';

const [which, resource, callback, seconds] = process.argv.slice(1);

async function library() {
    if (which === 'client') {
        const found = await import('@modelcontextprotocol/client');
        return { ...found, options: { versionNegotiation: { mode: 'auto' } } };
    }
    const [{ Client }, { StreamableHTTPClientTransport }, { UnauthorizedError }] = await Promise.all([
        import('@modelcontextprotocol/sdk/client/index.js'),
        import('@modelcontextprotocol/sdk/client/streamableHttp.js'),
        import('@modelcontextprotocol/sdk/client/auth.js')
    ]);
    return { Client, StreamableHTTPClientTransport, UnauthorizedError, options: {} };
}

const say = line => console.log(JSON.stringify(line));

class Provider {
    kept = { refreshes: 0 };

    redirectUrl = callback;

    clientMetadata = {
        client_name: `TypeScript ${which}`,
        redirect_uris: [callback],
        grant_types: ['authorization_code', 'refresh_token'],
        response_types: ['code'],
        token_endpoint_auth_method: 'none'
    };

    state = () => 'st4te';
    clientInformation = () => this.kept.client;
    saveClientInformation = client => void (this.kept.client = client);
    tokens = () => this.kept.tokens;
    codeVerifier = () => this.kept.verifier;
    saveCodeVerifier = verifier => void (this.kept.verifier = verifier);
    redirectToAuthorization = url => say({ open: url.href });

    saveTokens(tokens) {
        this.kept.refreshes += this.kept.tokens ? 1 : 0;
        this.kept.tokens = tokens;
    }
}

const { Client, StreamableHTTPClientTransport, UnauthorizedError, options } = await library();
const provider = new Provider();
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const connect = async () => {
    const client = new Client({ name: 'test', version: '1' }, options);
    const transport = new StreamableHTTPClientTransport(new URL(resource), { authProvider: provider });
    try {
        await client.connect(transport);
        return client;
    } catch (problem) {
        if (!(problem instanceof UnauthorizedError)) throw problem;
        const answer = new URL((await lines.next()).value).searchParams;
        if (answer.get('state') !== 'st4te') throw new Error('the state is another');
        await transport.finishAuth(which === 'client' ? answer : answer.get('code'));
        return undefined;
    }
};

const client = (await connect()) ?? (await connect());
const echo = text => client.callTool({ name: 'echo', arguments: { text } });
say({ tools: (await client.listTools()).tools.map(tool => tool.name) });
say({ answer: (await echo('first')).content[0].text });
await new Promise(resolve => setTimeout(resolve, Number(seconds) * 1000));
say({ answer: (await echo('second')).content[0].text });
say({ refreshes: provider.kept.refreshes, scope: provider.kept.tokens.scope, client: provider.kept.client.client_id });
await client.close();
process.exit(0);
