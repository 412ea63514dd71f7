// A real OpenID provider for the tests; it ends when its standard input does.
//
// Settings by the environment: HOST, PORT (0: a free one), ISSUER (default: where it listens), AUDIENCE, TTL (s), ALG (RS256, ES256);
// REDIRECT, SIGNED_OUT (addresses of the client `gateway`, comma lists); TLS_PORT, TLS_CERT, TLS_KEY (serve with TLS, too).
// It prints one line of JSON, {"issuer": ..., "port": ...}, when it is ready.
//
// Below /test/ is what no real provider has:
//   POST /test/rotate               a new key; the old one is gone
//   POST /test/sign {header, claims}  any JWT, signed with the current key (claims.exp etc. as given)
//   POST /test/approve {user_code, user}  what the user does in a browser during a device flow; {user_code, deny: true} refuses
//   POST /test/down {down: true}    answer every request of the protocol with 503
//   GET  /test/requests             how often each path of the protocol was asked for
import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import Provider, { errors } from 'oidc-provider';
import { exportJWK, generateKeyPair, SignJWT } from 'jose';

const env = process.env;
const audience = env.AUDIENCE ?? 'mlaas';
const lifetime = Number(env.TTL ?? 600);
const algorithm = env.ALG ?? 'RS256';
const resource = 'https://mlaas.example.org';
const scopes = 'compute.create compute.read compute.modify compute.cancel storage.read:/';

const users = {
  alice: ['/mlaas/users', '/cms/higgs'],
  bob: ['/other'],
  carol: ['/mlaas/users', '/mlaas/admins'],
  dave: ['/mlaas/users'],
};
const device = 'urn:ietf:params:oauth:grant-type:device_code';
const clients = [
  { client_id: 'mlaas-cli', token_endpoint_auth_method: 'none', grant_types: [device, 'refresh_token', 'password'], redirect_uris: [], response_types: [] },
  { client_id: 'robot', client_secret: 'robot-secret-robot-secret-robot-1', grant_types: ['client_credentials'], redirect_uris: [], response_types: [], groups: ['/mlaas/users'] },
  { client_id: 'agent', client_secret: 'agent-secret-agent-secret-agent-1', grant_types: [device, 'refresh_token'], redirect_uris: [], response_types: [] },
  { client_id: 'gateway', client_secret: 'gateway-secret-gateway-secret-1', grant_types: ['authorization_code', 'refresh_token'],
    redirect_uris: (env.REDIRECT ?? 'http://127.0.0.1:4180/oauth2/callback').split(','), response_types: ['code'],
    post_logout_redirect_uris: (env.SIGNED_OUT ?? '').split(',').filter(Boolean) },
];

const resourceServer = { scope: scopes, audience, accessTokenFormat: 'jwt', jwt: { sign: { alg: algorithm } }, accessTokenTTL: lifetime };

function configuration(jwk) {
  return {
    clients,
    jwks: { keys: [jwk] },
    clientDefaults: { id_token_signed_response_alg: algorithm },
    extraClientMetadata: { properties: ['groups'] },
    scopes: ['openid', 'offline_access', ...scopes.split(' ')],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], profile: ['name', 'preferred_username'], 'wlcg.groups': ['wlcg.groups'] },
    cookies: { keys: ['only-for-tests'] },
    ttl: { DeviceCode: 300, Grant: 3600, RefreshToken: 3600, Session: 3600, Interaction: 600, IdToken: 600, AccessToken: lifetime, AuthorizationCode: 60, ClientCredentials: lifetime },
    features: {
      devInteractions: { enabled: true },
      clientCredentials: { enabled: true },
      deviceFlow: { enabled: true },
      introspection: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: (ctx, client, oneOf) => oneOf ?? resource,
        useGrantedResource: () => true,
        getResourceServerInfo: () => resourceServer,
      },
    },
    async findAccount(ctx, id) {
      const groups = users[id];
      return groups && { accountId: id, claims: () => ({ sub: id, name: id, preferred_username: id, email: `${id}@example.org`, email_verified: true, 'wlcg.groups': groups }) };
    },
    extraTokenClaims(ctx, token) {
      const known = users[token.accountId];
      return { 'wlcg.ver': '1.0', 'wlcg.groups': known ?? token.client?.groups ?? [], sub: token.accountId ?? token.clientId, ...(known && { preferred_username: token.accountId }) };
    },
  };
}

let issuer, provider, callback, key;
let down = false;
let number = 0;
const asked = {};

async function rotate() {
  number += 1;
  const pair = await generateKeyPair(algorithm, { extractable: true });
  const kid = `test-${number}`;
  key = { kid, private: pair.privateKey, public: { ...(await exportJWK(pair.publicKey)), alg: algorithm, use: 'sig', kid } };
  provider = new Provider(issuer, configuration({ ...(await exportJWK(pair.privateKey)), alg: algorithm, use: 'sig', kid }));
  provider.on('server_error', (ctx, error) => console.error(error));
  provider.registerGrantType('password', password, ['username', 'password', 'scope']);
  callback = provider.callback();
  return { kid, public: key.public };
}

// The password grant (RFC 6749, 4.3) is not built in.
async function password(ctx) {
  const { username, password: given, scope } = ctx.oidc.params;
  if (!users[username] || given !== 'test') throw new errors.InvalidGrant('wrong user or password');
  const { client } = ctx.oidc;
  const granted = (scope ?? '').split(' ').filter((name) => scopes.split(' ').includes(name)).join(' ');
  const grant = new provider.Grant({ accountId: username, clientId: client.clientId });
  if (granted) grant.addResourceScope(resource, granted);
  await grant.save();
  const token = new provider.AccessToken({ accountId: username, client, grantId: grant.jti, gty: 'password', scope: granted || undefined });
  token.resourceServer = new provider.ResourceServer(resource, resourceServer);
  ctx.oidc.entity('AccessToken', token);
  ctx.body = { access_token: await token.save(), token_type: 'Bearer', expires_in: token.expiration, scope: granted };
}

async function approve({ user_code: shown, user, deny }) {
  const code = await provider.DeviceCode.findByUserCode(shown.replace(/[^A-Z0-9]/gi, '').toUpperCase());
  if (!code) throw new Error('no such user code');
  if (deny) {
    Object.assign(code, { error: 'access_denied', errorDescription: 'the user said no' });
  } else {
    const grant = new provider.Grant({ accountId: user, clientId: code.clientId });
    grant.addOIDCScope(code.params.scope ?? 'openid');
    grant.addResourceScope(resource, scopes);
    Object.assign(code, { accountId: user, grantId: await grant.save(), scope: code.params.scope, resource: code.params.resource ?? resource, claims: {}, authTime: Math.floor(Date.now() / 1000) });
  }
  await code.save(300);
  return {};
}

const sign = ({ header, claims }) => new SignJWT(claims).setProtectedHeader({ alg: algorithm, kid: key.kid, typ: 'at+jwt', ...header }).sign(key.private).then((token) => ({ token }));

const controls = {
  '/test/rotate': rotate,
  '/test/sign': sign,
  '/test/approve': approve,
  '/test/down': async (body) => { down = body.down; return {}; },
  '/test/requests': async () => asked,
};

async function body(request) {
  const parts = [];
  for await (const part of request) parts.push(part);
  return JSON.parse(Buffer.concat(parts).toString() || '{}');
}

async function answer(request, response) {
  const path = request.url.split('?')[0];
  const control = controls[path];
  if (!control) {
    asked[path] = (asked[path] ?? 0) + 1;
    if (!down) return callback(request, response);
    response.writeHead(503).end();
    return undefined;
  }
  try {
    const answer = JSON.stringify(await control(await body(request)));
    response.writeHead(200, { 'content-type': 'application/json' }).end(answer);
  } catch (error) {
    response.writeHead(400).end(String(error));
  }
  return undefined;
}

if (env.TLS_PORT) https.createServer({ cert: fs.readFileSync(env.TLS_CERT), key: fs.readFileSync(env.TLS_KEY) }, answer).listen(Number(env.TLS_PORT), env.HOST ?? '127.0.0.1');
const server = http.createServer(answer);
server.listen(Number(env.PORT ?? 0), env.HOST ?? '127.0.0.1', async () => {
  const { port } = server.address();
  issuer = env.ISSUER ?? `http://127.0.0.1:${port}`;
  await rotate();
  console.log(JSON.stringify({ issuer, port }));
});
process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
